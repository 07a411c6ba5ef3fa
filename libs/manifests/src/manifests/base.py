"""What every custom resource has in common."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Final

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, StringConstraints
from pydantic.alias_generators import to_camel
from pydantic_core import CoreSchema, PydanticCustomError

from manifests.cel import VALIDATIONS, Cel, Checked, Schema

API_VERSION: Final = "agentteams.dev/v1alpha1"
DEFAULT_NAMESPACE = "default"

NAME_PATTERN = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
DECIMAL_PATTERN = r"^-?[0-9]{1,6}(\.[0-9]{1,6})?$"
SECRET_NAME_PATTERN = r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$"
# Not "." and "..": in local mode a secret is the file <secrets_dir>/<name>/<key>.
SECRET_KEY_PATTERN = r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,252}$"
HEADER_PATTERN = r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}$"
CURRENCY_PATTERN = r"^[A-Z]{3}$"
PATH_PATTERN = r"^/[A-Za-z0-9._~/-]*$"
TOOL_NAME_PATTERN = r"^[A-Za-z0-9_][A-Za-z0-9_./-]{0,127}$"
MODULE_PATTERN = r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*$"
# Expressions name steps: a '-' would be a minus there.
STEP_NAME_PATTERN = r"^[a-z][A-Za-z0-9_]{0,39}$"
LABEL_KEY_PATTERN = r"^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$"
LABEL_VALUE_PATTERN = r"^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$"
QUANTITY_PATTERN = r"^[0-9]+(\.[0-9]{1,3})?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$"

METADATA_FIELD_PATTERN = r"^[a-z][a-z0-9_]{0,62}$"
# No part may be empty, "." or "..".
FOLDER_PATTERN = (
    r"^([^/\\.][^/\\]*|\.[^/\\.][^/\\]*|\.\.[^/\\]+)(/([^/\\.][^/\\]*|\.[^/\\.][^/\\]*|\.\.[^/\\]+))*$"
)

PATTERN_WORDS = {
    METADATA_FIELD_PATTERN: "must be lower-case letters, digits and '_', a letter first, at most 63",
    FOLDER_PATTERN: "must be a relative path with '/', without empty, '.' or '..' parts",
    NAME_PATTERN: "must be lower-case letters, digits and '-', at most 63, not beginning or ending with '-'",
    DECIMAL_PATTERN: 'must be a decimal in quotes, such as "0.92"',
    STEP_NAME_PATTERN: "must be letters, digits and '_', at most 40, a lower-case letter first",
    SECRET_NAME_PATTERN: "must be a secret's name: lower-case letters, digits, '-' and '.'",
    SECRET_KEY_PATTERN: "must be a key of a secret: letters, digits, '-', '_', '.', and no '.' first",
    HEADER_PATTERN: "must be the name of an HTTP header: letters, digits and '-'",
    CURRENCY_PATTERN: "must be a currency's ISO 4217 code, three capital letters such as USD",
    PATH_PATTERN: "must be a path that begins with '/', such as /mcp",
    TOOL_NAME_PATTERN: "must be a tool's name: letters, digits, '_', '-', '.' and '/', at most 128",
    LABEL_KEY_PATTERN: "must be a label's key, such as topology.kubernetes.io/zone",
    LABEL_VALUE_PATTERN: "must be a label's value: at most 63 letters, digits, '-', '_' and '.'",
    QUANTITY_PATTERN: 'must be a quantity in quotes, such as "500m" or "512Mi"',
    MODULE_PATTERN: "must be the name of a Python module, such as shop_tools",
}
"""What a pattern means, for people."""

Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN), Schema((("maxLength", 63),))]


class Model(BaseModel):
    """Frozen, camelCase in YAML and snake_case in Python, no unknown fields, no silent conversions.

    Attributes:
        cel: The rules between fields (`_rules`) once more, for the API server.
        unchecked: What of `_rules` CEL cannot say, and so the operator finds: a condition, not a refusal.
    """

    cel: ClassVar[tuple[Cel, ...]] = ()
    unchecked: ClassVar[str] = ""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        alias_generator=to_camel,
        populate_by_name=True,
        # `model` and `modelConfigRef` are ours, not pydantic's.
        protected_namespaces=(),
    )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        reference = handler(core_schema)
        schema = handler.resolve_ref_schema(reference)
        if cls.cel:
            schema[VALIDATIONS] = [rule.validation() for rule in cls.cel]
        for name, field in cls.model_fields.items():
            if field.default_factory is not None:
                is_object = isinstance(field.get_default(call_default_factory=True), BaseModel)
                schema["properties"][field.alias or name]["default"] = {} if is_object else None
        return reference


def decimal(minimum: str, maximum: str) -> Checked:
    """A validator: the text is a decimal between the two, both included."""

    def check(value: str) -> str:
        if not Decimal(minimum) <= Decimal(value) <= Decimal(maximum):
            raise PydanticCustomError(
                "decimal_range",
                "must be between {minimum} and {maximum}",
                {"minimum": minimum, "maximum": maximum},
            )
        return value

    low, high = float(minimum), float(maximum)
    message = f"must be between {minimum} and {maximum}"
    return Checked(check, Cel(f"double(self) >= {low} && double(self) <= {high}", message))


_SHORT = Schema((("maxLength", 14),))
Similarity = Annotated[str, StringConstraints(pattern=DECIMAL_PATTERN), _SHORT, decimal("-1", "1")]
Threshold = Annotated[str, StringConstraints(pattern=DECIMAL_PATTERN), _SHORT, decimal("0", "1")]
Temperature = Annotated[str, StringConstraints(pattern=DECIMAL_PATTERN), _SHORT, decimal("0", "2")]
Price = Annotated[str, StringConstraints(pattern=DECIMAL_PATTERN), _SHORT, decimal("0", "100000")]
Cost = Annotated[str, StringConstraints(pattern=DECIMAL_PATTERN), _SHORT, decimal("0", "999999")]
Currency = Annotated[str, StringConstraints(pattern=CURRENCY_PATTERN)]


@dataclass(frozen=True, slots=True)
class Violation:
    """A rule between fields that a manifest breaks. `at` leads from the model that checks to the field."""

    at: tuple[str | int, ...]
    message: str
    fix: str


def refuse(violations: Iterable[Violation]) -> None:
    """Raises one error with all of them, if there are any."""
    found = tuple(violations)
    if found:
        text = "; ".join(f"{dotted(v.at)}: {v.message}; {v.fix}" for v in found)
        # The text goes in as a value: braces in it are not placeholders.
        raise PydanticCustomError("rule", "{text}", {"text": text, "violations": found})


def duplicates(names: Sequence[str], *at: str | int) -> Iterator[Violation]:
    """A violation for each name of a list (field `name` of its items) that came before."""
    seen: dict[str, int] = {}
    for index, name in enumerate(names):
        if name in seen:
            yield Violation(
                (*at, index, "name"),
                f'"{name}" is the name of {dotted(at)}[{seen[name]}] already',
                "give each its own name",
            )
        seen.setdefault(name, index)


def dotted(path: Sequence[str | int]) -> str:
    """('spec', 'members', 1, 'name') -> 'spec.members[1].name'."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else (f".{part}" if text else part)
    return text


class Metadata(Model):
    """Which object it is."""

    name: Name = Field(description="Unique among the objects of its kind in the namespace.")
    namespace: Name = Field(default=DEFAULT_NAMESPACE, description="The tenant that the object belongs to.")
    labels: dict[str, str] = Field(default_factory=dict, description="Free labels, as in Kubernetes.")
    annotations: dict[str, str] = Field(default_factory=dict, description="Free notes, as in Kubernetes.")

    @property
    def full_name(self) -> str:
        """namespace/name."""
        return f"{self.namespace}/{self.name}"


class SharedRef(Model):
    """Refers to an object that its owner may let other namespaces use (spec.allowedNamespaces)."""

    name: Name
    namespace: Name | None = None

    def foreign_to(self, namespace: str) -> bool:
        """Whether it is in another namespace."""
        return self.namespace is not None and self.namespace != namespace

    def of(self, namespace: str) -> str:
        """As an object of that namespace says it: `name`, or `namespace/name` of another one's."""
        return said_in(namespace, self.namespace or namespace, self.name)


class ModelConfigRef(SharedRef):
    """Refers to a ModelConfig."""

    name: Name = Field(description="Name of a ModelConfig.")
    namespace: Name | None = Field(
        default=None,
        description="Its namespace, if that is another one: its spec.allowedNamespaces must allow this one. "
        "Only on a cluster. Default: its own.",
    )


def said_in(namespace: str, owner: str, name: str) -> str:
    """What an object of a namespace calls another: `name`, or `owner/name` of another namespace's."""
    return name if owner == namespace else f"{owner}/{name}"


def owner_and_name(namespace: str, said: str) -> tuple[str, str]:
    """Whose it is, and its name there: `said_in` the other way round."""
    owner, slash, name = said.rpartition("/")
    return (owner, name) if slash else (namespace, said)


def model_resource(said: str) -> str:
    """What services call a model: `models/{model}`, another tenant's `tenants/{tenant}/models/{model}`."""
    owner, slash, name = said.rpartition("/")
    return f"tenants/{owner}/models/{name}" if slash else f"models/{said}"


def model_said(resource: str) -> str:
    """`model_resource` the other way round."""
    return resource.removeprefix("tenants/").replace("/models/", "/").removeprefix("models/")
