"""Golden sets that teams are asked by schedule."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class NewGoldenSet:
    """A golden set to store. `payload`: the questions, serialised."""

    team: str
    name: str
    sha256: str
    questions: int
    payload: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenSet:
    """How a team's golden set gets on.

    Attributes:
        turn: Grows with each evaluation that is begun, and that ends.
        lease_expire_time: Of the evaluation that is under way; None: there is none.
        done: Its questions that are done.
        failures: In a row.
        newest: The newest evaluation by schedule, serialised without its questions; empty: there is none.
        former: The newest of another revision, likewise.
    """

    tenant: str
    team: str
    name: str
    sha256: str
    questions: int
    set_time: datetime
    turn: int = 0
    lease_expire_time: datetime | None = None
    done: int = 0
    failures: int = 0
    failure_time: datetime | None = None
    retry_time: datetime | None = None
    failure: str = ""
    newest: bytes = b""
    newest_time: datetime | None = None
    former: bytes = b""
    former_time: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewFailure:
    """Why an evaluation has no result. `failures`: in a row, this one included."""

    message: str
    failures: int
    retry_time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class NewResult:
    """What came of an evaluation.

    Attributes:
        payload: Serialised.
        newest: Likewise, without its questions.
        is_other: It is of another revision than the newest before, which is the former one from now on.
    """

    id: str
    payload: bytes
    newest: bytes
    is_other: bool


class GoldenSetStore(Protocol):
    """Golden sets of teams, and who evaluates them. Errors as of SessionStore."""

    async def set_golden_set(self, tenant: str, new: NewGoldenSet) -> GoldenSet:
        """In place of the former; one with other questions is evaluated anew, the same is left as it is."""
        ...

    async def drop_golden_set(self, tenant: str, team: str) -> None:
        """Takes it away, if there is one. Evaluations stay."""
        ...

    async def golden_set(self, tenant: str, team: str) -> GoldenSet | None:
        """As it is."""
        ...

    async def golden_sets(self, tenant: str, *, after: tuple[str, str], limit: int) -> tuple[GoldenSet, ...]:
        """By tenant and team, behind `after`; `tenant` empty: of every tenant."""
        ...

    async def claim_golden_set(
        self, tenant: str, team: str, *, sha256: str, turn: int, token: str, lease: timedelta
    ) -> bytes | None:
        """The questions, serialised; None: somebody evaluates it or has since, or it is another one."""
        ...

    async def renew_golden_set(
        self, tenant: str, team: str, *, token: str, lease: timedelta, done: int
    ) -> bool:
        """False: the lease is lost. One that has ended is not, until somebody else takes it."""
        ...

    async def end_golden_set(
        self, tenant: str, team: str, *, token: str, end: NewResult | NewFailure
    ) -> GoldenSet | None:
        """Stores how it ended and ends the lease, both or none; None: the lease is lost."""
        ...
