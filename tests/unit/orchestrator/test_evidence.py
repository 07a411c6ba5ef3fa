"""Evidence is graded before it is shared, and may come from earlier runs of the session."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from manifests import AgentTeam
from orchestrator.adapters.events_pb import event_to_pb, stored_event
from orchestrator.core.grading import grade, rewritten
from orchestrator.core.model import (
    Event,
    EvidenceRetrieved,
    RunFinished,
    RunStarted,
    SearchResult,
    StoredEvent,
)
from orchestrator.core.recorded import Recorded
from orchestrator.core.run import execute
from orchestrator.core.search import restore
from orchestrator.core.tracing import RunTrace
from servicekit import span_wire
from servicekit.errors import Unavailable
from servicekit.spans import Ref, Span
from tests.support.fake_knowledge import chunk
from tests.support.fake_models import Call, Script, delegates, says
from tests.support.one_run import taken_over
from tests.support.orchestrator_fakes import Bench, knowledge, of_type, team
from tests.support.recorded import recorded

pytestmark = pytest.mark.looptime

QUESTION = "How long does the warranty of the pump last?"
PUMP = chunk("pump", "The warranty of each pump lasts two years.")
BESIDE = chunk("office", "The office opens at nine, and the canteen at noon.")
READER = {"name": "agent", "knowledge": ["docs"]}


# --- the grade -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "text", "grade_"),
    [
        ("How long does the warranty last?", "The warranty lasts two years.", "STRONG"),
        ("How long does the warranty last?", "The office opens at nine.", "WEAK"),
        ("warranties of pumps", "The warranty of a pump", "STRONG"),  # the beginnings of words
        ("Why?", "Anything", "STRONG"),  # no word of its own
        ("保証期間", "ポンプの保証期間は二年です", "STRONG"),
        ("保証期間", "食堂は正午に開きます", "WEAK"),
    ],
)
def test_words_in_common_make_the_grade(query: str, text: str, grade_: str) -> None:
    assert grade(query, [chunk("a", text)]) == grade_


def test_near_vectors_fit_whatever_the_words() -> None:
    found = [chunk("a", "Die Garantie gilt zwei Jahre.")]
    assert grade("How long is the warranty?", found, similarity=0.5) == "STRONG"
    assert grade("How long is the warranty?", found, similarity=0.3) == "WEAK"
    assert grade("anything", []) == ""


def test_other_words_are_those_that_mean_something() -> None:
    assert rewritten("Find information about the duration", QUESTION) == "duration warranty pump last"
    assert rewritten("warranty pump", "warranty of the pump") == ""


# --- in a run ----------------------------------------------------------------------


def results(*chunks: Any, **fields: Any) -> SearchResult:
    return SearchResult(**{"outcome": "OK", "chunks": chunks, "ready_documents": 1, **fields})


async def play(bench: Bench, of: AgentTeam, *scripts: Script, **more: Any) -> list[Any]:
    bench.models.add(*scripts)
    turn = bench.turn(of, QUESTION)
    turn = replace(turn, **more) if more else turn
    await execute(turn)
    await turn.log.close()
    return bench.store.steps()


def searches(steps: list[Any]) -> list[EvidenceRetrieved]:
    return list(of_type(steps, EvidenceRetrieved))


async def test_what_hardly_fits_is_looked_for_once_more_in_other_words() -> None:
    bench = Bench()
    bench.knowledge.results = [results(BESIDE), results(PUMP)]
    steps = await play(bench, team(READER, knowledge=knowledge(search="Always")), says("Two years [1]."))
    first, second = bench.knowledge.queries
    assert (first.text, second.text) == (QUESTION, "warranty pump last")
    (found,) = searches(steps)
    assert [e.chunk.id for e in found.evidence] == ["pump"]
    assert (found.grade, found.corrected_query, found.query) == ("STRONG", second.text, QUESTION)
    assert "hardly fits" not in bench.models.calls[0].last
    assert steps[-1].summary.usage.searches == 2


async def test_a_team_says_how_its_knowledge_is_searched() -> None:
    bench = Bench()
    bench.knowledge.results = [results(PUMP)]
    use = knowledge(search="Always", neighbours=2, maxPerDocument=3, topK=5, filter="year > 2020")
    await play(bench, team(READER, knowledge=use), says("Two years [1]."))
    (query,) = bench.knowledge.queries
    assert (query.neighbours, query.max_per_document, query.top_k) == (2, 3, 5)
    assert query.filter == "year > 2020"


@pytest.mark.parametrize(("similarity", "searches_"), [(0.6, 1), (0.2, 2), (None, 2)])
async def test_a_near_chunk_fits_whatever_its_words(similarity: float | None, searches_: int) -> None:
    bench = Bench()
    bench.knowledge.results = [results(replace(BESIDE, similarity=similarity))]
    await play(bench, team(READER, knowledge=knowledge(search="Always")), says("Two years [1]."))
    assert len(bench.knowledge.queries) == searches_


PAIR = ({"name": "ann", "knowledge": ["docs"]}, {"name": "ben", "knowledge": ["docs"]})


async def test_what_stays_weak_is_marked_and_not_shared() -> None:
    bench = Bench()
    bench.knowledge.results = [results(BESIDE)]
    members = (*PAIR, {"name": "cid"})
    steps = await play(
        bench,
        team(*members, knowledge=knowledge(search="Always")),
        delegates(("ann", "a")),
        says("I found nothing."),
        delegates(("ben", "b"), ("cid", "c")),
        says("Nor did I."),
        says("I have none."),
        says("Nobody knows."),
    )
    ann, ben = searches(steps)
    assert (ann.grade, ben.grade) == ("WEAK", "WEAK")
    assert (ann.source, ben.source) == ("SEARCH", "SEARCH")
    assert len(bench.knowledge.queries) == 4  # each one and its second
    by_task = {call.last.rpartition(": ")[2]: call.last for call in bench.models.calls}
    assert "hardly fits" in by_task["a"]
    assert "canteen" not in by_task["c"]  # shown to nobody else


async def test_strong_evidence_of_one_member_is_shown_to_the_next() -> None:
    bench = Bench()
    bench.knowledge.results = [results(PUMP)]
    steps = await play(
        bench,
        team(PAIR[0], {"name": "cid"}, knowledge=knowledge(search="Always")),
        delegates(("ann", "a")),
        says("Two years [1]."),
        delegates(("cid", "c")),
        says("Fine."),
        says("Two years [1]."),
    )
    assert searches(steps)[0].grade == "STRONG"
    assert "two years" in bench.models.calls[3].last


async def test_a_limited_search_that_fits_is_shared_with_its_reason() -> None:
    bench = Bench()
    bench.knowledge.results = [results(PUMP, outcome="DEGRADED", reasons=("only vectors were compared",))]
    steps = await play(
        bench,
        team(*PAIR, knowledge=knowledge(search="Always")),
        delegates(("ann", "a"), ("ben", "b")),
        says("Two years [1]."),
        says("Two years [1]."),
        says("Two years [1]."),
    )
    assert [(s.source, s.outcome) for s in searches(steps)] == [
        ("SEARCH", "DEGRADED"),
        ("LEDGER_EXACT", "DEGRADED"),
    ]
    told = [call.last for call in bench.models.calls if "only vectors were compared" in call.last]
    assert len(told) == 2


# --- the session's earlier runs --------------------------------------------------------

SESSION = {"evidenceReuse": {"scope": "Session", "policy": "Exact"}}


def session_team(**sharing: Any) -> AgentTeam:
    return team(READER, knowledge=knowledge(search="Always"), sharing=sharing or SESSION)


async def a_run_before(of: AgentTeam, revision: str = "7") -> tuple[list[StoredEvent], list[Event]]:
    bench = Bench()
    bench.knowledge.results = [results(PUMP, revision=revision)]
    await play(bench, of, says("Two years [1]."))
    started = event_to_pb(
        Event(sequence=1, time=bench.clock.now(), member="", step=RunStarted(team_revision=of.revision))
    )
    started.run_started.team_revision = of.revision
    events = bench.store.log["runs/r1"]
    return [stored_event(event) for event in (started, *map(event_to_pb, events))], events


def next_run(logs: list[list[StoredEvent]], revision: str = "7") -> Bench:
    bench = Bench()
    bench.store.earlier_runs = logs
    bench.knowledge.now = revision
    bench.knowledge.results = [
        results(chunk("new", "Now the warranty of a pump lasts long."), revision=revision)
    ]
    return bench


async def test_evidence_of_an_earlier_run_of_the_session_is_used_again() -> None:
    of = session_team()
    log, _ = await a_run_before(of)
    bench = next_run([log])
    steps = await play(bench, of, says("Two years [1]."))
    (found,) = searches(steps)
    assert (found.source, found.reason, found.knowledge_revision) == ("LEDGER_SESSION", QUESTION, "7")
    assert [(e.number, e.chunk.id) for e in found.evidence] == [(1, "pump")]
    assert not bench.knowledge.queries
    usage = steps[-1].summary.usage
    assert (usage.searches, usage.searches_saved) == (0, 1)


async def test_not_if_the_documents_have_changed() -> None:
    of = session_team()
    log, _ = await a_run_before(of)
    bench = next_run([log], revision="8")
    (found,) = searches(await play(bench, of, says("Two years [1].")))
    assert (found.source, found.evidence[0].chunk.id) == ("SEARCH", "new")


async def test_not_if_the_team_has_changed() -> None:
    log, _ = await a_run_before(session_team())
    bench = next_run([log])
    of = team(READER, knowledge=knowledge(search="Always", topK=2), sharing=SESSION)
    assert searches(await play(bench, of, says("Two years [1].")))[0].source == "SEARCH"


@pytest.mark.parametrize("sharing", [{"evidenceReuse": {"policy": "Never", "scope": "Session"}}, {}])
async def test_not_unless_the_team_wants_it(sharing: dict[str, Any]) -> None:
    of = team(READER, knowledge=knowledge(search="Always"), sharing=sharing)
    log, _ = await a_run_before(of)
    bench = next_run([log])
    assert searches(await play(bench, of, says("Two years [1].")))[0].source == "SEARCH"
    assert bench.store.reads == 0


async def test_a_log_that_cannot_be_read_costs_a_search_and_no_answer() -> None:
    bench, of = next_run([]), session_team()

    async def away() -> list[list[StoredEvent]]:
        raise Unavailable("down", reason="DEPENDENCY_UNAVAILABLE")

    turn = bench.turn(of, QUESTION)
    turn.ledger.earlier = away
    bench.models.add(says("Two years [1]."))
    await execute(turn)
    await turn.log.close()
    steps = bench.store.steps()
    assert (searches(steps)[0].source, steps[-1].state) == ("SEARCH", "SUCCEEDED")


# --- a run that is taken over ------------------------------------------------------------


@pytest.mark.parametrize("kind", ["session", "corrected", "weak"])
async def test_from_any_point_of_its_log_a_run_ends_the_same(kind: str) -> None:
    of = session_team()
    before, _ = await a_run_before(of)

    def begin() -> Bench:
        if kind == "session":
            return next_run([before])
        bench = Bench()
        bench.knowledge.results = [results(BESIDE), *([results(PUMP)] if kind == "corrected" else [])]
        return bench

    whole = begin()
    steps = await play(whole, of, says("Two years [1]."))
    events = whole.store.log["runs/r1"]
    for keep in range(len(events) - 1):
        bench = begin()
        turn = taken_over(bench, bench.turn(of, QUESTION), events[:keep])
        bench.models.add(says("Two years [1]."))
        await execute(turn)
        await turn.log.close()
        (again,), (first,) = searches(bench.store.steps()), searches(steps)
        assert again == first
        end = bench.store.steps()[-1]
        assert isinstance(end, RunFinished)
        assert end.summary.usage == steps[-1].summary.usage
        if keep > 1:
            assert not bench.knowledge.queries  # the search was in the log


async def test_after_a_take_over_evidence_is_shared_only_if_the_documents_are_the_same() -> None:
    of = team(*PAIR, knowledge=knowledge(search="Always"))
    for now, expected in (("7", "LEDGER_EXACT"), ("8", "SEARCH")):
        _, events = await a_run_before(team(READER, knowledge=knowledge(search="Always")))
        bench = next_run([], revision=now)
        bench.models.choose = _script()
        turn = taken_over(bench, bench.turn(of, QUESTION), events[:1])
        restore(turn)
        await execute(turn)
        await turn.log.close()
        assert searches(bench.store.steps())[-1].source == expected


def _script() -> Any:
    waiting = [delegates(("ben", "b"))]

    def choose(call: Call) -> Script:
        return waiting.pop() if waiting else says("Two years [1].")

    return choose


# --- what its spans link to ----------------------------------------------------------------


@contextmanager
def kept(trace: Callable[[], RunTrace]) -> Iterator[list[Span]]:
    """The spans of a block within a trace that is kept, however the run ends."""
    with recorded() as sink:
        run = trace()
        run.leave()
        with run.use():
            yield sink.spans


def begun() -> RunTrace:
    return RunTrace.begin("helpdesk", tenant="acme")


async def a_traced_run_before(of: AgentTeam) -> tuple[list[StoredEvent], list[Event], Ref]:
    """A run's log, and the span of its search."""
    with kept(begun) as spans:
        (first, *log), events = await a_run_before(of)
        started = RunStarted(team_revision=of.revision, trace_parent=span_wire.traceparent())
    return [replace(first, step=started), *log], events, search_of(spans, "SEARCH").ref


def search_of(spans: list[Span], source: str) -> Span:
    (one,) = [s for s in spans if (s.attributes or {}).get("agentteams.search.source") == source]
    return one


async def test_evidence_of_an_earlier_run_links_to_the_search_that_found_it() -> None:
    of = session_team()
    log, _, made = await a_traced_run_before(of)
    with kept(begun) as spans:
        await play(next_run([log]), of, says("Two years [1]."))
    reused = search_of(spans, "LEDGER_SESSION")
    assert reused.links == [made]
    assert reused.ref.trace_id != made.trace_id


async def test_after_a_take_over_what_is_used_again_links_to_the_first_attempt_s_search() -> None:
    of = team(*PAIR, knowledge=knowledge(search="Always"))
    log, events, made = await a_traced_run_before(team(READER, knowledge=knowledge(search="Always")))
    bench = next_run([])
    bench.models.choose = _script()
    turn = taken_over(bench, bench.turn(of, QUESTION), events[:1])
    turn = replace(turn, recorded=Recorded.of(log[:2]))
    with kept(lambda: RunTrace.resume("helpdesk", 2, log[:2])) as spans:
        restore(turn)
        await execute(turn)
        await turn.log.close()
    assert search_of(spans, "LEDGER_EXACT").links == [made]


async def test_evidence_of_a_run_that_nobody_traced_links_to_nothing() -> None:
    of = session_team()
    log, _ = await a_run_before(of)
    with kept(begun) as spans:
        await play(next_run([log]), of, says("Two years [1]."))
    assert not search_of(spans, "LEDGER_SESSION").links
