"""What a team knows of the conversation before a question, and of its user."""

from collections.abc import Iterator
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from manifests.base import Model, Violation, refuse
from manifests.cel import Cel

UserMemory = Literal["Off", "ReadOnly", "ReadWrite"]


class SummaryPolicy(Model):
    """When the older part of a conversation is summed up."""

    enabled: bool = Field(
        default=False,
        description="Whether the model is shown the whole conversation, its older part as a summary. "
        "Without, it is shown the last historyRuns questions and nothing of those before them.",
    )
    trigger_tokens: int = Field(
        default=8000,
        ge=200,
        le=1_000_000,
        description="How long the part before the last historyRuns questions may grow before it is summed "
        "up; at most half of what the model can read.",
    )


_MAX_HISTORY_WITH_SUMMARY = 68  # 200 messages come with a run; 64 of them may wait to be summed up


class SessionPolicy(Model):
    """What a team knows of the conversation before a question, and of its user."""

    cel: ClassVar = (
        Cel(
            f"!self.summary.enabled || self.historyRuns <= {_MAX_HISTORY_WITH_SUMMARY}",
            f"at most {_MAX_HISTORY_WITH_SUMMARY} with summary.enabled; lower it, or set summary: "
            "{enabled: false}",
            ".historyRuns",
        ),
    )

    history_runs: int = Field(
        default=3, ge=0, le=100, description="Earlier questions with their answers that the model is shown."
    )
    summary: SummaryPolicy = Field(
        default_factory=SummaryPolicy, description="What becomes of the questions before those."
    )
    retention_days: int | None = Field(
        default=None,
        ge=1,
        le=36_500,
        description="How long a session is kept after its last question. A new value holds for a session "
        "from its next question on. Default: until it is deleted.",
    )
    user_memory: UserMemory = Field(
        default="Off",
        description="What is remembered of a user beyond one session. Off: nothing is looked up. ReadOnly: "
        "memories that fit the question are shown to the model. ReadWrite: it may also remember and forget.",
    )

    @model_validator(mode="after")
    def _rules(self) -> Self:
        refuse(self._violations())
        return self

    def _violations(self) -> Iterator[Violation]:
        if self.summary.enabled and self.history_runs > _MAX_HISTORY_WITH_SUMMARY:
            yield Violation(
                ("historyRuns",),
                f"is {self.history_runs}, at most {_MAX_HISTORY_WITH_SUMMARY} with summary.enabled",
                "lower it, or set summary: {enabled: false}",
            )
