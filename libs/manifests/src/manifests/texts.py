"""Texts that manifests take from ConfigMaps: spec.instructionsFrom of an AgentTeam and of its members.

The operator puts the text into the revision, so that a revision is complete by itself: what serves it reads
no ConfigMap.
"""

from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Annotated, Any

from pydantic import Field, StringConstraints

from manifests.base import SECRET_KEY_PATTERN, SECRET_NAME_PATTERN, Model, Violation
from manifests.cel import Cel, Schema

MAX_TEXT = 32_768
_LONG = Schema((("maxLength", 253),))


class ConfigMapKeyRef(Model):
    """Refers to one key of a ConfigMap of the same namespace."""

    name: Annotated[str, StringConstraints(pattern=SECRET_NAME_PATTERN), _LONG] = Field(
        description="Name of the ConfigMap."
    )
    key: Annotated[str, StringConstraints(pattern=SECRET_KEY_PATTERN), _LONG] = Field(
        description="Key within the ConfigMap."
    )


class TextFrom(Model):
    """Where a text comes from."""

    config_map_key_ref: ConfigMapKeyRef = Field(description="A key of a ConfigMap.")


INSTRUCTIONS_RULE = Cel(
    "!has(self.instructions) || !has(self.instructionsFrom)",
    "instructions are there as well; keep one of instructions and instructionsFrom",
    ".instructionsFrom",
)


def one_of_instructions(written: Set[str], source: TextFrom | None) -> Iterator[Violation]:
    """The twin of INSTRUCTIONS_RULE, of the fields that somebody wrote."""
    if source is not None and "instructions" in written:
        message = "instructions are there as well"
        yield Violation(("instructionsFrom",), message, "keep one of instructions and instructionsFrom")


Place = tuple[str | int, ...]


def texts_from(spec: Mapping[str, Any]) -> Iterator[tuple[Place, str, str]]:
    """Of the spec of an AgentTeam as it is written: each instructionsFrom, with its ConfigMap and key."""
    for at, holder in _holders(spec):
        ref = _ref(holder)
        if ref is not None:
            yield (*at, "instructionsFrom", "configMapKeyRef"), str(ref.get("name")), str(ref.get("key"))


def with_texts(spec: Mapping[str, Any], texts: Mapping[tuple[str, str], str]) -> dict[str, Any]:
    """The spec with the texts themselves, by ConfigMap and key. Raises KeyError for one that is missing."""
    made = _told(spec, texts)
    members = spec.get("members")
    if isinstance(members, Sequence):
        made["members"] = [_told(m, texts) if isinstance(m, Mapping) else m for m in members]
    return made


def _holders(spec: Mapping[str, Any]) -> Iterator[tuple[Place, Mapping[str, Any]]]:
    yield ("spec",), spec
    members = spec.get("members")
    for index, member in enumerate(members if isinstance(members, Sequence) else ()):
        if isinstance(member, Mapping):
            yield ("spec", "members", index), member


def _told(holder: Mapping[str, Any], texts: Mapping[tuple[str, str], str]) -> dict[str, Any]:
    ref, made = _ref(holder), dict(holder)
    if ref is not None:
        del made["instructionsFrom"]
        made["instructions"] = texts[str(ref.get("name")), str(ref.get("key"))]
    return made


def _ref(holder: Mapping[str, Any]) -> Mapping[str, Any] | None:
    source = holder.get("instructionsFrom")
    ref = source.get("configMapKeyRef") if isinstance(source, Mapping) else None
    return ref if isinstance(ref, Mapping) else None
