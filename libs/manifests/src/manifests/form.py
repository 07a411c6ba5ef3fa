"""A form that an answer must have, as a JSON schema."""

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, model_validator

from manifests.base import Model, Violation, refuse
from manifests.json_schema import schema_problem

JsonSchema = Annotated[
    dict[str, Any], Field(alias="schema", json_schema_extra={"x-kubernetes-preserve-unknown-fields": True})
]
ACCEPTED = "A JSON schema (draft 2020-12, at most 64 KiB, no outside references)."


class Form(Model):
    """Whatever is described by a schema; `field` is what may be left out instead."""

    field: ClassVar[str]
    unchecked: ClassVar = "whether it is a valid JSON schema"
    json_schema: JsonSchema

    @model_validator(mode="after")
    def _rules(self) -> Self:
        refuse(self._violations())
        return self

    def _violations(self) -> Iterator[Violation]:
        problem = schema_problem(self.json_schema)
        if problem:
            yield Violation(("schema",), problem, f"correct it, or leave {self.field} out")
