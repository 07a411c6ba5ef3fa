"""Runs that outlive the process that works on them."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

import pytest
from prometheus_client import REGISTRY

from manifests import AgentTeam
from orchestrator.core.chat import TextPart
from orchestrator.core.model import (
    Event,
    EvidenceRetrieved,
    MessageCompleted,
    ModelCallFinished,
    RunFinished,
    RunResumed,
    TextDelta,
    ToolCallFinished,
    ToolCallStarted,
)
from orchestrator.core.run import execute
from servicekit.errors import FailedPrecondition, Unavailable
from tests.support.fake_knowledge import ok
from tests.support.fake_models import Call, Script, calls, delegates, says
from tests.support.fleet import Fleet, events, texts
from tests.support.orchestrator_fakes import Bench, knowledge, of_type, team

pytestmark = [pytest.mark.looptime, pytest.mark.usefixtures("as_ada")]

SEARCH = ("search_knowledge", '{"query": "warranty"}')
MEMBERS = ({"name": "ann", "knowledge": ["docs"]}, {"name": "ben", "knowledge": ["docs"]})


def evidence(log: Sequence[Event]) -> dict[str, Any]:
    return {e.step.step: e.step.evidence for e in log if isinstance(e.step, EvidenceRetrieved)}


def prompts_of(made: Sequence[Call]) -> list[str]:
    return sorted(repr(call.prompts) for call in made)


# --- every step boundary ------------------------------------------------------


def one_after_the_other(call: Call) -> Script:
    """A leader that asks Ann, then Ben, then answers; both search twice."""
    if "delegate_task" in call.tools:
        told = sum(prompt.role == "tool" for prompt in call.prompts)
        return [delegates(("ann", "find")), delegates(("ben", "write")), says("So it is [1].")][told]
    return _member(call)


def side_by_side(call: Call) -> Script:
    """A leader that asks both at once."""
    if "delegate_task" in call.tools:
        told = any(prompt.role == "tool" for prompt in call.prompts)
        return says("Both agree [2].") if told else delegates(("ann", "find"), ("ben", "write"))
    return _member(call)


def _member(call: Call) -> Script:
    if any(prompt.role == "tool" for prompt in call.prompts):
        return [0.3, *says("A report [1].")]
    who = "ann" if "Your task: find" in call.last else "ben"
    query = f'{{"query": "warranty of {who}"}}'
    return [0.1 if who == "ann" else 0.4, *calls(("search_knowledge", query), SEARCH, text="I look.")]


def alone(call: Call) -> Script:
    """An agent without a team."""
    return says("It lasts [2].") if call.prompts[-1].role == "tool" else calls(SEARCH, SEARCH)


TEAM = team(*MEMBERS, knowledge=knowledge(), sharing={"memberInteractions": "AnswersAndEvidence"})
SCENES = {
    "in turn": (TEAM, one_after_the_other),
    "side by side": (TEAM, side_by_side),
    "always": (team(*MEMBERS, knowledge=knowledge(search="Always")), side_by_side),
    "alone": (team(MEMBERS[0], knowledge=knowledge()), alone),
}


def ready(of: AgentTeam, choose: Any) -> Bench:
    bench = Bench()
    bench.catalogue.all_teams = [of]
    bench.models.choose = choose
    bench.knowledge.results = [ok("a", "b"), ok("c", "a"), ok("d", "b")]
    return bench


@pytest.mark.parametrize("scene", SCENES)
async def test_a_run_goes_on_from_whatever_its_log_holds(scene: str) -> None:
    of, choose = SCENES[scene]
    whole = ready(of, choose)
    turn = whole.turn(of)
    await execute(turn)
    await turn.log.close()
    full = whole.store.log["runs/r1"]
    for kept in range(len(full)):  # every state of the log but the last, in which the run has ended
        bench = ready(of, choose)
        searched = sum(found.source == "SEARCH" for found in of_type(_steps(full[:kept]), EvidenceRetrieved))
        del bench.knowledge.results[: min(searched, 2)]
        run = bench.store.crashed(of, full[:kept])
        async with AsyncExitStack() as stack:
            fleet = Fleet(bench=bench, stack=stack)
            process = await fleet.begin("b")
            items = await process.follow(run)
            later = await process.follow(run, after=kept)
        log = bench.store.log[run]
        where = f"{scene}, {kept} of {len(full)}"
        # Nothing that is stored was changed, and nothing is missing or there twice.
        assert log[:kept] == full[:kept], where
        assert [e.sequence for e in log] == list(range(2, len(log) + 2)), where
        assert [e.sequence for e in events(items)] == list(range(1, len(log) + 2)), where
        assert [e.sequence for e in events(later)] == list(range(kept + 1, len(log) + 2)), where
        # The same steps with the same outcome, each of them once.
        answered = any(isinstance(e.step, MessageCompleted) for e in full[:kept])
        resumed = [e.step for e in log if isinstance(e.step, RunResumed)]
        assert len(resumed) == (0 if answered else 1), where
        assert answered or isinstance(log[kept].step, RunResumed), where
        for kind in (ModelCallFinished, ToolCallFinished, EvidenceRetrieved, MessageCompleted):
            names = sorted(_name(e.step) for e in log if isinstance(e.step, kind))
            assert names == sorted(_name(e.step) for e in full if isinstance(e.step, kind)), where
        started = [e.step.call_id for e in log if isinstance(e.step, ToolCallStarted) and e.step.attempt == 1]
        assert sorted(started) == sorted(
            e.step.call_id for e in full if isinstance(e.step, ToolCallStarted)
        ), where
        repeated = [e.step for e in log if isinstance(e.step, ToolCallStarted) and e.step.attempt > 1]
        assert sorted(s.call_id for s in repeated) == sorted(c for r in resumed for c in r.repeated_calls)
        if scene in ("in turn", "alone"):
            # Beside one another, who searches first may differ; in turn it may not.
            assert evidence(log) == evidence(full), where
        done = sum(isinstance(e.step, ModelCallFinished) for e in full[:kept])
        assert len(bench.models.calls) == len(whole.models.calls) - done, where
        if scene != "side by side":
            assert set(prompts_of(bench.models.calls)) <= set(prompts_of(whole.models.calls)), where
        end = log[-1].step
        assert isinstance(end, RunFinished), where
        assert end.state == "SUCCEEDED", where
        assert end.summary.usage == full[-1].step.summary.usage, where  # type: ignore[union-attr]
        (answer,) = [e.step.message for e in log if isinstance(e.step, MessageCompleted)]
        if not answered:
            assert texts(items)[answer.name] == answer.content, where


def _steps(log: Sequence[Event]) -> list[Any]:
    return [event.step for event in log]


def _name(step: Any) -> str:
    match step:
        case MessageCompleted():
            return str(step.message.content)
        case ToolCallFinished():
            return step.call_id
        case _:
            return f"{step.step}"


# --- several processes ------------------------------------------------------------


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110  looptime: no time passes
            await asyncio.sleep(0.05)


async def test_a_killed_process_is_replaced_and_its_text_begins_anew(fleet: Fleet) -> None:
    bench = fleet.bench
    bench.catalogue.all_teams = [team()]
    first, second = await fleet.begin("a"), await fleet.begin("b")
    bench.models.add([TextPart(text="Half of"), asyncio.Event()])
    row = await first.start()
    follower = asyncio.create_task(second.follow(row.name))
    await asyncio.sleep(2)
    assert fleet.peers.followed == ["a"]
    began = asyncio.get_running_loop().time()
    bench.models.add(says("All of it."))
    await first.kill()
    items = await follower
    assert asyncio.get_running_loop().time() - began < 2.5  # the lease is over with the kill here
    assert [e.sequence for e in events(items)] == [1, 2, 3, 4, 5]
    pieces = [item for item in items if isinstance(item, TextDelta)]
    assert {piece.message for piece in pieces} == {"text-#1"}
    assert texts(items)["text-#1"] == "All of it."
    assert bench.store.steps()[0] == RunResumed(attempt=2, repeated_calls=())


async def test_an_owner_that_wakes_up_too_late_is_refused_and_stops(fleet: Fleet) -> None:
    bench = fleet.bench
    bench.catalogue.all_teams = [team()]
    first = await fleet.begin("a")
    bench.models.add([TextPart(text="Zombie"), 0.5, *says(" speaks")], says("Alive."))
    await first.start()
    await bench.models.called.wait()
    bench.store.free("runs/r1", lost=True)
    bench.store.take("b")  # as another process would
    bench.store.free("runs/r1", lost=True)
    second = await fleet.begin("b")
    items = await second.follow()
    zombie = await first.follow()
    assert texts(items)["text-#1"] == "Alive."
    assert events(zombie)[-1].sequence == events(items)[-1].sequence
    (answer,) = of_type(bench.store.steps(), MessageCompleted)
    assert answer.message.content == "Alive."
    await until(lambda: not first.runs._held.active)
    assert sum(isinstance(step, RunFinished) for step in bench.store.steps()) == 1


async def test_a_queued_run_begins_when_the_one_before_it_ends_and_is_followed_all_the_while(
    fleet: Fleet,
) -> None:
    bench = fleet.bench
    bench.catalogue.all_teams = [team(limits={"maxConcurrentRuns": 1})]
    first, second = await fleet.begin("a"), await fleet.begin("b")
    gate = asyncio.Event()
    bench.models.add([gate, *says("One.")], says("Two."))
    row = await first.start("q1")
    waiting = await first.start("q2", session=row.session)
    assert waiting.state == "PENDING"
    here = asyncio.create_task(first.follow(waiting.name))
    elsewhere = asyncio.create_task(second.follow(waiting.name))
    await asyncio.sleep(3)
    assert len(bench.models.calls) == 1
    gate.set()
    for items in (await here, await elsewhere):
        assert [e.sequence for e in events(items)] == [1, 2, 3, 4]
    assert bench.store.steps(waiting.name)[-1].state == "SUCCEEDED"
    assert not list(of_type(bench.store.steps(waiting.name), RunResumed))
    await until(lambda: not first.runs._places)


async def test_a_session_that_is_busy_may_refuse_and_may_be_interrupted(fleet: Fleet) -> None:
    bench = fleet.bench
    bench.catalogue.all_teams = [team()]
    first = await fleet.begin("a")
    bench.models.add([TextPart(text="Half"), asyncio.Event()], says("Rather this."))
    row = await first.start("q1")
    await bench.models.called.wait()
    with pytest.raises(FailedPrecondition) as caught:
        await first.start("q2", session=row.session, on_busy="REJECT")
    assert caught.value.reason == "SESSION_BUSY"
    following = await first.start("q3", session=row.session, on_busy="INTERRUPT")
    items = await first.follow(following.name)
    assert texts(items)["text-#1"] == "Rather this."
    assert bench.store.steps(row.name)[-1].state == "CANCELLED"


@pytest.mark.parametrize("reachable", [True, False])
async def test_a_run_is_cancelled_from_another_process(fleet: Fleet, reachable: bool) -> None:
    bench = fleet.bench
    bench.catalogue.all_teams = [team()]
    first, second = await fleet.begin("a"), await fleet.begin("b")
    bench.models.add([asyncio.Event()])
    row = await first.start()
    await bench.models.called.wait()
    if not reachable:
        del fleet.peers.processes["a"]
    began = asyncio.get_running_loop().time()
    await second.runs.cancel(row.name)
    items = await second.follow(row.name)
    assert events(items)[-1].kind == "run_finished" if not reachable else True
    assert bench.store.steps()[-1].state == "CANCELLED"
    assert asyncio.get_running_loop().time() - began < 3


async def test_a_run_that_was_cancelled_while_nobody_had_it_only_ends(fleet: Fleet) -> None:
    of = team()
    fleet.bench.catalogue.all_teams = [of]
    run = fleet.store.crashed(of, [])
    fleet.store.asked_to_stop.add(run)
    await (await fleet.begin("b")).follow(run)
    assert [step.state for step in fleet.store.steps()] == ["CANCELLED"]
    assert not fleet.bench.models.calls


async def test_a_stopping_process_hands_its_run_over(fleet: Fleet) -> None:
    bench = fleet.bench
    bench.catalogue.all_teams = [TEAM]
    bench.models.choose = lambda call: (
        delegates(("ann", "find")) if "delegate_task" in call.tools else [asyncio.Event()]
    )
    first, second = await fleet.begin("a"), await fleet.begin("b")
    row = await first.start()
    follower = asyncio.create_task(first.follow(row.name))
    await until(lambda: len(bench.models.calls) == 2)
    bench.models.choose = side_by_side
    await first.runs.drain(timedelta(seconds=1))
    with pytest.raises(Unavailable):
        await follower
    with pytest.raises(Unavailable):
        await first.start("q2")
    items = await second.follow(row.name)
    log = bench.store.log[row.name]
    assert [e.sequence for e in events(items)] == list(range(1, len(log) + 2))
    assert log[-1].step.state == "SUCCEEDED"  # type: ignore[union-attr]
    assert bench.store.rows[row.name].lost_attempts == 0
    # The leader's first call was stored with the hand-over, and not made again.
    assert [s.step for s in of_type(_steps(log), ModelCallFinished)].count("#1") == 1


async def test_a_run_that_kills_its_process_again_and_again_is_given_up(fleet: Fleet) -> None:
    of = team()
    fleet.bench.catalogue.all_teams = [of]
    run = fleet.store.crashed(of, [], lost_attempts=5)
    labels = {"reason": "RUN_ATTEMPTS_EXHAUSTED"}
    labels["team"] = f"{of.metadata.namespace}/{of.metadata.name}"
    before = REGISTRY.get_sample_value("agentteams_run_failures_total", labels) or 0.0
    await (await fleet.begin("b")).follow(run)
    (end,) = fleet.store.steps()
    assert (end.state, end.error.reason) == ("FAILED", "RUN_ATTEMPTS_EXHAUSTED")
    assert REGISTRY.get_sample_value("agentteams_run_failures_total", labels) == before + 1
    assert not fleet.bench.models.calls


@pytest.mark.parametrize(
    ("now", "reason"),
    [
        (None, "TEAM_NOT_FOUND"),
        (team({"name": "ben"}, {"name": "carl"}), "TEAM_CHANGED"),
        (team({"name": "ann"}), "TEAM_CHANGED"),
        (team({"name": "ann"}, {"name": "carl"}, instructions="New."), ""),
    ],
)
async def test_a_run_whose_team_was_changed_goes_on_if_its_steps_fit(
    fleet: Fleet, now: AgentTeam | None, reason: str
) -> None:
    of = team({"name": "ann"}, {"name": "ben"})
    before = Bench()
    before.catalogue.all_teams = [of]
    before.models.add(delegates(("ann", "x")), says("report"), says("done"))
    turn = before.turn(of)
    await execute(turn)
    await turn.log.close()
    fleet.bench.catalogue.all_teams = [now] if now else []
    fleet.bench.models.add(says("Gone on."))
    run = fleet.store.crashed(of, before.store.log["runs/r1"][:5])
    await (await fleet.begin("b")).follow(run)
    end = fleet.store.steps()[-1]
    assert (end.error.reason if end.error else "") == reason


async def test_a_process_takes_its_own_run_back_and_goes_on(fleet: Fleet) -> None:
    bench = fleet.bench
    bench.catalogue.all_teams = [team()]
    first = await fleet.begin("a")
    bench.models.add([4.0, *says("Late, but here.")])
    row = await first.start()
    await bench.models.called.wait()
    await asyncio.sleep(0.2)
    bench.store.free(row.name, lost=True)
    first.link.store.take("a")
    first.runs._take(bench.store._acquired(row.name))
    items = await first.follow(row.name)
    assert len(bench.models.calls) == 1
    assert texts(items)["text-#1"] == "Late, but here."
    assert not list(of_type(bench.store.steps(), RunResumed))


async def test_a_forwarded_call_is_not_passed_on_again(fleet: Fleet) -> None:
    of = team()
    fleet.store.crashed(of, [])
    fleet.store.holders["runs/r1"] = "gone"
    second = await fleet.begin("b")
    with pytest.raises(Unavailable):
        _ = [item async for item in second.runs.follow("runs/r1", after=0, forwarded=True)]


async def test_who_reads_from_the_store_has_the_texts_of_the_last_attempt(fleet: Fleet) -> None:
    of = team()
    fleet.bench.catalogue.all_teams = [of]
    fleet.bench.models.add(says("All of it."))
    await (await fleet.begin("a")).follow(fleet.store.crashed(of, []))
    items = await (await fleet.begin("b")).follow()
    assert [e.sequence for e in events(items)] == [1, 2, 3, 4, 5]
    assert [(i.message, i.offset, i.text) for i in items if isinstance(i, TextDelta)] == [
        ("text-#1", 0, "All of it.")
    ]
