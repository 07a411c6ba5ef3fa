"""The form of a team's answers."""

from typing import ClassVar

from pydantic import Field

from manifests.form import ACCEPTED, Form, JsonSchema


class AnswerFormat(Form):
    """What every answer of a team looks like."""

    field: ClassVar[str] = "spec.answer"
    json_schema: JsonSchema = Field(
        description=f"{ACCEPTED} The answer is JSON that satisfies it; a request may bring its own schema "
        "instead."
    )
