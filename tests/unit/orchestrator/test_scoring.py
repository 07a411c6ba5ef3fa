"""Which runs are to be scored: decided at their end, the same by every process."""

from typing import Any

import pytest

from orchestrator.adapters.events_pb import summary_to_pb
from orchestrator.core.model import RunFinished, SearchResult
from orchestrator.core.totals import Summary, Usage
from servicekit.errors import NotFound
from tests.support.fake_models import Script, calls, says
from tests.support.one_run import play
from tests.support.orchestrator_fakes import Bench, knowledge, team

pytestmark = pytest.mark.looptime

SEARCH = ("search_knowledge", '{"query": "warranty"}')
EMPTY = SearchResult(outcome="EMPTY", ready_documents=3)
DEGRADED = SearchResult(outcome="DEGRADED", reasons=("keyword search is missing",), ready_documents=3)
FAILED = SearchResult(outcome="FAILED", reasons=("it does not answer",))


async def summary(bench: Bench, *scripts: Script, evaluation: dict[str, Any] | None) -> Summary:
    spec: dict[str, Any] = {} if evaluation is None else {"evaluation": evaluation}
    of = team({"name": "ann", "knowledge": ["docs"]}, knowledge=knowledge(), **spec)
    steps = await play(bench, of, *scripts)
    assert isinstance(steps[-1], RunFinished)
    return steps[-1].summary


async def test_a_team_that_asks_for_nothing_is_not_scored(bench: Bench) -> None:
    assert (await summary(bench, says("Hello."), evaluation=None)).scoring is None


@pytest.mark.parametrize(("percent", "selection"), [(100, "SAMPLED"), (0, None)])
async def test_the_share_decides_about_runs_without_signs(
    bench: Bench, percent: int, selection: str | None
) -> None:
    found = await summary(bench, calls(SEARCH), says("Two years [1]."), evaluation={"samplePercent": percent})
    assert (found.scoring and found.scoring.selection) == selection
    assert found.scoring is None or found.scoring.suspicions == ()


@pytest.mark.parametrize(
    ("result", "said", "sign"),
    [
        (EMPTY, "I do not know.", "no_evidence"),
        (DEGRADED, "I do not know.", "retrieval_degraded"),
        (FAILED, "I do not know.", "retrieval_failed"),
        (None, "Two years.", "no_citations"),
        (None, "Two years [1], or three [7].", "unknown_citations"),
    ],
)
async def test_suspicious_runs_are_scored_beyond_the_share(
    bench: Bench, result: SearchResult | None, said: str, sign: str
) -> None:
    if result is not None:
        bench.knowledge.results = [result]
    found = await summary(bench, calls(SEARCH), says(said), evaluation={"samplePercent": 0})
    assert found.scoring is not None
    assert found.scoring.selection == "SUSPICIOUS"
    assert sign in found.scoring.suspicions


async def test_a_sampled_run_keeps_its_signs_and_stays_part_of_the_sample(bench: Bench) -> None:
    found = await summary(bench, calls(SEARCH), says("Two years."), evaluation={"samplePercent": 100})
    assert found.scoring is not None
    assert (found.scoring.selection, found.scoring.suspicions) == ("SAMPLED", ("no_citations",))


async def test_suspicious_runs_can_be_left_out(bench: Bench) -> None:
    wanted = {"samplePercent": 0, "scoreSuspicious": False}
    found = await summary(bench, calls(SEARCH), says("Two years."), evaluation=wanted)
    assert found.scoring is None


async def test_a_run_without_an_answer_is_not_scored(bench: Bench) -> None:
    found = await summary(
        bench, [NotFound("gone", reason="MODEL_REJECTED")], evaluation={"samplePercent": 100}
    )
    assert found.scoring is None


async def test_the_decision_is_stored_with_the_end(bench: Bench) -> None:
    found = await summary(bench, calls(SEARCH), says("Two years."), evaluation={"samplePercent": 100})
    stored = summary_to_pb(found)
    assert stored.scoring.Selection.Name(stored.scoring.selection) == "SELECTION_SAMPLED"
    assert list(stored.scoring.suspicions) == ["no_citations"]
    without = summary_to_pb(Summary(usage=Usage(), seconds=1, stages=()))
    assert not without.HasField("scoring")
