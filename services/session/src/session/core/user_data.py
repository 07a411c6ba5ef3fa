"""What belongs to one user: forks, memories, export, erasure; and how long it is kept."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from session.core.model import Owner, Run, Session

MAX_FORK_MESSAGES = 20_000  # one statement copies them, in about a second
MAX_MEMORIES = 1_000  # a user's: what a search may look at
MAX_MEMORY_BYTES = 4_096
MAX_QUERY_WORDS = 32
MIN_RETENTION = timedelta(minutes=1)
MAX_RETENTION = timedelta(days=36_525)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionTimes:
    """Ranges of times, each from (inclusive) and to (exclusive); None: no bound."""

    updated_after: datetime | None = None
    updated_before: datetime | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None


ANY_TIME = SessionTimes()


@dataclass(frozen=True, slots=True, kw_only=True)
class NewFork:
    """A session to fork after the message `sequence`. `display_name` empty: as it was."""

    request_id: str
    body_hash: bytes
    session: str
    sequence: int
    display_name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Erased:
    """Rows that were deleted."""

    sessions: int = 0
    messages: int = 0
    runs: int = 0
    run_events: int = 0
    memories: int = 0
    blob_parts: int = 0
    team_evaluations: int = 0

    def __add__(self, other: "Erased") -> "Erased":
        return Erased(
            sessions=self.sessions + other.sessions,
            messages=self.messages + other.messages,
            runs=self.runs + other.runs,
            run_events=self.run_events + other.run_events,
            memories=self.memories + other.memories,
            blob_parts=self.blob_parts + other.blob_parts,
            team_evaluations=self.team_evaluations + other.team_evaluations,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class NewMemory:
    """A memory to add. `team` empty: for every team."""

    request_id: str
    body_hash: bytes
    team: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """One thing to know about a user."""

    id: str
    user: str
    team: str
    text: str
    create_time: datetime


class UserDataStore(Protocol):
    """Copies, lists and deletes what a user has, in bounded steps."""

    async def fork_session(self, owner: Owner, new: NewFork) -> Session:
        """Copies a session's beginning, or returns the session of the first call with the request id.

        Raises:
            NotFound: SESSION_NOT_FOUND.
            InvalidArgument: INVALID_FIELD: it has no such message; REQUEST_ID_REUSED.
        """
        ...

    async def sessions_by_use(
        self, owner: Owner, *, after: tuple[datetime, str] | None, limit: int
    ) -> tuple[Session, ...]:
        """Sessions, last used last, so that one that is used meanwhile comes again instead of never.

        `after` is the place to go on after: (update time, id) of the last one seen.
        """
        ...

    async def runs_of_session(
        self, owner: Owner, session: str, *, after: tuple[datetime, str] | None, limit: int
    ) -> tuple[Run, ...]:
        """Runs of a session, oldest first. `after`: (create time, id) of the last one seen."""
        ...

    async def erase_some(self, owner: Owner) -> Erased:
        """Deletes some of what the owner has, in one transaction; nothing left: all zero.

        Raises:
            FailedPrecondition: SESSION_BUSY: a run is not finished.
        """
        ...


class MemoryStore(Protocol):
    """Memories of users. Ids are bare; what belongs to another owner is as if it did not exist."""

    async def add_memory(self, owner: Owner, new: NewMemory) -> Memory:
        """Adds a memory, or returns the one of the first call with the request id.

        Raises:
            InvalidArgument: REQUEST_ID_REUSED.
            FailedPrecondition: MEMORY_LIMIT_REACHED.
        """
        ...

    async def list_memories(
        self, owner: Owner, *, team: str, before: tuple[datetime, str] | None, limit: int
    ) -> tuple[Memory, ...]:
        """What `team` may use (empty: all), newest first."""
        ...

    async def search_memories(
        self, owner: Owner, *, words: Sequence[str], team: str, limit: int
    ) -> tuple[Memory, ...]:
        """What `team` may use and has one of the words at least, best first."""
        ...

    async def forget_memory(self, owner: Owner, memory: str) -> None:
        """Raises NotFound: MEMORY_NOT_FOUND."""
        ...


class RetentionStore(Protocol):
    """Deletes sessions of every tenant that nobody has used for as long as they are kept."""

    async def sweep(self, *, limit: int) -> tuple[int, int]:
        """Looks at up to `limit` sessions that are due; returns how many, and how many it deleted.

        A session with a run that is not finished stays.
        """
        ...
