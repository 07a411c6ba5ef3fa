"""What the core needs of the world. Implemented in adapters/, faked in tests."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal, Protocol

from manifests import AgentTeam, KnowledgeBase, ModelConfig
from orchestrator.core.chat import Completion, Prompt, TextPart, Tool
from orchestrator.core.model import (
    Embedding,
    Event,
    HistorySummarized,
    Memory,
    Message,
    RunInput,
    SearchQuery,
    SearchResult,
    StoredEvent,
    TextDelta,
)
from orchestrator.core.structured import Schema
from servicekit.context import Caller
from servicekit.errors import Unavailable


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRow:
    """A run as the session service stores it.

    Attributes:
        state: PENDING while it waits for its turn, RUNNING while it is worked on, WAITING for a person,
            else how it ended.
        attempt: How often somebody began to work on it.
        lost_attempts: How often its owner was lost.
        cancel_requested: Somebody asked it to stop.
        owner_address: Where the process that works on it can be called; may be empty.
    """

    name: str
    team: str
    session: str
    state: str
    last_sequence: int
    user: str
    attempt: int = 1
    lost_attempts: int = 0
    cancel_requested: bool = False
    owner_address: str = ""

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self.state not in ("PENDING", "RUNNING", "WAITING")


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """A stored run. Without `created` it is the run of an earlier call, owned by somebody else."""

    run: RunRow
    created: bool
    fencing_token: int
    history: tuple[Message, ...]
    started: StoredEvent | None
    summary: HistorySummarized | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Acquired:
    """A run that is ours now, whose it is, and what it answers.

    Attributes:
        owner_seen: When the owner that was lost renewed its lease for the last time; None: none was lost.
    """

    run: RunRow
    fencing_token: int
    caller: Caller
    history: tuple[Message, ...] = ()
    input: tuple[Message, ...] = ()
    owner_seen: datetime | None = None
    summary: HistorySummarized | None = None
    inputs: tuple[RunInput, ...] = ()  # what people said that the log does not hold yet


@dataclass(frozen=True, slots=True, kw_only=True)
class Appended:
    """What the store says to an append.

    Attributes:
        stored: The events as they are stored: what followers are shown.
        cancel_requested: Somebody asked the run to stop.
        next_run: The next run of the session, if the events ended this one; ours now.
        parked: The run waits for a person, and is not ours any more.
        inputs: What people said that the log does not hold yet.
    """

    stored: Sequence[StoredEvent]
    cancel_requested: bool = False
    next_run: Acquired | None = None
    parked: bool = False
    inputs: Sequence[RunInput] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewed:
    """Runs that somebody else owns now, runs to stop, and what people said that the logs do not hold yet."""

    lost: Sequence[str] = ()
    cancelled: Sequence[str] = ()
    inputs: Mapping[str, Sequence[RunInput]] = field(default_factory=dict)


BusyPolicy = Literal["REJECT", "ENQUEUE", "INTERRUPT"]
Followed = Sequence[StoredEvent | TextDelta]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunChoice:
    """Which runs to take over: of these teams, of all but these, or of all."""

    teams: tuple[str, ...] = ()
    except_teams: tuple[str, ...] = ()


class SessionLog(Protocol):
    """Sessions, runs and their logs. All calls are made as the current caller."""

    async def begin(
        self,
        *,
        request_id: str,
        team: str,
        session: str,
        messages: Sequence[Message],
        history_messages: int,
        team_revision: str,
        on_busy: BusyPolicy,
        max_active_runs: int,
        answer_schema: Schema | None = None,
        retention: timedelta | None,
    ) -> Begun:
        """Stores a run, under this process' lease unless it waits. Raises as `BeginRun` says."""
        ...

    async def append(
        self, run: str, *, fencing_token: int, events: Sequence[Event], park_until: datetime | None = None
    ) -> Appended:
        """Stores events, all or none; safe to repeat. Raises Conflict with LEASE_LOST: stop.

        With `park_until` the run waits for people from now on, unless some have spoken.
        """
        ...

    async def get(self, run: str) -> RunRow:
        """Returns a run. Raises NotFound."""
        ...

    async def events(self, run: str, *, after: int, wait: timedelta = timedelta(0)) -> list[StoredEvent]:
        """Some events after a sequence, in order; none: there are no more for now.

        Waits for one if there is none and the run has not ended. Raises
        ResourceExhausted (TOO_MANY_FOLLOWERS): ask without waiting.
        """
        ...

    async def session_logs(self, row: RunRow) -> list[list[StoredEvent]]:
        """The logs of the last runs of its session that have ended, newest first; a few, and not endless."""
        ...

    async def renew(self, runs: Sequence[str]) -> Renewed:
        """Renews this process' leases."""
        ...

    async def release(self, runs: Sequence[str]) -> None:
        """Gives leases back: whoever asks next has the runs."""
        ...

    async def request_cancel(self, run: str) -> RunRow:
        """Leaves word that a run is to stop. Raises NotFound, FailedPrecondition (RUN_FINISHED)."""
        ...

    async def provide(self, run: str, said: RunInput, *, user: str) -> RunRow:
        """Stores what a user says to a run that asked for it. Raises as `ProvideRunInput` says."""
        ...

    async def acquire_expired(self, which: RunChoice) -> list[Acquired]:
        """Takes over runs whose leases have expired, of the caller's tenant or of any."""
        ...


class Peers(Protocol):
    """Other orchestrators. Calls are made as the current caller, and never passed on again."""

    def follow(self, address: str, run: str, *, after: int) -> AsyncIterator[Followed]:
        """A run that the other one works on. Raises Unavailable, also if it does not."""
        ...

    async def cancel(self, address: str, run: str) -> None:
        """Stops a run that the other one works on. Raises ServiceError."""
        ...

    async def provide(self, address: str, run: str, said: RunInput) -> None:
        """Tells a run that the other one works on what the caller says. Raises ServiceError."""
        ...


class Knowledge(Protocol):
    """Searches over knowledge bases."""

    async def search(self, query: SearchQuery) -> SearchResult:
        """Never raises for what the store cannot do: that is an outcome. Raises NotFound, Unavailable."""
        ...

    async def revision(self, knowledge_base: str) -> str:
        """What the knowledge base holds now, as searches tell it. Raises ServiceError."""
        ...


class Embedder(Protocol):
    """Queries to vectors."""

    async def embed_query(self, model: str, text: str) -> Embedding:
        """The query's vector by the ModelConfig `model`. Raises ServiceError."""
        ...


class Memories(Protocol):
    """What is remembered of users. All calls are about the current caller, and nobody else."""

    async def search(self, query: str, *, team: str, limit: int) -> Sequence[Memory]:
        """Those that a team may use and that fit the query, best first. Raises ServiceError."""
        ...

    async def add(self, text: str, *, team: str, request_id: str) -> Memory:
        """Remembers, for one team; once for each request id. Raises ServiceError."""
        ...

    async def forget(self, name: str) -> None:
        """Deletes one. Raises NotFound, ServiceError."""
        ...


class NoMemories:
    """Where nobody remembers."""

    async def search(self, query: str, *, team: str, limit: int) -> Sequence[Memory]:
        """See Memories."""
        raise _no_memories()

    async def add(self, text: str, *, team: str, request_id: str) -> Memory:
        """See Memories."""
        raise _no_memories()

    async def forget(self, name: str) -> None:
        """See Memories."""
        raise _no_memories()


def _no_memories() -> Unavailable:
    return Unavailable("there is no service that remembers", reason="DEPENDENCY_UNAVAILABLE")


class ChatModel(Protocol):
    """One model at one endpoint."""

    def stream(
        self,
        messages: Sequence[Prompt],
        *,
        tools: Sequence[Tool],
        must_answer: bool,
        answer_schema: Schema | None = None,
    ) -> AsyncIterator[TextPart | Completion]:
        """Yields pieces of text, then one Completion.

        With `must_answer` the model may not call tools, though they are shown
        to it (the prompt stays the same for its cache). An endpoint that can is
        held to `answer_schema`; others ignore it. Raises Unavailable,
        ResourceExhausted, FailedPrecondition (it refuses the request), Internal
        (no such API), with the reasons MODEL_*.
        """
        ...


class ChatModels(Protocol):
    """The models that manifests name."""

    def lease(self, config: ModelConfig) -> AbstractAsyncContextManager[ChatModel]:
        """The model, for one call. Raises FailedPrecondition, MODEL_REJECTED."""
        ...


class Catalogue(Protocol):
    """The manifests of a namespace."""

    def team(self, namespace: str, name: str) -> AgentTeam | None:
        """The team, or None."""
        ...

    def teams(self, namespace: str) -> Sequence[AgentTeam]:
        """All teams, by name."""
        ...

    def team_problems(self, namespace: str, name: str) -> list[str]:
        """Why the team cannot answer; empty if it can."""
        ...

    def allowed_tenants(self, namespace: str, name: str) -> Sequence[str]:
        """Who in other namespaces may ask the team: names, `*` for all."""
        ...

    def model(self, namespace: str, name: str) -> ModelConfig | None:
        """The ModelConfig, or None."""
        ...

    def knowledge_base(self, namespace: str, name: str) -> KnowledgeBase | None:
        """The KnowledgeBase, or None."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseTimes:
    """How long a lease holds, and how often it is renewed: twice at least before it ends."""

    lease: timedelta = timedelta(seconds=3)
    renew_every: timedelta = timedelta(seconds=1)
