"""Spans that cost little until somebody wants to see them (docs/adr/0014-traces.md).

A process records what it does for one trace in a `Recording`. Whether that is
exported is known at the beginning (the trace is sampled) or at the end (the run
was slow, failed or degraded); until then spans are plain objects in a list. A
service that is called for an undecided trace hands its spans back with its
answer, so whoever decides has all of them.

Without `setup_tracing` there is no recording, and every function here does nothing.
"""

import random
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from hashlib import blake2b
from types import TracebackType
from typing import Any, NamedTuple, Protocol, TypeAlias

from prometheus_client import Counter

from servicekit.counters import from_zero
from servicekit.errors import ServiceError

Value: TypeAlias = str | bool | int | float | list[str]
Attributes: TypeAlias = Mapping[str, Value]

INTERNAL, SERVER, CLIENT = 0, 1, 2

MAX_SPANS = 2_000  # of one recording that is not decided yet
MAX_PARTS_BYTES = 512 * 1024  # of spans that others have handed back
_MAX_UNDECIDED = 100_000  # spans of all recordings of the process
_MAX_PENDING = 500

LOST = Counter("agentteams_trace_spans_lost_total", "Spans that were not kept for want of room", ["reason"])
from_zero(LOST, reason=("buffer", "answer", "unreadable"))


class Ref(NamedTuple):
    """A span of this or another trace, for a link."""

    trace_id: int
    span_id: int


class Event(NamedTuple):
    """Something that happened during a span."""

    name: str
    time_ns: int
    attributes: Attributes


class Observer(Protocol):
    """A histogram."""

    def observe(self, amount: float, exemplar: dict[str, str] | None = None) -> None:
        """Adds a value."""


class Sink(Protocol):
    """Where spans go that are kept."""

    ratio: float
    slow_ns: int
    content: bool

    def take(self, recording: "Recording", span: "Span") -> None:
        """Exports a span; must return at once."""

    def take_part(self, recording: "Recording", part: bytes) -> None:
        """Exports what another service has handed back."""


_sink: Sink | None = None
_undecided = 0


def use_sink(sink: Sink | None) -> Sink | None:
    """Where all spans of the process go from now on; None: tracing is off. Returns what was before."""
    global _sink  # as OpenTelemetry's own provider
    before, _sink = _sink, sink
    return before


class Span:
    """One span; a context manager that makes it the current one, once."""

    __slots__ = (
        "_token",
        "attributes",
        "end_ns",
        "error",
        "events",
        "kind",
        "links",
        "name",
        "parent_id",
        "recording",
        "span_id",
        "start_ns",
    )

    def __init__(
        self,
        recording: "Recording",
        name: str,
        attributes: Attributes | None,
        *,
        parent_id: int,
        span_id: int = 0,
        kind: int = INTERNAL,
    ) -> None:
        self.recording = recording
        self.name = name
        self.attributes = attributes
        self.parent_id = parent_id
        self.span_id = span_id or _new_id(64)
        self.kind = kind
        self.start_ns = time.time_ns()
        self.end_ns = 0
        self.error = ""
        self.events: list[Event] | None = None
        self.links: list[Ref] | None = None
        self._token: Any = None

    def __enter__(self) -> "Span":
        self._token = _current.set(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _current.reset(self._token)
        if error is not None:
            self.fail(error)
        self.end()

    def __bool__(self) -> bool:
        return True

    @property
    def ref(self) -> Ref:
        """For links to it."""
        return Ref(self.recording.trace_id, self.span_id)

    def set(self, attributes: Attributes) -> None:
        """Adds attributes."""
        self.attributes = {**self.attributes, **attributes} if self.attributes else attributes

    def link(self, to: Ref) -> None:
        """Says that another span has to do with it."""
        self.links = [*(self.links or ()), to]

    def event(self, name: str, attributes: Attributes) -> None:
        """Something happened."""
        self.events = [*(self.events or ()), Event(name, time.time_ns(), attributes)]

    def fail(self, error: BaseException) -> None:
        """How it ended; texts of errors may hold what users wrote, so it is the reason alone."""
        if isinstance(error, ServiceError):
            self.error = error.reason
        elif isinstance(error, Exception):
            self.error = type(error).__name__
        else:
            self.error = "cancelled"

    def end(self) -> None:
        """It is over."""
        self.end_ns = time.time_ns()
        self.recording.ended(self)


class NoSpan:
    """What stands for a span where nothing is recorded."""

    __slots__ = ()

    def __enter__(self) -> "NoSpan":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __bool__(self) -> bool:
        return False

    def set(self, attributes: Attributes) -> None:
        """Nothing."""

    def link(self, to: Ref) -> None:
        """Nothing."""

    def event(self, name: str, attributes: Attributes) -> None:
        """Nothing."""

    def fail(self, error: BaseException) -> None:
        """Nothing."""


NO_SPAN = NoSpan()
_current: ContextVar[Span | None] = ContextVar("span", default=None)


class Recording:
    """What one process does for one trace.

    Attributes:
        keep: Whether its spans are exported; None while that is not known.
        wanted: Whoever was called says that the trace is kept.
        common: Attributes of all its spans.
        baggage: What goes with calls of sampled traces to our own services.
        marks: Why the trace is worth keeping.
        root: The span of the run that it belongs to, where one is worked on.
        concluded: The run has said whether it is kept.
        slow_at_ns: From when on it is kept for its length; 0: never.
        upper: The recording of the run that began in this call, which decides for both.
    """

    __slots__ = (
        "_parts_bytes",
        "_pending",
        "baggage",
        "common",
        "concluded",
        "keep",
        "marks",
        "parts",
        "root",
        "slow_at_ns",
        "spans",
        "trace_id",
        "upper",
        "wanted",
    )

    def __init__(self, trace_id: int, *, keep: bool | None) -> None:
        self.trace_id = trace_id
        self.keep = keep
        self.wanted = False
        self.common: dict[str, Value] = {}
        self.baggage = ""
        self.marks: set[str] = set()
        self.spans: list[Span] = []
        self.parts: list[bytes] = []
        self.upper: Recording | None = None
        self.root: Span | None = None
        self.slow_at_ns = 0
        self.concluded = False
        self._parts_bytes = 0
        self._pending: list[tuple[Observer, float]] = []

    def ended(self, span: Span) -> None:
        """A span is over."""
        global _undecided  # noqa: PLW0603
        if self.keep:
            if _sink is not None:
                _sink.take(self, span)
        elif self.keep is None:
            if len(self.spans) >= MAX_SPANS or _undecided >= _MAX_UNDECIDED:
                LOST.labels("buffer").inc()
                return
            _undecided += 1
            self.spans.append(span)
            if self.slow_at_ns and span.end_ns > self.slow_at_ns:
                self.marks.add("slow")
                self.decide(True)

    def returned(self, part: bytes) -> None:
        """Another service's spans of this trace came with its answer."""
        if self.keep:
            if _sink is not None:
                _sink.take_part(self, part)
        elif self.keep is None:
            self._parts_bytes += len(part)
            if self._parts_bytes > MAX_PARTS_BYTES:
                LOST.labels("buffer").inc()
                return
            self.parts.append(part)

    def observe(self, histogram: Observer, value: float) -> None:
        """Adds a value; with the trace as its exemplar, if that is kept in the end."""
        if self.keep is None and len(self._pending) < _MAX_PENDING:
            self._pending.append((histogram, value))
        else:
            histogram.observe(value, self._exemplar() if self.keep else None)

    def decide(self, keep: bool) -> None:
        """Exports what there is and what comes, or forgets it. The first decision holds."""
        if self.keep is not None:
            return
        self.keep = keep
        spans, parts = self.take()
        if keep:
            for span in spans:
                self.ended(span)
            for part in parts:
                self.returned(part)

    def take(self) -> tuple[list[Span], list[bytes]]:
        """What is undecided: the caller's from now on. Values wait no longer for the decision."""
        global _undecided  # noqa: PLW0603
        _undecided -= len(self.spans)
        spans, self.spans = self.spans, []
        parts, self.parts, self._parts_bytes = self.parts, [], 0
        pending, self._pending = self._pending, []
        exemplar = self._exemplar() if self.keep else None
        for histogram, value in pending:
            histogram.observe(value, exemplar)
        return spans, parts

    def adopt(self, other: "Recording") -> None:
        """Takes over what another recording of the same trace holds: it is decided with this one."""
        spans, parts = other.take()
        for span in spans:
            span.recording = self
            self.ended(span)
        for part in parts:
            self.returned(part)

    def _exemplar(self) -> dict[str, str]:
        return {"trace_id": f"{self.trace_id:032x}"}


def span(name: str, attributes: Attributes | None = None, *, span_id: int = 0) -> Span | NoSpan:
    """A child of the current span; nothing if there is none."""
    parent = _current.get()
    if parent is None:
        return NO_SPAN
    return Span(parent.recording, name, attributes, parent_id=parent.span_id, span_id=span_id)


def current() -> Span | NoSpan:
    """The span that goes on."""
    return _current.get() or NO_SPAN


def current_span() -> Span | None:
    """The span that goes on, or None."""
    return _current.get()


def current_ref() -> Ref | None:
    """For links to the span that goes on."""
    span = _current.get()
    return span.ref if span is not None else None


def observe(histogram: Observer, value: float) -> None:
    """Adds a value, with the current trace as its exemplar if that is kept."""
    parent = _current.get()
    if parent is None:
        histogram.observe(value)
    else:
        parent.recording.observe(histogram, value)


def mark(why: str) -> None:
    """Says why the current trace is worth keeping."""
    parent = _current.get()
    if parent is not None:
        parent.recording.marks.add(why)


def content_wanted() -> bool:
    """Whether spans may hold what users and models wrote."""
    return _sink is not None and _sink.content and _current.get() is not None


def set_current(span: Span | None) -> None:
    """Makes a span the current one for the rest of the task."""
    _current.set(span)


@contextmanager
def using(span: Span | None) -> Iterator[None]:
    """Makes a span the current one without ending it; None: there is none."""
    token = _current.set(span)
    try:
        yield
    finally:
        _current.reset(token)


def is_on() -> bool:
    """Whether anything is recorded at all."""
    return _sink is not None


def slow_ns() -> int:
    """From how long on a run counts as slow."""
    return _sink.slow_ns if _sink is not None else 0


def new_recording() -> Recording:
    """Of a new trace: sampled by chance, else undecided."""
    ratio = _sink.ratio if _sink is not None else 0.0
    return Recording(_new_id(128), keep=True if random.random() < ratio else None)


def derived_id(*names: str) -> int:
    """The same span id for the same names, in whichever process."""
    return int.from_bytes(blake2b("\0".join(names).encode(), digest_size=8).digest()) or 1


def _new_id(bits: int) -> int:
    return random.getrandbits(bits) or 1
