"""Which requests' traces the gateway keeps."""

from typing import Any

import pytest

from gateway.tracing import note_status, served
from servicekit import spans
from servicekit.spans import Span
from tests.support.recorded import recorded

PARENT = f"00-{'a' * 32}-{'b' * 16}"


def serve(headers: dict[str, str], *, status: int = 200, wanted: bool = False, mark: str = "") -> Span:
    with served("POST /x", headers) as span:
        assert isinstance(span, Span)
        span.recording.wanted = wanted
        if mark:
            spans.mark(mark)
        note_status(span, status, "some_code")
    return span


@pytest.mark.parametrize(
    ("headers", "how", "kept"),
    [
        ({}, {}, False),
        ({}, {"wanted": True}, True),
        ({}, {"status": 503}, True),
        ({}, {"status": 404}, False),
        ({}, {"mark": "stream_lost"}, True),
        ({"traceparent": f"{PARENT}-00"}, {}, False),
        ({"traceparent": f"{PARENT}-01"}, {}, True),
    ],
)
def test_what_went_well_is_kept_only_where_somebody_wants_it(
    headers: dict[str, str], how: dict[str, Any], kept: bool
) -> None:
    with recorded() as sink:
        span = serve(headers, **how)
        assert sink.spans == ([span] if kept else [])
        assert (span.recording.trace_id == int("a" * 32, 16)) == bool(headers)
        assert span.parent_id == (int("b" * 16, 16) if headers else 0)


def test_a_crash_is_kept_with_its_kind_and_without_its_text() -> None:
    with recorded() as sink, pytest.raises(ValueError, match="ada"), served("POST /x", {}):
        raise ValueError("what ada said")
    (span,) = sink.spans
    assert span.error == "ValueError"


def test_a_client_s_baggage_is_not_read() -> None:
    with recorded():
        span = serve({"traceparent": f"{PARENT}-01", "baggage": "agentteams.team=theirs"})
        assert span.recording.baggage == ""
        assert not span.recording.common


def test_without_a_collector_there_is_nothing() -> None:
    with served("POST /x", {"traceparent": f"{PARENT}-01"}) as span:
        assert not span
        assert spans.current_span() is None
