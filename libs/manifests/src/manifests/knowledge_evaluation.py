"""How the quality of a KnowledgeBase is watched."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from manifests.base import Model, Threshold, Violation, refuse
from manifests.cel import Cel
from manifests.config_maps import ConfigMapKeyRef

SCHEDULES = {"@hourly": 3_600, "@daily": 86_400, "@weekly": 604_800}
"""Seconds from one evaluation to the next."""

_ONE_SET, _ONE_SET_FIX = "is there beside goldenSetRef", "remove one of the two"
_THRESHOLD, _THRESHOLD_FIX = "must have at least one score", 'add one, such as recallAt10: "0.9"'


class GoldenSetRef(Model):
    """Where a golden set is."""

    config_map_key_ref: ConfigMapKeyRef = Field(
        description="A key of a ConfigMap with a file as `agentteams evaluate` reads it."
    )


class QualityThresholds(Model):
    """The least scores that are good."""

    cel: ClassVar = (
        Cel("has(self.ndcgAt10) || has(self.recallAt10) || has(self.mrr)", f"{_THRESHOLD}; {_THRESHOLD_FIX}"),
    )

    ndcg_at_10: Threshold | None = Field(
        default=None,
        alias="ndcgAt10",
        description='Are the best documents first? Of the first 10. Decimal in quotes, "0" to "1".',
    )
    recall_at_10: Threshold | None = Field(
        default=None,
        alias="recallAt10",
        description='Part of the relevant documents among the first 10. Decimal in quotes, "0" to "1".',
    )
    mrr: Threshold | None = Field(
        default=None,
        description="1 / rank of the first relevant document among the first 10. Decimal in quotes, "
        '"0" to "1".',
    )

    @model_validator(mode="after")
    def _rules(self) -> Self:
        if self.ndcg_at_10 is None and self.recall_at_10 is None and self.mrr is None:
            refuse([Violation((), _THRESHOLD, _THRESHOLD_FIX)])
        return self


class KnowledgeEvaluation(Model):
    """Queries with the documents that they should find, searched now and then."""

    cel: ClassVar = (
        Cel(
            "!has(self.goldenSet) || self.goldenSet == '' || !has(self.goldenSetRef)",
            f"{_ONE_SET}; {_ONE_SET_FIX}",
            ".goldenSet",
        ),
    )

    golden_set: Annotated[str, StringConstraints(max_length=512)] = Field(
        default="",
        description="Name of a golden set that was set with `agentteams evaluate`: the file's name without "
        "its ending. Default: goldenSetRef, else whichever was set last.",
    )
    golden_set_ref: GoldenSetRef | None = Field(
        default=None, description="Where the golden set is; it replaces the one that is there."
    )
    schedule: Literal["@hourly", "@daily", "@weekly"] = Field(
        default="@daily",
        description="So long after the last evaluation comes the next; a new golden set is measured with at "
        "once.",
    )
    thresholds: QualityThresholds = Field(
        description="The least scores that are good; below one of them QualityDegraded is True."
    )

    @model_validator(mode="after")
    def _rules(self) -> Self:
        if self.golden_set and self.golden_set_ref is not None:
            refuse([Violation(("goldenSet",), _ONE_SET, _ONE_SET_FIX)])
        return self

    @property
    def golden_set_name(self) -> str:
        """What the golden set is called in the retrieval service; empty: any is good."""
        if self.golden_set_ref is None:
            return self.golden_set
        ref = self.golden_set_ref.config_map_key_ref
        return f"{ref.name}/{ref.key}"
