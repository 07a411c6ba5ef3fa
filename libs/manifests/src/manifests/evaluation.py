"""How the quality of a team's runs is measured."""

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from manifests.base import Model, ModelConfigRef, Threshold, Violation, refuse
from manifests.cel import Cel
from manifests.knowledge_evaluation import GoldenSetRef

_NEEDS_JUDGE = "is found out by a judge model alone"
_ADD_JUDGE = "add judgeModelConfigRef, or remove the threshold"
_NEEDS_SET = "is found out with a golden set alone"
_ADD_SET = "add goldenSetRef, or remove the threshold"


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

    sources_found: Threshold | None = Field(
        default=None,
        description="Mean share of the expected documents that the searches of the golden set's questions "
        'found. Needs goldenSetRef. Decimal in quotes, "0" to "1". Default: none.',
    )
    facts_present: Threshold | None = Field(
        default=None,
        description="Mean share of the expected facts that the answers to the golden set's questions say. "
        'Needs goldenSetRef. Decimal in quotes, "0" to "1". Default: none.',
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
    ) + tuple(
        Cel(
            f"!has(self.thresholds) || !has(self.thresholds.{field}) || has(self.goldenSetRef)",
            f"{_NEEDS_SET}; {_ADD_SET}",
            ".thresholds",
        )
        for field in ("sourcesFound", "factsPresent")
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

    golden_set_ref: GoldenSetRef | None = Field(
        default=None,
        description="Where questions with known sources and facts are, which the team is asked by schedule: "
        "a file as `agentteams evaluate --team` reads it. Default: none.",
    )
    schedule: Literal["@hourly", "@daily", "@weekly"] = Field(
        default="@daily",
        description="So long after the last time the golden set is asked again; a new golden set and a new "
        "revision of the team are asked at once.",
    )

    @model_validator(mode="after")
    def _rules(self) -> Self:
        refuse(self._violations())
        return self

    def _violations(self) -> Iterator[Violation]:
        judged = (
            ("faithfulness", self.thresholds.faithfulness),
            ("answerRelevance", self.thresholds.answer_relevance),
        )
        asked = (
            ("sourcesFound", self.thresholds.sources_found),
            ("factsPresent", self.thresholds.facts_present),
        )
        for field, value in judged if self.judge_model_config_ref is None else ():
            if value is not None:
                yield Violation(("thresholds", field), _NEEDS_JUDGE, _ADD_JUDGE)
        for field, value in asked if self.golden_set_ref is None else ():
            if value is not None:
                yield Violation(("thresholds", field), _NEEDS_SET, _ADD_SET)

    @property
    def golden_set_name(self) -> str:
        """What people call the golden set; empty: there is none."""
        if self.golden_set_ref is None:
            return ""
        ref = self.golden_set_ref.config_map_key_ref
        return f"{ref.name}/{ref.key}"
