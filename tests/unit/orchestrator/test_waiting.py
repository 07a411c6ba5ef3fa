"""Runs that wait for people: approvals, questions, and what happens meanwhile."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from orchestrator.core.log import Parked
from orchestrator.core.model import (
    InputProvided,
    InputRequested,
    ModelCallFinished,
    Question,
    RunFinished,
    RunInput,
    RunResumed,
    ToolCallFinished,
    ToolCallStarted,
)
from servicekit.context import Caller, scope
from servicekit.errors import AlreadyExists, FailedPrecondition, InvalidArgument, PermissionDenied
from tests.support.fake_models import calls, delegates, says
from tests.support.fake_store import ADA
from tests.support.fleet import Fleet, Process, texts
from tests.support.orchestrator_fakes import Bench, flat, of_type, team
from tests.support.shop import SHOP, Shop

pytestmark = [pytest.mark.looptime, pytest.mark.usefixtures("as_ada")]

CALL = "#1.1"
ASK = ("ask_user", '{"question": "Which room?", "choices": ["red", "blue"]}')
CANCEL = ("cancel", '{"order": 17}')
MINUTE = 60


def solo(fleet: Fleet, *scripts: Any, **spec: Any) -> Shop:
    """A team of one that may cancel orders, and ask."""
    tools = [SHOP, {"name": "ask", "builtin": "AskUser"}]
    members = ({"name": "agent", "tools": ["shop", "ask"]},)
    fleet.bench.catalogue.all_teams = [team(*members, tools=tools, **spec)]
    fleet.bench.models.add(*scripts)
    fleet.bench.tools = shop = Shop()
    return shop


def yes(call_id: str = CALL) -> RunInput:
    return RunInput(call_id=call_id, approved=True)


async def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Waits in steps of the loop's time, which flies."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  what is waited for are fields of fakes
            await asyncio.sleep(0.05)


async def waits(fleet: Fleet, run: str = "runs/r1") -> None:
    await until(lambda: fleet.store.rows[run].state == "WAITING")


def state(fleet: Fleet) -> str:
    return fleet.store.rows["runs/r1"].state


def kinds(fleet: Fleet) -> list[str]:
    return [type(step).__name__ for step in fleet.store.steps()]


def told(fleet: Fleet) -> str:
    return str(fleet.bench.models.calls[-1].last)


async def started(fleet: Fleet) -> Process:
    process = await fleet.begin("a:1")
    await process.start()
    return process


async def test_a_call_waits_for_its_approval_and_nobody_holds_the_run_meanwhile(fleet: Fleet) -> None:
    shop = solo(fleet, calls(CANCEL), says("Done."))
    process = await started(fleet)
    await waits(fleet)
    assert fleet.store.holders == {}
    assert (shop.keys, process.runs._held.active) == ([], {})
    (asked,) = of_type(fleet.store.steps(), InputRequested)
    assert (asked.call_id, asked.asked.tool, asked.asked.arguments) == (CALL, "cancel", {"order": 17})
    await asyncio.sleep(MINUTE)
    row = await process.runs.provide("runs/r1", yes())
    assert row.state == "RUNNING"
    await until(lambda: state(fleet) == "SUCCEEDED")
    assert shop.keys == ["runs/r1/#1.1"]
    assert kinds(fleet) == [
        "ModelCallFinished",
        "InputRequested",
        "RunResumed",
        "InputProvided",
        "ToolCallStarted",
        "ToolCallFinished",
        "ModelCallFinished",
        "MessageCompleted",
        "RunFinished",
    ]
    (provided,) = of_type(fleet.store.steps(), InputProvided)
    assert (provided.input.approved, provided.input.user, provided.expired) == (True, "ada", False)
    (resumed,) = of_type(fleet.store.steps(), RunResumed)
    assert resumed.repeated_calls == ()
    assert told(fleet).startswith("<tool_result>\ncancelled")


async def test_a_follower_sees_the_request_and_goes_on_when_the_run_does(fleet: Fleet) -> None:
    solo(fleet, calls(CANCEL), says("Done."))
    process = await started(fleet)
    seen: list[Any] = []

    async def follow() -> None:
        async for item in flat(process.runs.follow("runs/r1", after=0)):
            seen.append(item)

    follower = asyncio.create_task(follow())
    await waits(fleet)
    await asyncio.sleep(MINUTE)
    assert [item.kind for item in seen] == ["run_started", "model_call_finished", "input_requested"]
    assert not follower.done()
    await process.runs.provide("runs/r1", yes())
    async with asyncio.timeout(60):
        await follower
    assert texts(seen)["text-#2"] == "Done."
    sequences = [item.sequence for item in seen if hasattr(item, "sequence")]
    assert sequences == list(range(1, len(sequences) + 1))


async def test_a_refused_call_is_not_made_and_the_model_is_told_why(fleet: Fleet) -> None:
    shop = solo(fleet, calls(CANCEL), says("I left it."))
    process = await started(fleet)
    await waits(fleet)
    refused = RunInput(call_id=CALL, approved=False, reason="It has been sent.")
    await process.runs.provide("runs/r1", refused)
    await until(lambda: state(fleet) == "SUCCEEDED")
    assert shop.keys == []
    assert "ada has refused this call of cancel because: It has been sent." in told(fleet)
    (finished,) = of_type(fleet.store.steps(), ToolCallFinished)
    assert (finished.result, finished.error) == (told(fleet), None)


async def test_nobody_answers_in_time(fleet: Fleet) -> None:
    shop = solo(fleet, calls(CANCEL), says("I left it."), approvals={"expireAfterHours": 1})
    process = await started(fleet)
    await waits(fleet)
    await asyncio.sleep(59 * MINUTE)
    assert state(fleet) == "WAITING"
    await until(lambda: state(fleet) == "SUCCEEDED", 120)
    assert shop.keys == []
    assert told(fleet).startswith("Not done: nobody has allowed this call of cancel in time.")
    (provided,) = of_type(fleet.store.steps(), InputProvided)
    assert provided.expired
    with pytest.raises(FailedPrecondition) as caught:
        await process.runs.provide("runs/r1", yes())
    assert caught.value.reason == "RUN_FINISHED"


async def test_the_user_is_asked_and_the_answer_reaches_the_model(fleet: Fleet) -> None:
    solo(fleet, calls(ASK), says("The red one."))
    process = await started(fleet)
    await waits(fleet)
    (asked,) = of_type(fleet.store.steps(), InputRequested)
    assert (asked.asked.text, asked.asked.choices) == ("Which room?", ("red", "blue"))
    await process.runs.provide("runs/r1", RunInput(call_id=CALL, answer="red"))
    await until(lambda: state(fleet) == "SUCCEEDED")
    assert told(fleet) == "The user answers: red"
    assert [step.call_id for step in of_type(fleet.store.steps(), ToolCallStarted)] == [CALL]
    (resumed,) = of_type(fleet.store.steps(), RunResumed)
    assert resumed.repeated_calls == ()


async def test_the_time_of_waiting_is_not_the_run_s(fleet: Fleet) -> None:
    solo(fleet, calls(CANCEL), says("Done."), limits={"runTimeoutSeconds": 5})
    process = await started(fleet)
    await waits(fleet)
    await asyncio.sleep(MINUTE)
    await process.runs.provide("runs/r1", yes())
    await until(lambda: state(fleet) == "SUCCEEDED")


async def test_a_waiting_run_leaves_its_place_to_others(fleet: Fleet) -> None:
    solo(fleet, calls(CANCEL), calls(CANCEL), limits={"maxConcurrentRuns": 1})
    process = await started(fleet)
    await waits(fleet)
    await process.start("q2")
    await waits(fleet, "runs/r2")


# --- while others work -----------------------------------------------------------


def pair(fleet: Fleet, answers: asyncio.Event) -> Shop:
    """Ann wants to cancel; Ben answers when he is let."""

    def choose(call: Any) -> Any:
        if "delegate_task" in call.tools:
            return delegates(("ann", "x"), ("ben", "y")) if len(call.prompts) < 4 else says("Both.")
        if "cancel" in call.tools:
            return calls(CANCEL) if call.prompts[-1].role == "user" else says("Ann.")
        return [answers, *says("Ben.")]

    members = ({"name": "ann", "tools": ["shop"]}, {"name": "ben"})
    fleet.bench.catalogue.all_teams = [team(*members, tools=[SHOP])]
    fleet.bench.models.choose = choose
    fleet.bench.tools = shop = Shop()
    return shop


ANN = "#1.1#1.1"


async def test_others_go_on_and_an_answer_in_time_needs_no_new_attempt(fleet: Fleet) -> None:
    ben = asyncio.Event()
    shop = pair(fleet, ben)
    process = await started(fleet)
    await until(lambda: "InputRequested" in kinds(fleet))
    await asyncio.sleep(60)
    assert state(fleet) == "RUNNING"  # Ben still thinks
    await process.runs.provide("runs/r1", yes(ANN))
    await until(lambda: len(shop.keys) == 1, 1)
    ben.set()
    await until(lambda: state(fleet) == "SUCCEEDED")
    assert "RunResumed" not in kinds(fleet)


async def test_what_others_did_meanwhile_is_not_done_again(fleet: Fleet) -> None:
    ben = asyncio.Event()
    shop = pair(fleet, ben)
    process = await started(fleet)
    await until(lambda: "InputRequested" in kinds(fleet))
    ben.set()
    await waits(fleet)
    made = len(fleet.bench.models.calls)
    assert made == 3
    await process.runs.provide("runs/r1", yes(ANN))
    await until(lambda: state(fleet) == "SUCCEEDED")
    assert shop.keys == [f"runs/r1/{ANN}"]
    assert len(fleet.bench.models.calls) == made + 2  # Ann's answer and the leader's
    steps = [step.step for step in of_type(fleet.store.steps(), ModelCallFinished)]
    assert len(steps) == len(set(steps))


@pytest.mark.parametrize(("reachable", "within_s"), [(True, 0.3), (False, 3)])
async def test_an_answer_on_another_replica_reaches_the_owner_or_is_found_with_the_next_renewal(
    fleet: Fleet, reachable: bool, within_s: float
) -> None:
    ben = asyncio.Event()
    shop = pair(fleet, ben)
    await started(fleet)
    other = await fleet.begin("b:1")
    await until(lambda: "InputRequested" in kinds(fleet))
    if not reachable:
        fleet.peers.processes.pop("a:1")
    await asyncio.sleep(5.05)  # just after a renewal
    await other.runs.provide("runs/r1", yes(ANN))
    await until(lambda: len(shop.keys) == 1, within_s)
    assert state(fleet) == "RUNNING"
    ben.set()
    await until(lambda: state(fleet) == "SUCCEEDED")
    assert "RunResumed" not in kinds(fleet)


async def test_an_answer_that_comes_while_the_run_is_parked_is_not_lost(fleet: Fleet) -> None:
    solo(fleet, calls(CANCEL), says("Done."))
    await started(fleet)
    other = await fleet.begin("b:1")
    await until(lambda: "InputRequested" in kinds(fleet))
    await other.runs.provide("runs/r1", yes())  # the owner has not parked it yet, and does not know
    await until(lambda: state(fleet) == "SUCCEEDED", 5)


# --- processes that die ---------------------------------------------------------


async def test_another_replica_goes_on_when_the_first_is_gone(fleet: Fleet) -> None:
    shop = solo(fleet, calls(CANCEL), says("Done."))
    process = await started(fleet)
    await waits(fleet)
    await process.kill()
    other = await fleet.begin("b:1")
    await asyncio.sleep(MINUTE)
    assert state(fleet) == "WAITING"
    await other.runs.provide("runs/r1", yes())
    await until(lambda: state(fleet) == "SUCCEEDED")
    assert shop.keys == ["runs/r1/#1.1"]
    assert len(fleet.bench.models.calls) == 2


async def test_a_process_that_dies_before_it_parked_asks_only_once(fleet: Fleet) -> None:
    shop = solo(fleet, calls(CANCEL), says("Done."))
    process = await started(fleet)
    await until(lambda: "InputRequested" in kinds(fleet))
    await process.kill()
    other = await fleet.begin("b:1")
    await waits(fleet)
    await other.runs.provide("runs/r1", yes())
    await until(lambda: state(fleet) == "SUCCEEDED")
    assert kinds(fleet).count("InputRequested") == 1
    assert shop.keys == ["runs/r1/#1.1"]


async def test_an_approved_call_that_a_crash_interrupted_is_made_again_without_asking(fleet: Fleet) -> None:
    shop = solo(fleet, calls(CANCEL), says("Done."))
    shop.gate = asyncio.Event()
    process = await started(fleet)
    await waits(fleet)
    await process.runs.provide("runs/r1", yes())
    await until(lambda: len(shop.keys) == 1)
    await process.kill()
    shop.gate = None
    await fleet.begin("b:1")
    await until(lambda: state(fleet) == "SUCCEEDED")
    assert shop.keys == ["runs/r1/#1.1"] * 2
    assert (kinds(fleet).count("InputRequested"), kinds(fleet).count("InputProvided")) == (1, 1)
    assert [step.repeated_calls for step in of_type(fleet.store.steps(), RunResumed)][-1] == (CALL,)


# --- ends ------------------------------------------------------------------------


async def test_a_run_that_waits_can_be_cancelled(fleet: Fleet) -> None:
    shop = solo(fleet, calls(CANCEL))
    process = await started(fleet)
    await waits(fleet)
    await process.runs.cancel("runs/r1")
    await until(lambda: state(fleet) == "CANCELLED")
    assert shop.keys == []
    assert next(of_type(fleet.store.steps(), RunFinished)).error is None


async def test_a_run_that_is_about_to_wait_can_be_cancelled(fleet: Fleet) -> None:
    solo(fleet, calls(CANCEL))
    process = await started(fleet)
    await until(lambda: "InputRequested" in kinds(fleet))
    await process.runs.cancel("runs/r1")
    await until(lambda: state(fleet) == "CANCELLED")


# --- who may ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "user", "may"),
    [
        ({}, "ada", True),
        ({}, "eve", False),
        ({"approvals": {"allowedUsers": ["boss"]}}, "boss", True),
        ({"approvals": {"allowedUsers": ["boss"]}}, "ada", False),
    ],
)
async def test_only_those_whom_the_team_names_allow_a_call(
    fleet: Fleet, spec: dict[str, Any], user: str, may: bool
) -> None:
    shop = solo(fleet, calls(CANCEL), says("Done."), **spec)
    process = await started(fleet)
    await waits(fleet)
    with scope(caller=Caller("default", user)):
        if may:
            await process.runs.provide("runs/r1", yes())
            await until(lambda: state(fleet) == "SUCCEEDED")
            assert next(of_type(fleet.store.steps(), InputProvided)).input.user == user
        else:
            with pytest.raises(PermissionDenied) as caught:
                await process.runs.provide("runs/r1", yes())
            assert caught.value.reason == "PERMISSION_DENIED"
            assert (state(fleet), shop.keys) == ("WAITING", [])


async def test_a_question_is_for_the_user_of_the_run_alone(fleet: Fleet) -> None:
    solo(fleet, calls(ASK), approvals={"allowedUsers": ["boss"]})
    process = await started(fleet)
    await waits(fleet)
    with scope(caller=Caller("default", "boss")), pytest.raises(PermissionDenied):
        await process.runs.provide("runs/r1", RunInput(call_id=CALL, answer="red"))


async def test_what_was_not_asked_and_what_was_answered(fleet: Fleet) -> None:
    solo(fleet, calls(CANCEL), says("Done."))
    process = await started(fleet)
    await waits(fleet)
    with pytest.raises(InvalidArgument) as wrong:
        await process.runs.provide("runs/r1", yes("#9.9"))
    assert wrong.value.reason == "INPUT_NOT_REQUESTED"
    await process.runs.provide("runs/r1", yes())
    await process.runs.provide("runs/r1", yes())  # the same again is no error
    with pytest.raises(AlreadyExists) as late:
        await process.runs.provide("runs/r1", RunInput(call_id=CALL, approved=False))
    assert late.value.reason == "INPUT_PROVIDED"


# --- odd ends --------------------------------------------------------------------


async def test_an_answer_that_nobody_waits_for_any_more_does_not_keep_the_run_awake() -> None:
    bench, of = Bench(), team()
    bench.store.crashed(of, [])
    inputs = bench.turn(of).inputs
    gone = asyncio.create_task(inputs.ask("#1.1", Question(text="A?"), member=""))
    await until(lambda: bool(bench.store.pending("runs/r1")), 1)
    gone.cancel()  # its member has ended
    with scope(caller=ADA):
        said = RunInput(call_id="#1.1", answer="Late.", user="ada")
        await bench.store.provide("runs/r1", said, user="ada")
    inputs.deliver([said])
    with pytest.raises(Parked):
        await inputs.ask("#2.1", Question(text="B?"), member="", expire_after=timedelta(seconds=30))
    assert [step.input for step in of_type(bench.store.steps(), InputProvided)] == [said]
    assert bench.store.rows["runs/r1"].state == "WAITING"


async def test_a_store_that_parks_nothing_is_asked_now_and_then_and_the_answer_arrives(fleet: Fleet) -> None:
    shop = solo(fleet, calls(CANCEL), says("Done."))
    fleet.store.parks = False
    process = await started(fleet)
    await until(lambda: "InputRequested" in kinds(fleet))
    before = len(fleet.store.batches)
    await asyncio.sleep(10)
    assert state(fleet) == "RUNNING"
    assert len(fleet.store.batches) - before <= 21
    await process.runs.provide("runs/r1", yes())
    await until(lambda: state(fleet) == "SUCCEEDED", 2)
    assert len(shop.keys) == 1
