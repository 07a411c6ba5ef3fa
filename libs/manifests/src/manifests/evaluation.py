"""How the quality of a team's runs is measured."""

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Self

from pydantic import Field, model_validator

from manifests.base import Model, ModelConfigRef, Threshold, Violation, refuse
from manifests.cel import Cel

_NEEDS_JUDGE = "is found out by a judge model alone"
_ADD_JUDGE = "add judgeModelConfigRef, or remove the threshold"


class EvaluationThresholds(Model):
    """Scores that a run should reach; those below are named with the run, and counted."""

    faithfulness: Threshold | None = Field(
        default=None,
        description="Share of the answer's claims that the evidence supports. Needs a judge. Decimal in "
        'quotes, "0" to "1". Default: none.',
    )
    grounding: Threshold | None = Field(
        default=None,
        description='How much claims resemble the evidence. Decimal in quotes, "0" to "1". Default: none.',
    )
    retrieval_relevance: Threshold | None = Field(
        default=None,
        description="Mean relevance of the retrieved chunks to their queries. Decimal in quotes, "
        '"0" to "1". Default: none.',
    )
    answer_relevance: Threshold | None = Field(
        default=None,
        description='Whether the answer is about the question. Needs a judge. Decimal in quotes, "0" to "1". '
        "Default: none.",
    )

    def below(self, scores: Sequence[tuple[str, float | None]]) -> list[str]:
        """The names (of fields here) whose scores are below their thresholds."""
        limits: dict[str, Any] = {name: getattr(self, name) for name, _ in scores}
        return [
            name
            for name, score in scores
            if score is not None and limits[name] is not None and score < float(limits[name])
        ]


class Evaluation(Model):
    """Some runs are scored after they have ended; nobody waits for it."""

    cel: ClassVar = tuple(
        Cel(
            f"!has(self.thresholds) || !has(self.thresholds.{field}) || has(self.judgeModelConfigRef)",
            f"{_NEEDS_JUDGE}; {_ADD_JUDGE}",
            ".thresholds",
        )
        for field in ("faithfulness", "answerRelevance")
    )

    sample_percent: int = Field(
        default=5, ge=0, le=100, description="Which share of the runs is scored, whatever they look like."
    )
    score_suspicious: bool = Field(
        default=True,
        description="Score also runs with a sign that something is wrong: searches that found nothing or "
        "failed, weak evidence, answers without citations, guardrails that found something, slow runs.",
    )
    judge_model_config_ref: ModelConfigRef | None = Field(
        default=None,
        description="A ModelConfig of type Chat that says whether evidence supports a claim. Default: none; "
        "only the resemblance of claims and evidence is measured (grounding).",
    )
    thresholds: EvaluationThresholds = Field(
        default_factory=EvaluationThresholds, description="Scores that a run should reach."
    )
    max_judge_calls_per_run: int = Field(
        default=40, ge=1, le=1000, description="What is beyond it stays unchecked, and says so."
    )

    @model_validator(mode="after")
    def _rules(self) -> Self:
        refuse(self._violations())
        return self

    def _violations(self) -> Iterator[Violation]:
        if self.judge_model_config_ref is not None:
            return
        for field, value in (
            ("faithfulness", self.thresholds.faithfulness),
            ("answerRelevance", self.thresholds.answer_relevance),
        ):
            if value is not None:
                yield Violation(("thresholds", field), _NEEDS_JUDGE, _ADD_JUDGE)
