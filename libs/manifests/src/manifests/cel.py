"""What the API server is told of our rules: CEL, declared beside the Python that says the same.

A rule stands twice, since a manifest is read twice: by the loader (a folder, with lines and all values in
the message) and by the API server (`kubectl apply`). `tests/integration/test_operator_refusals.py` feeds both
the same wrong manifests.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import AfterValidator, GetJsonSchemaHandler
from pydantic_core import CoreSchema

VALIDATIONS: Final = "x-kubernetes-validations"


@dataclass(frozen=True, slots=True)
class Cel:
    """A rule as the API server has it. `self` is the object or the value that it stands beside.

    Attributes:
        rule: CEL; true means valid. With `oldSelf` it holds for updates only.
        message: What is wrong and the fix, as in a Violation: "message; fix".
        at: The field that is named in a refusal, from the object on, such as `.url`. An item of a list
            cannot be named, only the list.
    """

    rule: str
    message: str
    at: str = ""

    def validation(self) -> dict[str, str]:
        """As an item of x-kubernetes-validations."""
        told = {"rule": self.rule, "message": self.message}
        return told | ({"fieldPath": self.at} if self.at else {})

    def __get_pydantic_json_schema__(
        self, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        schema = handler(core_schema)
        schema[VALIDATIONS] = [*schema.get(VALIDATIONS, ()), self.validation()]
        return schema


@dataclass(frozen=True, slots=True)
class Schema:
    """Keywords for the API server's schema that pydantic does not need, in an Annotated type."""

    keywords: tuple[tuple[str, Any], ...]

    def __get_pydantic_json_schema__(
        self, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {**handler(core_schema), **dict(self.keywords)}


@dataclass(frozen=True, slots=True)
class Checked(AfterValidator):
    """A function that checks a value, with its twin in CEL."""

    cel: Cel = Cel("true", "")

    def __get_pydantic_json_schema__(
        self, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return self.cel.__get_pydantic_json_schema__(core_schema, handler)


OPEN: Final[Mapping[str, Any]] = {"x-kubernetes-preserve-unknown-fields": True}
"""For `json_schema_extra`: whatever is there is kept, and not looked at."""
BY_NAME: Final[Mapping[str, Any]] = {
    "x-kubernetes-list-type": "map",
    "x-kubernetes-list-map-keys": ["name"],
}
"""For `json_schema_extra`: a list whose items have each their own `name`."""
BY_TYPE: Final[Mapping[str, Any]] = {
    "x-kubernetes-list-type": "map",
    "x-kubernetes-list-map-keys": ["type"],
}
"""For `json_schema_extra`: a list whose items have each their own `type`."""
SET: Final[Mapping[str, Any]] = {"x-kubernetes-list-type": "set"}
"""For `json_schema_extra`: a list that has nothing twice."""
