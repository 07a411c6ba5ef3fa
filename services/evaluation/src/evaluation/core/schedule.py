"""Golden sets that teams are asked by schedule: when they are due, and what the newest scores mean. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal, Protocol

from evaluation.core.golden import Evaluation, Question
from servicekit.schedules import TOLERATED_FAILURES, Schedule

SHARES = ("sources_found", "facts_present", "faithfulness", "grounding")
"""Means of an evaluation: fields of `Result`."""
State = Literal["GOOD", "DEGRADED", "UNKNOWN"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenPolicy:
    """What a team's manifest says of its golden set.

    Attributes:
        revision: The revision that answers now.
        thresholds: Least means that are good, by names of SHARES.
    """

    interval: timedelta
    revision: str
    thresholds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Newest:
    """The newest evaluation by schedule; a mean that there is none of is missing."""

    revision: str
    time: datetime
    means: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenSet:
    """A team's golden set, and how it gets on.

    Attributes:
        newest: Of these questions; None: they were not asked yet.
    """

    tenant: str
    team: str
    sha256: str
    schedule: Schedule = field(default_factory=Schedule)
    newest: Newest | None = None

    @property
    def failures(self) -> int:
        """In a row since the newest scores."""
        return self.schedule.failures_since(None if self.newest is None else self.newest.time)

    def due(self, policy: GoldenPolicy, *, at_once: datetime) -> datetime:
        """When it is to be asked: at once also of a revision that was not asked yet."""
        newest = self.newest
        # What another revision has answered says nothing of this one, unless asking it fails.
        of_this = newest is not None and newest.revision == policy.revision
        if self.failures or (newest is not None and of_this):
            time = None if newest is None else newest.time
            return self.schedule.due(time, interval=policy.interval, at_once=at_once)
        return at_once

    def state(self, policy: GoldenPolicy) -> State:
        """Whether the newest scores are what the team's thresholds want."""
        newest = self.newest
        if newest is None or newest.revision != policy.revision or self.failures > TOLERATED_FAILURES:
            return "UNKNOWN"
        if any(newest.means.get(name, 1.0) < least for name, least in policy.thresholds.items()):
            return "DEGRADED"
        return "GOOD" if policy.thresholds.keys() <= newest.means.keys() else "UNKNOWN"


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """An evaluation that is this process'."""

    token: str
    questions: Sequence[Question]


class GoldenSets(Protocol):
    """Golden sets, in the session service. Raises ServiceError."""

    async def all(self) -> Sequence[GoldenSet]:
        """Of every tenant. On nobody's behalf."""
        ...

    async def claim(self, one: GoldenSet, *, lease: timedelta) -> Claim | None:
        """None: another process has it, or has had it since."""
        ...

    async def renew(self, one: GoldenSet, token: str, *, lease: timedelta, done: int) -> bool:
        """False: the lease is lost."""
        ...

    async def finish(self, one: GoldenSet, token: str, evaluation: Evaluation) -> bool:
        """Stores the scores and ends the lease, both or none; False: it was lost."""
        ...

    async def fail(self, one: GoldenSet, token: str, message: str, *, retry: datetime) -> bool:
        """Counts one more of `failures` and ends the lease; False: it was lost."""
        ...

    async def drop(self, one: GoldenSet) -> None:
        """Nobody wants it any more."""
        ...


class GoldenTeams(Protocol):
    """What the manifests say now."""

    def golden(self, tenant: str, team: str) -> GoldenPolicy | None:
        """None: the team is not there, or is not asked by schedule."""
        ...
