"""The span of a request, and whether its trace is kept."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from servicekit import span_wire, spans
from servicekit.spans import NO_SPAN, SERVER, NoSpan, Recording, Span

_SERVER_FAULT = 500


@contextmanager
def served(name: str, headers: Mapping[str, str]) -> Iterator[Span | NoSpan]:
    """The span of one request, within the client's trace if it has one.

    It is kept if the trace is sampled, if a service that was called says so (the
    run was slow, failed or degraded), or if the request failed here or its stream was lost.
    """
    if not spans.is_on():
        yield NO_SPAN
        return
    recording, parent_id = _recording(headers)
    span = Span(recording, name, None, parent_id=parent_id, kind=SERVER)
    try:
        with span:
            yield span
    finally:
        recording.decide(recording.wanted or bool(span.error or recording.marks))


def note_status(span: Span | NoSpan, status: int, code: str = "") -> None:
    """How the request ended; the client's own faults are no errors of ours."""
    span.set({"http.request.method": "POST", "http.response.status_code": status})
    if isinstance(span, Span) and status >= _SERVER_FAULT:
        span.error = code or str(status)


def _recording(headers: Mapping[str, str]) -> tuple[Recording, int]:
    read = span_wire.parse(headers.get("traceparent", ""))
    if read is None:
        return spans.new_recording(), 0
    trace_id, parent_id, sampled = read
    return Recording(trace_id, keep=True if sampled else None), parent_id
