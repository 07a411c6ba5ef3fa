"""The form of a team's answers."""

from collections.abc import Iterator
from typing import Any, Self

from pydantic import Field, model_validator

from manifests.base import Model, Violation, refuse
from manifests.json_schema import schema_problem


class AnswerFormat(Model):
    """What every answer of a team looks like."""

    json_schema: dict[str, Any] = Field(
        alias="schema",
        description="A JSON schema (draft 2020-12, at most 64 KiB, no outside references). The answer is "
        "JSON that satisfies it; a request may bring its own schema instead.",
        json_schema_extra={"x-kubernetes-preserve-unknown-fields": True},
    )

    @model_validator(mode="after")
    def _rules(self) -> Self:
        refuse(self._violations())
        return self

    def _violations(self) -> Iterator[Violation]:
        problem = schema_problem(self.json_schema)
        if problem:
            yield Violation(("schema",), problem, "correct it, or leave spec.answer out")
