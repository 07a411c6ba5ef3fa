"""A whole run: how a team works together, and how its end is stored."""

import asyncio
from typing import Any

import pytest
from prometheus_client import REGISTRY

from orchestrator.core.chat import TextPart
from orchestrator.core.log import LogUnavailable
from orchestrator.core.model import (
    EvidenceRetrieved,
    MemberFinished,
    MemberStarted,
    Message,
    MessageCompleted,
    RunFinished,
    SearchResult,
    TextDelta,
    ToolCallFinished,
    ToolCallStarted,
)
from orchestrator.core.run import execute
from servicekit.errors import Conflict, InvalidArgument, NotFound, ServiceError, Unavailable
from tests.support.fake_knowledge import chunk
from tests.support.fake_models import Call, Script, calls, delegates, done, says
from tests.support.fake_store import DOWN, LEASE_LOST
from tests.support.one_run import answer, one, play
from tests.support.orchestrator_fakes import Bench, flat, knowledge, of_type, team

pytestmark = pytest.mark.looptime

MODEL_DOWN = Unavailable("no answer", reason="MODEL_UNAVAILABLE")
SEARCH = ("search_knowledge", '{"query": "warranty"}')
PAIR = ({"name": "ann"}, {"name": "ben"})
TWO = ({"name": "ann", "knowledge": ["docs"]}, {"name": "ben", "knowledge": ["docs"]})


def end(steps: list[Any]) -> RunFinished:
    assert isinstance(steps[-1], RunFinished)
    assert sum(isinstance(step, RunFinished) for step in steps) == 1
    return steps[-1]


# --- teams --------------------------------------------------------------------


async def test_one_member_speaks_as_the_team(bench: Bench) -> None:
    history = (Message(role="user", content="Before?"), Message(role="assistant", content="Yes."))
    of = team({"name": "ann", "instructions": "Be brief.", "knowledge": ["docs"]}, knowledge=knowledge())
    steps = await play(bench, of, calls(SEARCH), says("It lasts [1]."), history=history)
    assert {event.member for event in bench.store.log["runs/r1"]} == {""}
    first = bench.models.calls[0]
    assert first.tools == ["search_knowledge"]
    assert first.prompts[0].content.startswith("Be brief.")
    assert [p.content for p in first.prompts[1:3]] == ["Before?", "Yes."]
    assert [c.number for c in one(steps, MessageCompleted).message.citations] == [1]
    assert end(steps).state == "SUCCEEDED"
    assert not list(of_type(steps, MemberStarted))


async def test_a_leader_delegates_and_answers_from_the_reports(bench: Bench) -> None:
    steps = await play(
        bench, team(*PAIR), delegates(("ann", "find it")), says("Found [1]."), says("So it is found.")
    )
    leader, ann, again = bench.models.calls
    assert leader.tools == ["delegate_task"]
    assert "- ann: agent" in leader.prompts[0].content
    assert "Question of the user: Why?" in ann.last
    assert "Your task: find it" in ann.last
    assert again.last == "Found [1]."
    started, finished = one(steps, MemberStarted), one(steps, MemberFinished)
    call = one(steps, ToolCallStarted)
    assert started.call_id == finished.call_id == call.call_id
    assert (started.task, finished.answer) == ("find it", "Found [1].")
    assert answer(steps) == "So it is found."


async def test_members_side_by_side_search_once(bench: Bench) -> None:
    def choose(call: Call) -> Script:
        if call.tools != ["delegate_task"]:
            return [1.0, *says("report [1]")]
        return (
            says("Both agree.") if call.prompts[-1].role == "tool" else delegates(("ann", "a"), ("ben", "b"))
        )

    bench.models.choose = choose
    steps = await play(bench, team(*TWO, knowledge=knowledge(search="Always")))
    assert [q.text for q in bench.knowledge.queries] == ["Why?"]
    searched, reused = of_type(steps, EvidenceRetrieved)
    assert (searched.source, reused.source) == ("SEARCH", "LEDGER_EXACT")
    assert reused.evidence == searched.evidence
    usage = end(steps).summary.usage
    assert (usage.searches, usage.searches_saved) == (1, 1)
    assert all("[1] (a.md)" in c.last for c in bench.models.calls[1:3])
    stages = {s.stage: s.seconds for s in end(steps).summary.stages}
    assert stages["llm_inference"] == pytest.approx(2)
    assert end(steps).summary.seconds == pytest.approx(1, abs=0.3)


async def test_a_member_that_fails_is_told_to_the_leader(bench: Bench) -> None:
    steps = await play(
        bench,
        team(*PAIR),
        delegates(("ann", "x"), ("nobody", "x")),
        [NotFound("gone", reason="MODEL_REJECTED")],
        says("Without Ann."),
    )
    assert answer(steps) == "Without Ann."
    told = [p.content for p in bench.models.calls[-1].prompts if p.role == "tool"]
    assert told[0] == "ann could not do it: gone"
    assert '"nobody" is not one of "ann" or "ben"' in told[1]
    assert one(steps, MemberFinished).error.message == "gone"


async def test_a_limit_that_a_member_reaches_ends_the_run(bench: Bench) -> None:
    steps = await play(
        bench,
        team(*PAIR, limits={"maxTokensPerRun": 256}),
        delegates(("ann", "x")),
        [done("long", tokens=300)],
    )
    assert (end(steps).state, end(steps).error.reason) == ("FAILED", "RUN_LIMIT_REACHED")  # type: ignore[union-attr]
    assert one(steps, MemberFinished).error.reason == "RUN_LIMIT_REACHED"
    assert one(steps, ToolCallFinished).error.reason == "RUN_LIMIT_REACHED"


@pytest.mark.parametrize(
    ("interactions", "reports", "evidence"),
    [("None", False, False), ("Answers", True, False), ("AnswersAndEvidence", True, True)],
)
async def test_what_members_see_of_one_another(
    bench: Bench, interactions: str, reports: bool, evidence: bool
) -> None:
    of = team(
        TWO[0],
        {"name": "ben"},
        knowledge=knowledge(search="Always"),
        sharing={"memberInteractions": interactions},
    )
    await play(
        bench,
        of,
        delegates(("ann", "find")),
        says("Ann's report"),
        delegates(("ben", "write")),
        says("Ben's report"),
        says("Done."),
    )
    ben = bench.models.calls[3].last
    assert ('<report by="ann">\nAnn\'s report\n</report>' in ben) is reports
    assert ("<evidence>" in ben) is evidence


# --- searching ------------------------------------------------------------------


@pytest.mark.parametrize("members", [1, 2])
async def test_a_knowledge_base_without_documents_is_said_without_a_model(bench: Bench, members: int) -> None:
    bench.knowledge.results = [SearchResult(outcome="EMPTY", ready_documents=0)]
    of = team(*TWO[:members], knowledge=knowledge(search="Always"))
    steps = await play(bench, of, *([delegates(("ann", "x"))] if members == 2 else []))
    assert len(bench.models.calls) == members - 1
    assert "agentteams ingest docs PATH" in answer(steps)
    assert end(steps).state == "SUCCEEDED"
    assert len(list(of_type(steps, MemberStarted))) == len(list(of_type(steps, MemberFinished)))


@pytest.mark.parametrize("on_empty", ["Refuse", "Answer"])
async def test_nothing_found_is_refused_where_the_team_says_so(bench: Bench, on_empty: str) -> None:
    bench.knowledge.results = [SearchResult(outcome="EMPTY", ready_documents=3)]
    of = team(TWO[0], knowledge=knowledge(search="Always", onEmpty=on_empty))
    bench.models.add(says("A guess."))
    turn = bench.turn(of)
    items: list[Any] = []

    async def follow() -> None:
        items.extend([item async for item in flat(turn.log.follow(1))])

    async with asyncio.TaskGroup() as group:
        group.create_task(follow())
        await execute(turn)
    said = answer(bench.store.steps())
    assert "".join(i.text for i in items if isinstance(i, TextDelta)) == said
    if on_empty == "Refuse":
        assert said == "I found nothing about this in the documents: Why?"
        assert not bench.models.calls
    else:
        assert said == "A guess."
        assert "Nothing was found" in bench.models.calls[0].last


@pytest.mark.parametrize(
    ("error", "tries"),
    [
        (DOWN, 5),
        (NotFound("no such knowledge base", reason="KNOWLEDGE_BASE_NOT_FOUND"), 1),
        (InvalidArgument.field("query", "is too long"), 1),
    ],
)
async def test_a_search_that_does_not_work_is_never_an_empty_one(
    bench: Bench, error: ServiceError, tries: int
) -> None:
    bench.knowledge.results = [error]
    of = team(TWO[0], knowledge=knowledge(search="Always"))
    steps = await play(bench, of, says("I could not look it up."))
    assert f"The search did not work: {error.message}" in bench.models.calls[0].last
    told = one(steps, EvidenceRetrieved)
    assert (told.outcome, told.reason) == ("FAILED", error.message)
    assert len(bench.knowledge.queries) == tries


async def test_a_search_without_the_embedding_service_is_made_all_the_same(bench: Bench) -> None:
    bench.embedder.error = DOWN
    await play(bench, team(TWO[0], knowledge=knowledge(search="Always")), says("ok"))
    assert [query.vector for query in bench.knowledge.queries] == [None]


async def test_a_limited_search_says_so(bench: Bench) -> None:
    bench.knowledge.results = [
        SearchResult(outcome="DEGRADED", reasons=("by words only",), chunks=(chunk("a"),), ready_documents=1)
    ]
    await play(bench, team(TWO[0], knowledge=knowledge(search="Always")), says("ok"))
    assert "Note: the search was limited: by words only." in bench.models.calls[0].last


async def test_time_that_the_retrieval_service_tells_of_is_its_own_stage(bench: Bench) -> None:
    bench.knowledge.results = [
        SearchResult(
            outcome="OK", chunks=(chunk("a"),), stages={"rerank": 2.0, "vector_search": 1.0, "odd": 9}
        )
    ]
    steps = await play(bench, team(TWO[0], knowledge=knowledge(search="Always")), says("ok"))
    stages = {s.stage: s.seconds for s in end(steps).summary.stages}
    assert stages["rerank"] == 2
    assert "odd" not in stages


# --- ends -------------------------------------------------------------------------


async def test_a_run_that_takes_too_long_keeps_what_was_written(bench: Bench) -> None:
    of = team(limits={"runTimeoutSeconds": 5})
    steps = await play(bench, of, [TextPart(text="So far"), asyncio.Event()])
    reason = "the run took longer than the team's limits.runTimeoutSeconds, 5 s"
    assert answer(steps) == f"So far\n\n[The answer ends here: {reason}]"
    assert (end(steps).state, end(steps).error.reason) == ("FAILED", "RUN_TIMEOUT")  # type: ignore[union-attr]
    assert end(steps).summary.seconds == pytest.approx(5)


async def test_another_timeout_is_not_the_run_s(bench: Bench) -> None:
    steps = await play(bench, team(), [TimeoutError("a bug")])
    assert end(steps).error.reason == "INTERNAL"  # type: ignore[union-attr]
    assert end(steps).error.message == "internal error"  # type: ignore[union-attr]


async def test_a_model_that_stays_down_fails_the_run_without_a_message(bench: Bench) -> None:
    steps = await play(bench, team(), *[[MODEL_DOWN]] * 3)
    assert [type(step) for step in steps] == [RunFinished]
    assert (end(steps).state, end(steps).error) == ("FAILED", MODEL_DOWN)


async def test_a_part_of_an_answer_is_stored_together_with_its_end(bench: Bench) -> None:
    """Alone in the log it would pass for the answer, if this process died right then."""
    half: list[Script] = [[TextPart(text="Half"), MODEL_DOWN]] * 3
    await play(bench, team(), *half)
    assert bench.store.batches == [2]


async def test_an_answer_and_its_end_are_stored_in_one_call(bench: Bench) -> None:
    await play(bench, team(), says("ok"))
    assert bench.store.batches == [3]


async def test_the_end_is_shown_as_it_is_stored(bench: Bench) -> None:
    """The store adds what only it knows: how long storing took."""
    bench.models.add(says("ok"))
    turn = bench.turn(team())
    await execute(turn)
    await turn.log.close()
    shown = turn.log.published[-1].payload.run_finished  # type: ignore[attr-defined]
    assert "session_save" in {stage.stage for stage in shown.summary.stages}


async def test_a_lost_lease_ends_the_work_without_a_word(bench: Bench) -> None:
    bench.store.failing = LEASE_LOST
    with pytest.raises(Conflict):
        await play(bench, team(*PAIR), delegates(("ann", "x")), [1.0, *says("report")], says("never"))
    assert len(bench.models.calls) == 2
    assert bench.store.log.get("runs/r1", []) == []


async def test_a_store_that_is_gone_ends_the_work(bench: Bench) -> None:
    bench.store.failing = DOWN
    with pytest.raises(LogUnavailable):
        await play(bench, team(*PAIR), delegates(("ann", "x")), [90.0, *says("report")], says("never"))
    assert len(bench.models.calls) == 2


async def test_a_model_that_no_manifest_has_is_named(bench: Bench) -> None:
    bench.catalogue.models = []
    steps = await play(bench, team())
    assert 'ModelConfig "chat" is not in namespace "default"' in end(steps).error.message  # type: ignore[union-attr]


async def test_a_teams_stages_have_the_time_that_storing_the_end_took(bench: Bench) -> None:
    labels = {"team": "default/helpdesk", "stage": "session_save"}

    def counted() -> float:
        return REGISTRY.get_sample_value("agentteams_team_stage_seconds_total", labels) or 0.0

    before = counted()
    bench.store.gate = asyncio.Event()
    asyncio.get_running_loop().call_later(0.5, bench.store.gate.set)
    await play(bench, team({"name": "ann"}), says("Yes."))
    assert counted() - before == pytest.approx(0.5, abs=0.05)
