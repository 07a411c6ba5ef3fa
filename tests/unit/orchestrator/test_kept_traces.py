"""Which traces are kept when a run ends: those of runs that were bad, or may turn out to be."""

import asyncio
from typing import Any

import pytest

from orchestrator.core.model import SearchResult
from orchestrator.core.trace_content import CONTENT_EVENT, MASK
from orchestrator.core.tracing import RunTrace
from servicekit.config import TraceSettings
from servicekit.spans import Span
from tests.support.fake_models import Script, calls, says
from tests.support.one_run import play
from tests.support.orchestrator_fakes import Bench, knowledge, team
from tests.support.recorded import recorded

pytestmark = pytest.mark.looptime

SEARCH = ("search_knowledge", '{"query": "warranty"}')
GOOD = "Two years [1]."
NEVER = {"samplePercent": 0, "scoreSuspicious": False}


async def kept(bench: Bench, *scripts: Script, **spec: Any) -> tuple[list[Span], str]:
    """What is exported of a run that nobody samples, and what its span says of the reason."""
    of = team({"name": "ann", "knowledge": ["docs"]}, knowledge=knowledge(), **spec)
    with recorded() as sink:
        trace = RunTrace.begin("teams/helpdesk", tenant="acme")
        with trace.use():
            await play(bench, of, *scripts)
        trace.end(state="SUCCEEDED", reason="")
    spans = list(sink.spans)
    return spans, str(spans[-1].attributes["agentteams.kept"]) if spans and spans[-1].attributes else ""


async def test_a_run_that_went_well_is_forgotten(bench: Bench) -> None:
    assert await kept(bench, calls(SEARCH), says(GOOD)) == ([], "")
    assert await kept(bench, calls(SEARCH), says(GOOD), evaluation={"samplePercent": 0}) == ([], "")


@pytest.mark.parametrize("spec", [{}, {"evaluation": NEVER}])
@pytest.mark.parametrize(
    ("result", "said", "sign"),
    [
        (SearchResult(outcome="EMPTY", ready_documents=3), "I do not know.", "no_evidence"),
        (SearchResult(outcome="DEGRADED", reasons=("no words",)), "I do not know.", "retrieval_degraded"),
        (SearchResult(outcome="FAILED", reasons=("away",)), "I do not know.", "retrieval_failed"),
        (None, "Two years.", "no_citations"),
        (None, "Two years [1], or three [7].", "unknown_citations"),
    ],
)
async def test_suspicious_runs_are_kept_whole_whether_or_not_they_are_scored(
    bench: Bench, spec: dict[str, Any], result: SearchResult | None, said: str, sign: str
) -> None:
    if result is not None:
        bench.knowledge.results = [result]
    spans, why = await kept(bench, calls(SEARCH), says(said), **spec)
    assert why == "degraded"
    marks = (spans[-1].attributes or {})["agentteams.marks"]
    assert isinstance(marks, list)
    assert sign in marks
    names = [span.name.split()[0] for span in spans]
    assert {"chat", "execute_tool", "retrieval", "session_save"} <= set(names)


async def test_a_guardrail_that_found_something_keeps_the_run(bench: Bench) -> None:
    spec = {"guardrails": {"output": [{"type": "PII", "action": "Mask"}]}}
    spans, why = await kept(bench, calls(SEARCH), says("Ask ada@example.org [1]."), **spec)
    assert (bool(spans), why) == (True, "degraded")


async def test_a_run_that_took_half_of_its_time_is_kept(bench: Bench) -> None:
    slow = {"limits": {"runTimeoutSeconds": 10}}
    bench.knowledge.gate = asyncio.Event()
    asyncio.get_running_loop().call_later(6, bench.knowledge.gate.set)
    spans, why = await kept(bench, calls(SEARCH), says(GOOD), **slow)
    assert (bool(spans), why) == (True, "slow")


async def test_runs_that_are_to_be_scored_are_kept_since_the_score_comes_too_late(bench: Bench) -> None:
    spans, why = await kept(bench, calls(SEARCH), says(GOOD), evaluation={"samplePercent": 100})
    assert (bool(spans), why) == (True, "scored")


@pytest.mark.parametrize("wanted", [False, True])
async def test_what_was_said_is_in_traces_only_where_that_is_wanted_and_without_secrets(
    bench: Bench, wanted: bool
) -> None:
    of = team({"name": "ann"}, evaluation={"samplePercent": 100})  # kept
    with recorded(content=wanted) as sink:
        trace = RunTrace.begin("teams/helpdesk", tenant="acme")
        with trace.use():
            await play(bench, of, says("It is api_key=hunter2222."), question="Is password=swordfish right?")
        trace.end(state="SUCCEEDED", reason="")
    assert any(span.name.startswith("chat ") for span in sink.spans)
    events = [(span.name.split()[0], event) for span in sink.spans for event in span.events or ()]
    everything = str([(span.name, span.attributes, span.events) for span in sink.spans])
    assert "swordfish" not in everything
    assert "hunter2222" not in everything
    if not wanted:
        assert events == []
        assert "password=" not in everything
        return
    ((of_span, event),) = events
    assert (of_span, event.name) == ("chat", CONTENT_EVENT)
    assert f"password={MASK} right?" in str(event.attributes["gen_ai.input.messages"])
    assert f"api_key={MASK}" in str(event.attributes["gen_ai.output.messages"])


def test_what_was_said_is_not_in_traces_unless_somebody_asks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AGENTTEAMS_TRACE_CONTENT", raising=False)
    assert TraceSettings().trace_content is False
