"""The quality of a knowledge base: when it is measured again, and what the newest scores mean. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import IntEnum
from typing import Protocol

from retrieval.core.golden import Evaluation
from retrieval.core.model import EvaluationPolicy
from servicekit.schedules import TOLERATED_FAILURES, Schedule

METRICS = {"ndcg_at_10": "nDCG@10", "recall_at_10": "recall@10", "mrr_at_10": "MRR@10"}
"""Scores that can have a threshold: fields of `Evaluation`, and how people call them."""

# Scores say little of a knowledge base of which so much was indexed since.
_OUTDATED_PART = 0.1
# Documents that come one by one are not measured one by one.
_APART = timedelta(minutes=15)


class QualityState(IntEnum):
    """What is known; the numbers are those of the proto file."""

    UNKNOWN = 1
    GOOD = 2
    DEGRADED = 3


class QualityReason(IntEnum):
    """Why it is so; the numbers are those of the proto file."""

    ABOVE_THRESHOLDS = 1
    BELOW_THRESHOLDS = 2
    NO_GOLDEN_SET = 3
    NOT_EVALUATED = 4
    EVALUATION_FAILED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortfall:
    """A score that is lower than it must be."""

    metric: str
    value: float
    threshold: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """A knowledge base whose quality is watched.

    Attributes:
        golden_set: Name of the one that it has; None: it has none.
        newest: Newest scores of that golden set in the knowledge base's own search mode, however they came.
        changed: Documents that are READY and were indexed since then.
        ready: All documents that are READY; 0 if none was indexed since.
    """

    tenant: str
    knowledge_base: str
    policy: EvaluationPolicy
    golden_set: str | None = None
    golden_set_sha256: str = ""
    schedule: Schedule = field(default_factory=Schedule)
    newest: Evaluation | None = None
    changed: int = 0
    ready: int = 0

    @property
    def outdated(self) -> bool:
        """Whether much of it was indexed since the newest scores. Deletions alone do not count."""
        return self.changed > 0 and self.changed >= _OUTDATED_PART * self.ready

    @property
    def has_golden_set(self) -> bool:
        """Whether it has the one that it wants."""
        wanted = self.policy.golden_set
        return self.golden_set is not None and (not wanted or wanted == self.golden_set)

    @property
    def failures(self) -> int:
        """In a row since the newest scores."""
        return self.schedule.failures_since(self._newest_time)

    def due(self, *, at_once: datetime) -> datetime | None:
        """When it is to be evaluated; None: not without another golden set."""
        if not self.has_golden_set:
            return None
        interval = timedelta(seconds=self.policy.interval_s)
        if self.outdated:
            interval = min(interval, _APART)
        return self.schedule.due(self._newest_time, interval=interval, at_once=at_once)

    @property
    def _newest_time(self) -> datetime | None:
        return None if self.newest is None else self.newest.finish_time


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """What is known of the quality of a knowledge base.

    Attributes:
        message: Why, for people, with the fix.
        newest: See `Watched`.
        next_time: Of the next evaluation; None: not before there is a golden set.
    """

    state: QualityState
    reason: QualityReason
    message: str
    newest: Evaluation | None = None
    shortfalls: tuple[Shortfall, ...] = ()
    golden_set: str = ""
    golden_set_sha256: str = ""
    next_time: datetime | None = None


def quality_of(watched: Watched, *, now: datetime) -> Quality:
    """What the newest scores mean."""
    newest = watched.newest
    state, reason, message, shortfalls = _judged(watched)
    due = watched.due(at_once=now)
    return Quality(
        state=state,
        reason=reason,
        message=message,
        newest=newest,
        shortfalls=shortfalls,
        golden_set=watched.golden_set or "",
        golden_set_sha256=watched.golden_set_sha256,
        next_time=None if due is None else max(due, now),
    )


def shortfalls_of(policy: EvaluationPolicy, evaluation: Evaluation) -> tuple[Shortfall, ...]:
    """The scores that are below their thresholds."""
    found = []
    for metric, threshold in policy.thresholds.items():
        value = float(getattr(evaluation, metric))
        if value < threshold:
            found.append(Shortfall(metric=metric, value=value, threshold=threshold))
    return tuple(found)


def _judged(watched: Watched) -> tuple[QualityState, QualityReason, str, tuple[Shortfall, ...]]:
    newest, failures, policy = watched.newest, watched.failures, watched.policy
    if not watched.has_golden_set:
        return QualityState.UNKNOWN, QualityReason.NO_GOLDEN_SET, _no_golden_set(watched), ()
    if failures > TOLERATED_FAILURES or (newest is None and failures):
        message = f"it could not be evaluated, {failures} times in a row: {watched.schedule.message}"
        return QualityState.UNKNOWN, QualityReason.EVALUATION_FAILED, message, ()
    if newest is None:
        message = "it was not evaluated with this golden set yet; that is done as soon as documents are READY"
        return QualityState.UNKNOWN, QualityReason.NOT_EVALUATED, message, ()
    shortfalls = shortfalls_of(policy, newest)
    if shortfalls:
        return QualityState.DEGRADED, QualityReason.BELOW_THRESHOLDS, _too_low(shortfalls, newest), shortfalls
    scores = [_score(metric, getattr(newest, metric)) for metric in policy.thresholds]
    return QualityState.GOOD, QualityReason.ABOVE_THRESHOLDS, ", ".join(scores), ()


def _no_golden_set(watched: Watched) -> str:
    wanted = watched.policy.golden_set
    fix = "set one with `agentteams evaluate KB --golden FILE`, SetGoldenSet, or goldenSetRef of the manifest"
    if watched.golden_set is None:
        return f"it has no golden set; {fix}"
    return f'its golden set is "{watched.golden_set}", not "{wanted}"; {fix}'


def _too_low(shortfalls: Sequence[Shortfall], newest: Evaluation) -> str:
    text = ", ".join(
        f"{_score(one.metric, one.value)}, below its threshold {one.threshold:g}" for one in shortfalls
    )
    if newest.missing_documents:
        text += f"; {newest.missing_documents} documents that should be found are not there or not READY"
    if newest.degraded:
        text += f"; {newest.degraded} of {newest.queries} searches were degraded"
    return text


def _score(metric: str, value: float) -> str:
    """Rounded down: 0.89999 must not read as the 0.9 that it is below."""
    return f"{METRICS[metric]} is {int(value * 10_000) / 10_000:.4f}"


class QualityStore(Protocol):
    """Which knowledge bases are watched, and their schedules. Raises Unavailable."""

    async def watched(self, *, after: tuple[str, str], limit: int) -> list[Watched]:
        """Those of all tenants by tenant and id, behind `after`."""
        ...

    async def of(self, tenant: str, knowledge_bases: Sequence[str]) -> dict[str, Watched]:
        """By id; those that are not watched are left out."""
        ...

    async def claim(self, watched: Watched, *, lease: timedelta, now: datetime) -> str | None:
        """A token, unless another process has it or its schedule has moved on since."""
        ...

    async def renew(self, watched: Watched, token: str, *, lease: timedelta, now: datetime) -> bool:
        """False if the lease is lost."""
        ...

    async def finish(
        self, watched: Watched, token: str, evaluations: Sequence[Evaluation], *, now: datetime
    ) -> bool:
        """Stores the scores and ends the lease, both or none; False if it was lost."""
        ...

    async def fail(
        self, watched: Watched, token: str, message: str, *, retry: datetime, now: datetime
    ) -> bool:
        """Counts one more of `watched.failures` and ends the lease; False if it was lost."""
        ...
