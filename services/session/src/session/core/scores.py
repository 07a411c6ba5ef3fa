"""What was found out about runs and teams, and which runs wait for it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from session.core.model import Lease, Message, Owner

MAX_WAITING_COUNTED = 10_000
MAX_REVISIONS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Scoring:
    """A run that waits to be scored, now the caller's; `attempt`: how often it was anybody's."""

    run: str
    tenant: str
    user: str
    team: str
    request: bytes
    attempt: int
    create_time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """Scores of a run, or their means; None: there is none."""

    faithfulness: float | None = None
    grounding: float | None = None
    retrieval_relevance: float | None = None
    answer_relevance: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewScores:
    """Scores to store.

    Attributes:
        selection: As in ScoringRequest; only sampled runs are part of means.
        scored: There are scores; else the payload says why there are none.
        payload: Serialised.
    """

    run: str
    evaluator: str
    version: str
    selection: int
    scored: bool
    means: Means
    payload: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredScores:
    """What was stored, and of which run."""

    run: str
    evaluator: str
    version: str
    team: str
    team_revision: str
    create_time: datetime
    payload: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionQuality:
    """The scores of one revision's runs; the means are of those that were sampled."""

    team_revision: str
    sampled_runs: int
    suspicious_runs: int
    means: Means
    newest_time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class TeamEvaluation:
    """What a golden set run of a team found. `payload`: serialised."""

    id: str
    team: str
    create_time: datetime
    payload: bytes


class ScoreStore(Protocol):
    """Scores, and the runs that wait for them. Ids are bare. Errors as of SessionStore."""

    async def claim_scorings(
        self, *, lease: Lease, limit: int, tenant: str
    ) -> tuple[tuple[Scoring, ...], int]:
        """Runs that wait, now under the lease, and how many are left (up to MAX_WAITING_COUNTED).

        `tenant`: only this one's; empty: every tenant's.
        """
        ...

    async def put_scores(self, owner: Owner, new: NewScores) -> StoredScores:
        """Stores scores, or returns those of the first call; the run does not wait any more.

        Raises:
            NotFound: RUN_NOT_FOUND.
        """
        ...

    async def scores_of_run(self, owner: Owner, run: str) -> tuple[StoredScores | None, bool]:
        """The newest, and whether some may still come.

        Raises:
            NotFound: RUN_NOT_FOUND.
        """
        ...

    async def scores_of_answers(self, owner: Owner, found: Sequence[Message]) -> Mapping[int, StoredScores]:
        """The newest scores of those messages of a session that are scored answers, by their sequence."""
        ...

    async def all_scores_of_run(self, owner: Owner, run: str) -> tuple[StoredScores, ...]:
        """Of every evaluator and version, oldest first."""
        ...

    async def list_scores(
        self, owner: Owner, *, team: str, before: tuple[datetime, str] | None, limit: int
    ) -> tuple[StoredScores, ...]:
        """Of the owner's runs (of `team` unless empty), newest first.

        `before`: (create time, `run/evaluator/version`) of the last one seen.
        """
        ...

    async def quality(
        self, tenant: str, user: str | None, team: str, *, window: timedelta
    ) -> tuple[RevisionQuality, ...]:
        """By revision, the one with the newest score first. `user` None: everybody's runs."""
        ...

    async def put_evaluation(
        self, owner: Owner, *, evaluation: str, team: str, payload: bytes
    ) -> TeamEvaluation:
        """Stores an evaluation, or returns that of the first call with its id."""
        ...

    async def list_evaluations(
        self, owner: Owner, *, team: str, before: tuple[datetime, str] | None, limit: int
    ) -> tuple[TeamEvaluation, ...]:
        """Newest first; `team` empty: of all. `before`: (create time, id) of the last one seen."""
        ...
