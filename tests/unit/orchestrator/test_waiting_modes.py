"""A member that waits for a person, in each mode and in a team within the team."""

import asyncio
import json
from typing import Any

import pytest

from manifests import AgentTeam
from orchestrator.core.model import (
    MemberFinished,
    MemberStarted,
    ModelCallFinished,
    RunInput,
    RunResumed,
    TasksChanged,
)
from tests.support.fake_models import Call, Script, calls, delegates, says
from tests.support.fleet import Fleet
from tests.support.orchestrator_fakes import of_type, team
from tests.support.shop import SHOP, Shop

pytestmark = [pytest.mark.looptime, pytest.mark.usefixtures("as_ada")]

ANN, BEN = {"name": "ann", "role": "cancels", "tools": ["shop"]}, {"name": "ben"}
DESK = {"name": "desk", "teamRef": {"name": "inner"}}
TASKS = [
    {"member": "ann", "text": "x"},
    {"member": "ben", "text": "y"},
    {"member": "ben", "text": "z", "depends_on": [1]},
]


def choose(call: Call) -> Script:
    """Leaders begin as their mode wants and answer when they are told; Ann cancels once."""
    told = any(prompt.role == "tool" for prompt in call.prompts)
    if "cancel" in call.tools:
        return says("Ann.") if told else calls(("cancel", '{"order": 17}'))
    if told or not call.tools:
        return says("Said.")
    if "add_tasks" in call.tools:
        return calls(("add_tasks", json.dumps({"tasks": TASKS})))
    if "choose_member" in call.tools:
        return calls(("choose_member", '{"member": "ann"}'))
    return delegates(("desk", "x"), ("ben", "y"))


async def until(fleet: Fleet, state: str) -> None:
    async with asyncio.timeout(60):
        while fleet.store.rows["runs/r1"].state != state:  # noqa: ASYNC110  looptime: no time passes
            await asyncio.sleep(0.05)


def alone(mode: str) -> list[AgentTeam]:
    return [team(ANN, BEN, mode=mode, tools=[SHOP])]


@pytest.mark.parametrize(
    ("teams", "asked"),
    [
        (alone("Route"), "#1.1#1.1"),
        (alone("Broadcast"), "@ann#1.1"),
        (alone("Tasks"), "#1.1/1#1.1"),
        ([team(DESK, BEN), team(ANN, BEN, name="inner", mode="Broadcast", tools=[SHOP])], "#1.1@ann#1.1"),
    ],
    ids=["Route", "Broadcast", "Tasks", "within"],
)
async def test_a_run_waits_for_a_person_when_nothing_else_is_left_and_goes_on_then(
    fleet: Fleet, teams: list[AgentTeam], asked: str
) -> None:
    fleet.bench.catalogue.all_teams = teams
    fleet.bench.models.choose = choose
    fleet.bench.tools = shop = Shop()
    process = await fleet.begin("a:1")
    await process.start()
    await until(fleet, "WAITING")
    assert not shop.keys
    before: list[Any] = fleet.store.steps()
    assert not [end for end in of_type(before, MemberFinished) if asked.startswith(f"{end.call_id}#")]
    await process.runs.provide("runs/r1", RunInput(call_id=asked, approved=True))
    await until(fleet, "SUCCEEDED")
    steps = fleet.store.steps()
    assert shop.keys == [f"runs/r1/{asked}"]
    assert len(list(of_type(steps, RunResumed))) == 1
    for kind, name in ((ModelCallFinished, "step"), (MemberStarted, "call_id"), (MemberFinished, "call_id")):
        done = [getattr(step, name) for step in of_type(steps, kind)]
        assert len(done) == len(set(done))
    assert all(end.error is None for end in of_type(steps, MemberFinished))
    lists = [[task.state for task in changed.tasks] for changed in of_type(steps, TasksChanged)]
    if lists:
        assert [task.state for task in list(of_type(before, TasksChanged))[-1].tasks] == [
            "RUNNING",
            "DONE",
            "PENDING",
        ]
        assert lists[-1] == ["DONE"] * 3
