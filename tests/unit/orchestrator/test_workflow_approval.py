"""Steps that wait for a person."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from manifests import AgentTeam, Catalogue
from orchestrator.core.model import (
    InputRequested,
    ModelCallFinished,
    RunFinished,
    RunInput,
    StepFinished,
    ToolApproval,
)
from servicekit.errors import Unavailable
from tests.support.fake_models import Call, Script, says
from tests.support.fleet import Fleet, Process
from tests.support.golden import ROOT
from tests.support.orchestrator_fakes import of_type, team

pytestmark = [pytest.mark.looptime, pytest.mark.usefixtures("as_ada")]

MINUTE = 60
ASK = {"name": "ok", "approval": {"message": "Send {{ steps.a.answer }}?"}}
FIRST = {"name": "a", "member": "ann", "task": "first"}
LAST = {"name": "z", "member": "ann", "task": "last {{ steps.ok.answer }}{{ steps.ok.error }}"}


@pytest.fixture
def fleet(fleet: Fleet) -> Fleet:
    fleet.bench.models.choose = _echo
    return fleet


def _echo(call: Call) -> Script:
    return says(f"<{call.last.rpartition('Your task: ')[2]}>")


def _workflow(*steps: Any, **more: Any) -> AgentTeam:
    return team({"name": "ann"}, mode="Workflow", workflow={"steps": steps}, **more)


async def until(condition: Callable[[], bool], seconds: float) -> None:
    """Waits in steps of the loop's time, which flies."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  what is waited for are fields of fakes
            await asyncio.sleep(0.1)


async def _waits(fleet: Fleet, of: AgentTeam) -> Process:
    """A run of the team that waits for a person."""
    fleet.bench.catalogue.all_teams = [of]
    process = await fleet.begin("a:1")
    await process.start()
    await until(lambda: fleet.store.rows["runs/r1"].state == "WAITING", 30)
    return process


async def _ends(fleet: Fleet, within_s: float = 30) -> RunFinished:
    await until(lambda: fleet.store.rows["runs/r1"].is_over, within_s)
    (end,) = [step for step in fleet.store.steps() if isinstance(step, RunFinished)]
    return end


def _ended(fleet: Fleet, path: str) -> StepFinished:
    return [s for s in fleet.store.steps() if isinstance(s, StepFinished) and s.path == path][-1]


def _calls(fleet: Fleet) -> list[str]:
    return [step.step for step in of_type(fleet.store.steps(), ModelCallFinished)]


async def test_a_run_waits_at_the_step_until_a_person_agrees_and_goes_on_after_it(fleet: Fleet) -> None:
    process = await _waits(fleet, _workflow(FIRST, ASK, LAST))
    (asked,) = of_type(fleet.store.steps(), InputRequested)
    assert asked.call_id == "@ok"
    assert asked.asked == ToolApproval(tool="approval", arguments={"step": "ok", "message": "Send <first>?"})
    await asyncio.sleep(2 * MINUTE)
    await process.runs.provide("runs/r1", RunInput(call_id="@ok", approved=True, reason="fine"))
    end = await _ends(fleet)
    assert end.state == "SUCCEEDED"
    assert _ended(fleet, "ok").output == {"approved": True, "user": "ada", "reason": "fine"}
    assert _calls(fleet) == ["@a#1", "@z#1"]
    assert len(fleet.bench.models.calls) == 2


async def test_a_no_fails_the_step_and_the_run_unless_it_goes_on(fleet: Fleet) -> None:
    process = await _waits(fleet, _workflow(FIRST, ASK, LAST))
    await process.runs.provide("runs/r1", RunInput(call_id="@ok", approved=False, reason="too rude"))
    end = await _ends(fleet)
    assert end.error is not None
    assert (end.error.reason, end.error.metadata["step"]) == ("STEP_FAILED", "ok")
    assert end.error.message == 'step "ok" failed: it was refused: too rude'
    assert _calls(fleet) == ["@a#1"]


async def test_after_a_no_a_workflow_may_do_something_else(fleet: Fleet) -> None:
    process = await _waits(fleet, _workflow(FIRST, {**ASK, "onFailure": "Continue"}, LAST))
    await process.runs.provide("runs/r1", RunInput(call_id="@ok", approved=False))
    assert (await _ends(fleet)).state == "SUCCEEDED"
    assert "last it was refused" in fleet.bench.models.calls[-1].last


async def test_nobody_in_time_is_a_no(fleet: Fleet) -> None:
    began = asyncio.get_running_loop().time()
    await _waits(fleet, _workflow(FIRST, {**ASK, "timeoutSeconds": MINUTE}, LAST))
    end = await _ends(fleet, 2 * MINUTE)
    assert end.error is not None
    assert end.error.message == 'step "ok" failed: it was refused: nobody has decided in time'
    assert asyncio.get_running_loop().time() - began == pytest.approx(MINUTE, abs=5)


async def test_other_branches_go_on_also_through_the_pauses_between_their_attempts(fleet: Fleet) -> None:
    left = 2

    def choose(call: Call) -> Script:
        nonlocal left
        if "other" in call.last and left:
            left -= 1
            return [Unavailable("away", reason="MODEL_UNAVAILABLE", retry_after=None)]
        return _echo(call)

    fleet.bench.models.choose = choose
    config = fleet.bench.catalogue.models[0]
    limits = config.spec.limits.model_copy(update={"max_retries": 0})
    spec = config.spec.model_copy(update={"limits": limits})
    fleet.bench.catalogue.models[0] = config.model_copy(update={"spec": spec})
    other = {
        "name": "o",
        "member": "ann",
        "task": "other",
        "retries": {"maxAttempts": 3, "backoffSeconds": 5},
    }
    of = _workflow(FIRST, {"name": "p", "parallel": {"steps": [ASK, other]}}, {**LAST, "task": "last"})
    process = await _waits(fleet, of)
    assert str(_ended(fleet, "p/o").output).startswith("<other")
    await process.runs.provide("runs/r1", RunInput(call_id="@p/ok", approved=True))
    assert (await _ends(fleet)).state == "SUCCEEDED"


async def test_each_iteration_of_a_loop_asks_anew(fleet: Fleet) -> None:
    loop = {
        "name": "l",
        "loop": {"maxIterations": 2, "steps": [{**ASK, "approval": {"message": "{{ iteration }}?"}}]},
    }
    process = await _waits(fleet, _workflow(loop, {**LAST, "task": "last"}))
    await process.runs.provide("runs/r1", RunInput(call_id="@l[1]/ok", approved=True))
    await until(lambda: len(list(of_type(fleet.store.steps(), InputRequested))) == 2, 30)
    await process.runs.provide("runs/r1", RunInput(call_id="@l[2]/ok", approved=True))
    assert (await _ends(fleet)).state == "SUCCEEDED"
    assert [i.asked.arguments["message"] for i in of_type(fleet.store.steps(), InputRequested)] == [
        "1?",
        "2?",
    ]


async def test_the_example_waits_and_says_who_agreed(fleet: Fleet) -> None:
    catalogue = Catalogue(ROOT / "examples/workflow")
    catalogue.load()
    of = catalogue.team("default", "approval")
    assert of is not None
    process = await _waits(fleet, of.model_copy(update={"metadata": team().metadata}))
    await process.runs.provide("runs/r1", RunInput(call_id="@agree", approved=True))
    assert (await _ends(fleet)).state == "SUCCEEDED"
    assert "(agreed by ada)" in fleet.bench.models.calls[-1].last
