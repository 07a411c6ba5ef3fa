"""How traces travel: W3C headers on calls, and undecided spans back with the answers.

| metadata | says |
|---|---|
| `traceparent` | the trace and the span that calls; its flag, whether the trace is sampled |
| `agentteams-spans` | on a call: the trace is undecided, hand your spans back |
| `baggage` | on a call of a sampled trace: run and team, for attributes of spans and nothing else |
| `agentteams-spans-bin` | with an answer: such spans |
| `agentteams-keep` | with an answer: the trace is kept |

Model endpoints and MCP servers get `traceparent` and nothing else.
"""

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote, unquote

import msgspec

from servicekit.spans import LOST, SERVER, Event, Recording, Ref, Span, Value, current_span, is_on

MAX_BAGGAGE = 512  # characters
MAX_RETURNED_BYTES = 4096  # with one answer; gRPC allows 8 KiB of metadata

_RETURN, _SPANS, _KEEP = "agentteams-spans", "agentteams-spans-bin", "agentteams-keep"
_CARRIED = ("agentteams.run", "agentteams.team")

Metadata = list[tuple[str, str]]


class WireSpan(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A span as it travels."""

    name: str
    kind: int
    span_id: int
    parent_id: int
    start_ns: int
    end_ns: int
    attributes: dict[str, str | bool | int | float | list[str]] | None
    error: str
    events: list[tuple[str, int, dict[str, str | bool | int | float | list[str]]]] | None
    links: list[tuple[bytes, int]] | None


class Part(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Spans of one service."""

    service: str
    spans: list[WireSpan]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Part).decode


def outgoing(metadata: Metadata) -> None:
    """Adds the current trace to a call of one of our own services."""
    span = current_span()
    if span is None:
        return
    recording = span.recording
    metadata.append(("traceparent", _traceparent(recording, span.span_id)))
    if recording.keep is None:
        metadata.append((_RETURN, "1"))
    elif recording.keep and recording.baggage:
        metadata.append(("baggage", recording.baggage))


def traceparent(span: Span | None = None) -> str:
    """The current span, or that one, as W3C writes it; empty if there is none. For anybody."""
    span = span or current_span()
    return _traceparent(span.recording, span.span_id) if span is not None else ""


def run_trace() -> tuple[str, str]:
    """Traceparent of the current run's span, and the id of its parent; both may be empty."""
    span = current_span()
    root = span.recording.root if span is not None else None
    if root is None:
        return "", ""
    return traceparent(root), f"{root.parent_id:016x}" if root.parent_id else ""


def carry(recording: Recording, *, run: str, team: str) -> None:
    """Says whose spans these are, here and in the services that are called."""
    recording.common["agentteams.run"] = run
    recording.common["agentteams.team"] = team
    pairs = ((key, str(recording.common[key])) for key in _CARRIED)
    recording.baggage = ",".join(f"{key}={quote(value, safe='')}" for key, value in pairs)[:MAX_BAGGAGE]


def incoming(metadata: Mapping[str, str], name: str) -> Span | None:
    """The span of a call that is served; None if the caller records nothing, or tracing is off."""
    header = metadata.get("traceparent")
    if header is None or not is_on():
        return None
    read = parse(header)
    if read is None:
        return None
    trace_id, parent_id, sampled = read
    keep = True if sampled else None if _RETURN in metadata else False
    recording = Recording(trace_id, keep=keep)
    if sampled:
        _read_baggage(recording, metadata.get("baggage", ""))
    return Span(recording, name, None, parent_id=parent_id, kind=SERVER)


def answer(recording: Recording, service: str) -> list[tuple[str, str | bytes]]:
    """What goes back with the answer of a call: its spans, if the trace is not decided."""
    if recording.keep is not None:
        recording.take()
        return [(_KEEP, "1")] if recording.wanted else []
    upper = recording.upper
    if upper is not None and upper.keep is None:  # the run goes on, and decides about these too
        upper.adopt(recording)
        return []
    if upper is not None:
        recording.decide(bool(upper.keep))
        return [(_KEEP, "1")] if upper.keep else []
    spans, parts = recording.take()
    own = _encode(Part(service, [_to_wire(span) for span in spans]))
    back: list[tuple[str, str | bytes]] = [(_KEEP, "1")] if recording.wanted else []
    left = MAX_RETURNED_BYTES
    for part in (own, *parts):
        left -= len(part)
        if left < 0:
            LOST.labels("answer").inc()
            break
        back.append((_SPANS, part))
    return back


def collect(recording: Recording, trailers: Iterable[Any] | None) -> None:
    """Reads what came back with an answer."""
    for key, value in trailers or ():
        if key == _SPANS:
            recording.returned(value)
        elif key == _KEEP:
            recording.wanted = True


def read_part(part: bytes) -> Part | None:
    """Spans that came back; None if they cannot be read."""
    try:
        return _decode(part)
    except msgspec.MsgspecError:
        LOST.labels("unreadable").inc()
        return None


def parse(header: str) -> tuple[int, int, bool] | None:
    """Trace, span and whether it is sampled; None for what is no traceparent."""
    fields = header.strip().split("-")
    if len(fields) < 4 or [len(field) for field in fields[:4]] != [2, 32, 16, 2] or fields[0] == "ff":
        return None
    try:
        trace_id, span_id, flags = (int(field, 16) for field in fields[1:4])
    except ValueError:
        return None
    return (trace_id, span_id, bool(flags & 1)) if trace_id and span_id else None


def _traceparent(recording: Recording, span_id: int) -> str:
    return f"00-{recording.trace_id:032x}-{span_id:016x}-{'01' if recording.keep else '00'}"


def _read_baggage(recording: Recording, header: str) -> None:
    if not header or len(header) > MAX_BAGGAGE:
        return
    recording.baggage = header  # for the services that this one calls
    for pair in header.split(","):
        key, _, value = pair.partition("=")
        if key.strip() in _CARRIED:
            recording.common[key.strip()] = unquote(value.partition(";")[0].strip())


def _to_wire(span: Span) -> WireSpan:
    attributes: dict[str, Value] | None = dict(span.attributes) if span.attributes else None
    return WireSpan(
        span.name,
        span.kind,
        span.span_id,
        span.parent_id,
        span.start_ns,
        span.end_ns,
        attributes,
        span.error,
        [(e.name, e.time_ns, dict(e.attributes)) for e in span.events] if span.events else None,
        [(link.trace_id.to_bytes(16), link.span_id) for link in span.links] if span.links else None,
    )


def from_wire(recording: Recording, wire: WireSpan) -> Span:
    """A span of another service as one of the recording."""
    span = Span(
        recording,
        wire.name,
        wire.attributes,
        parent_id=wire.parent_id,
        span_id=wire.span_id,
        kind=wire.kind,
    )
    span.start_ns, span.end_ns, span.error = wire.start_ns, wire.end_ns, wire.error
    if wire.events:
        span.events = [Event(*event) for event in wire.events]
    if wire.links:
        span.links = [Ref(int.from_bytes(trace), span_id) for trace, span_id in wire.links]
    return span
