"""What is kept. Protobuf stops at the servicer, SQL at the adapters.

Bytes (`payload`, `citations`, `summary`, `status`) are serialised messages
that the store keeps and returns as they are; it never looks inside.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import IntEnum


class RunState(IntEnum):
    """Where a run stands; the numbers are those of the contract and of the rows."""

    PENDING = 1
    RUNNING = 2
    SUCCEEDED = 3
    FAILED = 4
    CANCELLED = 5
    WAITING = 6

    @property
    def terminal(self) -> bool:
        """Whether nothing can happen any more."""
        return RunState.SUCCEEDED <= self <= RunState.CANCELLED


class BusyPolicy(IntEnum):
    """What becomes of a question of a busy session; the numbers are those of the contract."""

    REJECT = 1
    ENQUEUE = 2
    INTERRUPT = 3


class Role(IntEnum):
    """Who speaks; the numbers are those of the contract and of the rows."""

    SYSTEM = 1
    USER = 2
    ASSISTANT = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """Whose rows a call may see. Every statement filters by both."""

    tenant: str
    user: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A conversation of one user with one team."""

    id: str
    team: str
    display_name: str
    create_time: datetime
    update_time: datetime
    message_count: int
    user: str
    retention: timedelta | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewMessage:
    """A message to store. `citations`: a serialised Message with nothing else in it."""

    role: Role
    content: str
    citations: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A stored message; its sequence is 1-based and gapless, and is its id."""

    session: str
    sequence: int
    role: Role
    content: str
    run: str
    create_time: datetime
    citations: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One question to a team.

    Attributes:
        attempt: How often somebody began to work on it.
        lost_attempts: How often its owner was lost.
        cancel_requested: Somebody asked it to stop.
        owner_address: Where its owner can be called; empty unless RUNNING.
        wait_expire_time: Until when it waits for a person; None unless WAITING.
    """

    id: str
    tenant: str
    user: str
    team: str
    session: str
    state: RunState
    create_time: datetime
    end_time: datetime | None
    last_sequence: int
    summary: bytes
    status: bytes
    attempt: int
    lost_attempts: int
    cancel_requested: bool
    owner_address: str
    wait_expire_time: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewScoring:
    """A run that ends is to be scored. `priority`: the smallest first. `request`: serialised."""

    priority: int
    request: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnd:
    """How a run ended.

    Attributes:
        state: SUCCEEDED, FAILED or CANCELLED.
        status: Serialised, empty when absent.
        summary: Serialised.
        saved: Called once, when the row is about to be written: the event and its
            summary, with the time that storing took until then. None: as they are.
        scoring: The run waits to be scored from then on; None: it does not.
    """

    state: RunState
    status: bytes
    summary: bytes
    saved: Callable[[], tuple[bytes, bytes]] | None = None
    scoring: NewScoring | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One step of a run: what the store looks at, and the whole as bytes."""

    sequence: int
    kind: str
    member: str
    create_time: datetime
    payload: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class InputRequest:
    """What a run asks of a person. `body`: serialised, for whoever checks the answer."""

    call_id: str
    body: bytes
    expire_time: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewInput:
    """What a person says. `body`: serialised, the same for the same words."""

    call_id: str
    body: bytes
    user: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInput:
    """What a person has said, as it is stored."""

    body: bytes
    user: str
    create_time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What the messages of a session up to one say in short."""

    text: str
    through_sequence: int


NO_SUMMARY = Summary(text="", through_sequence=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEvent:
    """An event to append, with what it means for the session and the run.

    Attributes:
        event: The event.
        answer: It becomes a message of the session.
        end: The run has ended.
        asks: A person is asked.
        told: The tool call for which the log now holds what a person said.
        summary: The session's summary from now on, unless it has one that covers more.
    """

    event: Event
    answer: NewMessage | None = None
    end: RunEnd | None = None
    asks: InputRequest | None = None
    told: str = ""
    summary: Summary | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSession:
    """A session to create. `body_hash` tells a repeated request from another one."""

    request_id: str
    body_hash: bytes
    team: str
    display_name: str
    retention: timedelta | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """Who works on a run, and for how long unless renewed.

    Attributes:
        owner: A process, unlike any other.
        duration: From now.
        address: Where others can call it, as `host:port`; empty: nowhere.
    """

    owner: str
    duration: timedelta
    address: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRun:
    """A run to begin.

    Attributes:
        request_id: Made once by the client for this question.
        body_hash: Tells a repeated request from another one with the same id.
        team: The team that answers.
        team_revision: Stored with the run.
        session: The session's id; empty: a new one.
        title: Display name for a session that has none yet.
        input: Messages to store first; the last is the question.
        lease: The caller's.
        history_messages: How many earlier messages to return.
        on_busy: What to do while another run of the session is not finished.
        retention: How long the session is kept; None: as before.
        max_active_runs: How many runs of the team may run then, this one included; 0: any number.
        answer_schema: Serialised; empty: none.
        trace: Serialised; where the run's spans belong.
    """

    request_id: str
    body_hash: bytes
    team: str
    team_revision: str
    session: str
    title: str
    input: tuple[NewMessage, ...]
    lease: Lease
    history_messages: int
    on_busy: BusyPolicy = BusyPolicy.ENQUEUE
    retention: timedelta | None = None
    max_active_runs: int = 0
    answer_schema: bytes = b""
    trace: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class BegunRun:
    """A run that was begun, or the one of the first call with the request id.

    Attributes:
        run: The run.
        created: False: the request id was known.
        fencing_token: Proves the lease; 0 unless created, and while the run waits.
        history: The messages before the input, oldest first; none while it waits.
        started: The log's first event; None unless created, and while it waits.
        summary: Of the session's older messages.
    """

    run: Run
    created: bool
    fencing_token: int
    history: tuple[Message, ...]
    started: Event | None = None
    summary: Summary = NO_SUMMARY


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFilter:
    """Which runs an orchestrator takes over.

    Attributes:
        tenant: Only this one's; empty: every tenant's.
        teams: Only of these; empty: of all.
        except_teams: None of these.
    """

    tenant: str = ""
    teams: frozenset[str] = frozenset()
    except_teams: frozenset[str] = frozenset()


EVERY_RUN = RunFilter()


@dataclass(frozen=True, slots=True, kw_only=True)
class AcquiredRun:
    """A run that changed its owner, with all that the new owner needs.

    Attributes:
        run: The run.
        fencing_token: The new owner's.
        history: The messages before the input, oldest first.
        input: The messages that it answers.
        said: What people said that the log does not hold yet.
        answer_schema: As in NewRun.
        summary: Of the session's older messages.
        owner_seen: When the owner that was lost renewed its lease for the last time; None if none was.
    """

    run: Run
    fencing_token: int
    history: tuple[Message, ...]
    input: tuple[Message, ...]
    said: tuple[RunInput, ...] = ()
    answer_schema: bytes = b""
    summary: Summary = NO_SUMMARY
    owner_seen: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AppendedEvents:
    """What an append did.

    Attributes:
        last_sequence: Of the last stored event.
        cancel_requested: Somebody asked the run to stop.
        next_run: The next one of the session, now under the lease of the run
            that the events ended; None if none waited.
        run_finished: The run's last event as it is stored; None if it has not ended.
        parked: The run is WAITING, and nobody's.
        said: What people said that the log does not hold yet.
    """

    last_sequence: int
    cancel_requested: bool
    next_run: AcquiredRun | None = None
    run_finished: Event | None = None
    parked: bool = False
    said: tuple[RunInput, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewedLeases:
    """What has become of leases.

    Attributes:
        lost: They are not the caller's.
        cancelled: Somebody asked to stop.
        said: By run, what people said that its log does not hold yet.
    """

    lost: frozenset[str]
    cancelled: frozenset[str]
    said: Mapping[str, tuple[RunInput, ...]] = field(default_factory=dict)


MAX_WAITING_RUNS = 16  # in a session, besides the one that is worked on


def back_off(lost_attempts: int) -> timedelta:
    """How long a run whose owners were lost so often (this time not counted) stays without one."""
    return timedelta(seconds=min(2**lost_attempts, 60)) if lost_attempts else timedelta(0)


TITLE_CHARACTERS = 80  # two lines of a list; the field itself takes 200


def title_of(question: str) -> str:
    """The display name of a session that was given none: the start of its first question."""
    text = " ".join(question[: 10 * TITLE_CHARACTERS].split())
    return text if len(text) <= TITLE_CHARACTERS else f"{text[: TITLE_CHARACTERS - 1].rstrip()}…"
