"""Spans are recorded cheaply, decided about late, and travel with answers."""

from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, Histogram

from servicekit import span_wire, spans
from servicekit.errors import NotFound
from servicekit.spans import NO_SPAN, SERVER, Recording, Span
from tests.support.recorded import Kept, recorded, root


@pytest.fixture
def sink() -> Iterator[Kept]:
    with recorded() as kept:
        yield kept


def work(name: str = "work") -> None:
    with spans.span(name):
        pass


def test_nothing_is_recorded_outside_of_a_trace(sink: Kept) -> None:
    assert spans.span("work") is NO_SPAN
    work()
    assert (sink.names, spans.current_ref(), span_wire.traceparent()) == ([], None, "")


def test_a_sampled_trace_is_exported_at_once_and_a_dropped_one_never(sink: Kept) -> None:
    with root(keep=True):
        work()
        assert sink.names == ["work"]
    with root(keep=False):
        work("other")
    assert sink.names == ["work", "root"]


@pytest.mark.parametrize("keep", [True, False])
def test_what_is_undecided_waits_for_the_decision(sink: Kept, keep: bool) -> None:
    with root(keep=None) as span:
        work("before")
        assert sink.names == []
        span.recording.decide(keep)
        span.recording.decide(not keep)  # the first one holds
        work("after")
    assert sink.names == (["before", "after", "root"] if keep else [])
    assert span.recording.spans == []


def test_children_know_their_parents_and_errors_are_reasons(sink: Kept) -> None:
    with root(keep=None) as span:
        with pytest.raises(NotFound), spans.span("outer") as outer, spans.span("inner"):
            raise NotFound("ada's secret plan", reason="TEAM_NOT_FOUND")
        assert spans.current_span() is span
    inner, out, _ = span.recording.spans
    assert (inner.parent_id, out.parent_id) == (outer.span_id, span.span_id)  # type: ignore[union-attr]
    assert (inner.error, out.error) == ("TEAM_NOT_FOUND", "TEAM_NOT_FOUND")


def test_a_run_that_takes_long_is_kept_before_it_ends(sink: Kept) -> None:
    with root(keep=None) as span:
        span.recording.slow_at_ns = 1
        work()
        assert sink.names == ["work"]
        assert span.recording.marks == {"slow"}


def test_what_is_held_in_memory_has_a_bound(sink: Kept) -> None:
    lost = spans.LOST.labels("buffer")
    before = lost._value.get()
    with root(keep=None) as span:
        for _ in range(spans.MAX_SPANS + 5):
            work()
        for _ in range(3):
            span.recording.returned(b"x" * (spans.MAX_PARTS_BYTES // 2))
        assert len(span.recording.spans) == spans.MAX_SPANS
        assert len(span.recording.parts) == 2
        span.recording.decide(False)
    assert lost._value.get() == before + 6


def test_an_exemplar_names_a_trace_that_is_kept(sink: Kept) -> None:
    registry = CollectorRegistry()
    histogram = Histogram("h", "h", registry=registry)

    def seen() -> tuple[float, set[str]]:
        samples = [s for m in registry.collect() for s in m.samples]
        named = {s.exemplar.labels["trace_id"] for s in samples if s.exemplar is not None}
        return sum(s.value for s in samples if s.name == "h_count"), named

    with root(keep=None) as span:
        spans.observe(histogram, 1.0)
        assert seen() == (0.0, set())
        span.recording.decide(True)
        assert seen() == (1.0, {f"{7:032x}"})
    with root(keep=None) as span:
        spans.observe(histogram, 50.0)
        span.recording.decide(False)
    assert seen() == (2.0, {f"{7:032x}"})
    spans.observe(histogram, 1.0)
    assert seen()[0] == 3.0


def call(span: Span) -> dict[str, str]:
    metadata: list[tuple[str, str]] = []
    with spans.using(span):
        span_wire.outgoing(metadata)
    return dict(metadata)


def test_undecided_spans_come_back_with_the_answer_and_go_on_with_the_caller_s(sink: Kept) -> None:
    caller = root(keep=None, name="caller")
    served = span_wire.incoming(call(caller), "served")
    assert served is not None
    with served:
        with spans.span("inside") as inside:
            inside.set({"texts": 3})
            inside.link(spans.Ref(1, 2))
            inside.event("said", {"a": "b"})
        served.recording.returned(b"of another service")
    back = span_wire.answer(served.recording, "session")
    assert sink.names == []
    span_wire.collect(caller.recording, back)
    part, other = caller.recording.parts
    assert other == b"of another service"
    read = span_wire.read_part(part)
    assert read is not None
    inner, outer = (span_wire.from_wire(caller.recording, wire) for wire in read.spans)
    assert read.service == "session"
    assert (outer.name, outer.kind, outer.parent_id) == ("served", SERVER, caller.span_id)
    assert (inner.name, inner.parent_id, inner.attributes) == ("inside", outer.span_id, {"texts": 3})
    assert inner.links == [(1, 2)]
    assert inner.events is not None
    assert inner.events[0].attributes == {"a": "b"}
    caller.recording.decide(True)
    assert sink.parts == [part, other]


def test_a_sampled_call_carries_run_and_team_and_brings_nothing_back(sink: Kept) -> None:
    caller = root(keep=True)
    span_wire.carry(caller.recording, run="runs/a", team="té,am")
    metadata = call(caller)
    assert metadata["traceparent"] == f"00-{7:032x}-{caller.span_id:016x}-01"
    served = span_wire.incoming(metadata, "served")
    assert served is not None
    with served:
        assert call(served)["baggage"] == metadata["baggage"]
    assert served.recording.common == {"agentteams.run": "runs/a", "agentteams.team": "té,am"}
    assert sink.names == ["served"]
    assert span_wire.answer(served.recording, "session") == []


def test_a_stranger_s_unsampled_trace_is_followed_and_not_recorded(sink: Kept) -> None:
    served = span_wire.incoming({"traceparent": f"00-{9:032x}-{1:016x}-00"}, "served")
    assert served is not None
    with served:
        work()
        assert "agentteams-spans" not in call(served)
    assert (sink.names, span_wire.answer(served.recording, "session")) == ([], [])


def test_a_run_that_outlives_its_call_decides_about_the_call_too(sink: Kept) -> None:
    for keep, kept in ((True, ["run", "served"]), (False, [])):
        caller = root(keep=None, name="caller")
        served = span_wire.incoming(call(caller), "served")
        assert served is not None
        with served:
            run = Recording(7, keep=None)
            served.recording.upper = run
        assert span_wire.answer(served.recording, "orchestrator") == []
        Span(run, "run", None, parent_id=served.span_id).end()
        run.decide(keep)
        assert sorted(sink.names) == kept
        sink.spans.clear()


@pytest.mark.parametrize("keep", [True, False])
def test_the_caller_is_told_of_a_run_that_ended_before_its_call(sink: Kept, keep: bool) -> None:
    caller = root(keep=None, name="caller")
    served = span_wire.incoming(call(caller), "served")
    assert served is not None
    with served:
        served.recording.upper = Recording(7, keep=keep)
    span_wire.collect(caller.recording, span_wire.answer(served.recording, "orchestrator"))
    assert caller.recording.wanted is keep
    assert caller.recording.parts == []
    assert sink.names == (["served"] if keep else [])


def test_an_answer_holds_so_many_bytes_of_spans(sink: Kept) -> None:
    caller = root(keep=None)
    served = span_wire.incoming(call(caller), "served")
    assert served is not None
    with served:
        for _ in range(3):
            served.recording.returned(b"x" * 2_000)
    back = span_wire.answer(served.recording, "retrieval")
    assert sum(len(value) for _, value in back) <= span_wire.MAX_RETURNED_BYTES
    assert len(back) == 3  # its own and two; the third is counted as lost


@pytest.mark.parametrize(
    "header",
    [
        "",
        "00",
        "ff-" + "1" * 32 + "-" + "1" * 16 + "-01",
        "00-" + "0" * 32 + "-" + "1" * 16 + "-01",
        "00-" + "1" * 32 + "-" + "0" * 16 + "-01",
        "00-" + "x" * 32 + "-" + "1" * 16 + "-01",
        "00-" + "1" * 31 + "-" + "1" * 16 + "-01",
    ],
)
def test_what_is_no_traceparent_is_no_trace(sink: Kept, header: str) -> None:
    assert span_wire.parse(header) is None
    assert span_wire.incoming({"traceparent": header}, "served") is None


def test_bytes_that_are_no_spans_are_counted_and_forgotten() -> None:
    lost = spans.LOST.labels("unreadable")
    before = lost._value.get()
    assert span_wire.read_part(b"\xff\xff") is None
    assert lost._value.get() == before + 1


def test_ids_of_what_several_attempts_share_are_the_same() -> None:
    assert spans.derived_id("runs/a", "agent", "x") == spans.derived_id("runs/a", "agent", "x")
    assert spans.derived_id("runs/a", "x") != spans.derived_id("runs/b", "x")
