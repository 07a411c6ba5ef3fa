"""What clients saw and what is stored, as plain data that the checker compares.

Events are protobuf's JSON form with the names of the proto files; int64
fields are texts there, as protobuf wants it.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

Event = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """A piece of a text, as it came."""

    message: str
    offset: int
    text: str
    member: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A question before it was sent; it may have been stored or not."""

    request_id: str
    client: str
    question: str
    session: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ack:
    """The service said: this request is that run."""

    request_id: str
    run: str
    session: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A whole answer over the OpenAI API."""

    request_id: str
    run: str
    text: str
    status: str = "succeeded"


@dataclass(slots=True, kw_only=True)
class Stream:
    """One StreamRunEvents call: what was asked for and all that came, in order."""

    client: str
    run: str
    after: int
    items: list[Event | Delta] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    """When each item came; the checker does not need it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRun:
    """A run with its whole log."""

    name: str
    session: str
    state: str
    last_sequence: int
    events: Sequence[Event]
    attempt: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredMessage:
    """A message of a session. `role`: user or assistant."""

    sequence: int
    role: str
    content: str
    run: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Fork:
    """The service said: `session` is what `source` was up to message `sequence`."""

    request_id: str
    client: str
    source: str
    sequence: int
    session: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """The service said: this answer to a question of a run is stored."""

    client: str
    run: str
    call: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCall:
    """A request as the model's endpoint saw it, which knows nothing of runs.

    Attributes:
        question: The request id in the last question that it holds.
        body: Equal for equal requests.
        text: What it answered.
        tools: Which tools it wanted called.
        whole: The answer went out whole and unspoilt.
        begun: When the request was there, in seconds since 1970.
        ended: When the answer was out.
    """

    question: str
    body: str
    text: str
    tools: tuple[str, ...]
    whole: bool
    begun: float
    ended: float


@dataclass(slots=True, kw_only=True)
class History:
    """Everything that the checker looks at."""

    asks: list[Ask] = field(default_factory=list)
    acks: list[Ack] = field(default_factory=list)
    streams: list[Stream] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    runs: dict[str, StoredRun] = field(default_factory=dict)
    sessions: dict[str, list[StoredMessage]] = field(default_factory=dict)
    forks: list[Fork] = field(default_factory=list)
    said: list[Said] = field(default_factory=list)
    model_calls: list[ModelCall] = field(default_factory=list)
    thawed: list[float] = field(default_factory=list)
    """When a frozen process went on, in seconds since 1970."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something that was done to the system. `seconds` since the start of the traffic."""

    seconds: float
    wall: float
    kind: str
    target: str


def sequence_of(event: Event) -> int:
    """Its place in the log."""
    return int(event.get("sequence", 0))


_ENVELOPE = frozenset({"sequence", "create_time", "member", "ignorable"})


def kind_of(event: Event) -> str:
    """Which of the oneof's fields it has."""
    return next((key for key in event if key not in _ENVELOPE), "")


def body_of(event: Event) -> Mapping[str, Any]:
    """What is in that field."""
    body = event.get(kind_of(event), {})
    return body if isinstance(body, Mapping) else {}


def failure_of(run: StoredRun) -> str:
    """Why it failed, as a reason of errors.v1; empty if it did not, or nobody said why."""
    if run.state != "RUN_STATE_FAILED" or not run.events:
        return ""
    details = body_of(run.events[-1]).get("status", {}).get("details", [])
    return next((str(detail["reason"]) for detail in details if "reason" in detail), "")


class Recorder:
    """Keeps the history and writes each record into a file as it comes (JSON lines)."""

    def __init__(self, file: Path) -> None:
        self.history = History()
        self.counts: dict[str, int] = {}
        self._file: TextIO = file.open("w", encoding="utf-8")

    def close(self) -> None:
        """Nothing more is written."""
        self._file.close()

    def ask(self, ask: Ask) -> None:
        self.history.asks.append(ask)
        self._write("ask", asdict(ask))

    def ack(self, ack: Ack) -> None:
        self.history.acks.append(ack)
        self._write("ack", asdict(ack))

    def answer(self, answer: Answer) -> None:
        self.history.answers.append(answer)
        self._write("answer", asdict(answer))

    def fork(self, fork: Fork) -> None:
        self.history.forks.append(fork)
        self._write("fork", asdict(fork))

    def said(self, said: Said) -> None:
        self.history.said.append(said)
        self._write("said", asdict(said))

    def stream(self, *, client: str, run: str, after: int) -> Stream:
        """A stream begins; its items are told with `saw`."""
        stream = Stream(client=client, run=run, after=after)
        self.history.streams.append(stream)
        self._write("stream", {"client": client, "run": run, "after": after})
        return stream

    def saw(self, stream: Stream, item: Event | Delta) -> None:
        stream.items.append(item)
        stream.times.append(time.time())
        shown = asdict(item) if isinstance(item, Delta) else dict(item)
        self._write("delta" if isinstance(item, Delta) else "event", {"run": stream.run, "item": shown})

    def note(self, what: str, client: str, **fields: Any) -> None:
        """Something that the checker does not need but a reader may."""
        self.counts[what] = self.counts.get(what, 0) + 1
        self._write(what, {"client": client} | fields)

    def _write(self, what: str, fields: Mapping[str, Any]) -> None:
        record = {"t": round(time.time(), 3), "what": what, **fields}
        self._file.write(json.dumps(record, ensure_ascii=False) + "\n")


def copied(history: History) -> dict[str, int]:
    """How many messages at the beginning of each fork are copies."""
    return {fork.session: fork.sequence for fork in history.forks}


def runs_of(history: History, session: str) -> Iterator[StoredRun]:
    """The runs of a session."""
    return (run for run in history.runs.values() if run.session == session)
