"""Who in other namespaces may use an object. By the owner: a reference alone opens nothing."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from manifests.base import Model, Violation, refuse
from manifests.cel import Cel
from manifests.runtime import LabelKey, LabelValue


class NamespaceSelector(Model):
    """Namespaces by their labels."""

    match_labels: dict[LabelKey, LabelValue] = Field(
        min_length=1, max_length=16, description="Labels that a Namespace must all have."
    )


class AllowedNamespaces(Model):
    """From which namespaces an object may be used."""

    cel: ClassVar = (
        Cel(
            "(self.from == 'Selector') == has(self.selector)",
            "goes with from: Selector, and only there; add it, or change from",
            ".selector",
        ),
    )

    from_: Literal["Same", "All", "Selector"] = Field(
        default="Same",
        alias="from",
        description="Same: only its own. All: every namespace. Selector: those with certain labels.",
    )
    selector: NamespaceSelector | None = Field(default=None, description="With from: Selector: which.")

    @model_validator(mode="after")
    def _rules(self) -> Self:
        refuse(self._violations())
        return self

    def _violations(self) -> Iterator[Violation]:
        if (self.from_ == "Selector") != (self.selector is not None):
            message = "goes with from: Selector, and only there"
            yield Violation(("selector",), message, "add it, or change from")


EVERYONE = "*"
"""Of a list of tenants: all of them."""


def not_permitted(kind: str, owner: str, name: str, namespace: str) -> str:
    """The same words whether it is there or not: else one could try names."""
    return (
        f'{kind} "{name}" of namespace "{owner}" is not there, or does not allow namespace "{namespace}"; '
        "its owner allows it by spec.allowedNamespaces, such as {from: All}"
    )


def permits(allowed: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether another namespace with these labels may; `allowed` as it is written in a valid spec."""
    match allowed.get("from", "Same"):
        case "All":
            return True
        case "Selector":
            wanted = (allowed.get("selector") or {}).get("matchLabels") or {}
            return bool(wanted) and all(labels.get(key) == value for key, value in wanted.items())
        case _:
            return False
