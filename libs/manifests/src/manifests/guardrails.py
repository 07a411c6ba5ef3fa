"""What is looked for in the texts of a run, and what is done about it."""

from collections.abc import Iterator
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from manifests.base import Model, Violation, refuse
from manifests.cel import BY_TYPE, Cel

_PLACES = ("input", "output", "evidence", "tool_results")

GuardrailType = Literal["PII", "PromptInjection"]


class Guardrail(Model):
    """One thing that is looked for."""

    type: GuardrailType = Field(
        description="PII: personal data, such as e-mail addresses, phone numbers, cards, IBANs, IP addresses "
        "and national numbers. PromptInjection: text that gives orders to the model."
    )
    action: Literal["Warn", "Mask", "Block"] = Field(
        description="Warn: an event, nothing else. Mask: what was found is replaced by its kind in brackets. "
        "Block: the run ends (input, output), the chunk is left out, the tool's result is withheld."
    )


class Guardrails(Model):
    """Where it is looked for."""

    cel: ClassVar = (
        Cel(
            "!has(self.output) || self.output.all(g, g.type != 'PromptInjection')",
            "PromptInjection is about what a model reads, not about what it writes; put it into evidence, "
            "toolResults or input",
            ".output",
        ),
    )

    input: tuple[Guardrail, ...] = Field(
        default=(),
        max_length=2,
        description="In the user's messages, before a model or a search sees them.",
        json_schema_extra={**BY_TYPE},
    )
    output: tuple[Guardrail, ...] = Field(
        default=(),
        max_length=1,
        description="In the answer, before anybody sees it; PII only.",
        json_schema_extra={**BY_TYPE},
    )
    evidence: tuple[Guardrail, ...] = Field(
        default=(Guardrail(type="PromptInjection", action="Block"),),
        max_length=2,
        description="In each chunk that a search found. Default: a chunk that gives orders to the model is "
        "left out.",
        json_schema_extra={**BY_TYPE},
    )
    tool_results: tuple[Guardrail, ...] = Field(
        default=(),
        max_length=2,
        description="In what tools return, before a model sees it.",
        json_schema_extra={**BY_TYPE},
    )

    @model_validator(mode="after")
    def _rules(self) -> Self:
        refuse(self._violations())
        return self

    def _violations(self) -> Iterator[Violation]:
        for place in _PLACES:
            name = "toolResults" if place == "tool_results" else place
            entries: tuple[Guardrail, ...] = getattr(self, place)
            types = [entry.type for entry in entries]
            if len(set(types)) < len(types):
                yield Violation((name, len(types) - 1, "type"), f"{types[-1]} is listed twice", "remove one")
        for index, entry in enumerate(self.output):
            if entry.type == "PromptInjection":
                yield Violation(
                    ("output", index, "type"),
                    "PromptInjection is about what a model reads, not about what it writes",
                    "put it into evidence, toolResults or input",
                )
