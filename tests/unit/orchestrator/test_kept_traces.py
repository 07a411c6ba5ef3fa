"""Which traces are kept when a run ends: those of runs that were bad, or may turn out to be."""

import asyncio
from typing import Any

import pytest

from orchestrator.core.model import SearchResult
from orchestrator.core.tracing import RunTrace
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
