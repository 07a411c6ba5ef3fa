"""A workflow goes on where its log ends: in its loops, branches, attempts, and teams within it."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from manifests import AgentTeam
from orchestrator.adapters.events_pb import event_to_pb, stored_event
from orchestrator.core.ledger import Ledger
from orchestrator.core.model import (
    Event,
    EvidenceRetrieved,
    MessageCompleted,
    ModelCallFinished,
    RunFinished,
    RunResumed,
    StepFinished,
    StepStarted,
)
from orchestrator.core.recorded import Recorded
from orchestrator.core.run import execute
from orchestrator.core.stages import StageClock
from orchestrator.core.turn import Turn
from servicekit.errors import Internal
from tests.support.fake_knowledge import ok
from tests.support.fake_models import Call, Script, says
from tests.support.orchestrator_fakes import Bench, knowledge, team

pytestmark = pytest.mark.looptime

BROKEN = Internal("no such model", reason="MODEL_REJECTED")  # one that a call is not repeated after
MEMBERS = (
    {"name": "ann", "knowledge": ["docs"]},
    {"name": "ben"},
    {"name": "desk", "teamRef": {"name": "desk"}},
)


def _member(name: str, task: str, who: str = "ben", **more: Any) -> dict[str, Any]:
    return {"name": name, "member": who, "task": task, **more}


def _whole(last: str) -> AgentTeam:
    """Every kind of step, with attempts that fail; `last` is the task of the last one."""
    number = {"type": "object", "properties": {"n": {"type": "number"}}, "required": ["n"]}
    return team(
        *MEMBERS,
        mode="Workflow",
        knowledge=knowledge(search="Always"),
        workflow={
            "steps": [
                _member("find", "find", "ann"),
                {
                    "name": "side",
                    "parallel": {
                        "steps": [
                            _member("one", "one", onFailure="Continue"),
                            _member("two", "two", output={"schema": number}, retries={"maxAttempts": 3}),
                            _member("sub", "sub", "desk"),
                        ]
                    },
                },
                {
                    "name": "again",
                    "loop": {
                        "until": "iteration == 2 && steps.x.evidence.size() == 0",
                        "steps": [
                            _member("x", "{{ steps.y.answer }} {{ double(steps.side.output.two.n) + 1.5 }}"),
                            {"name": "y", "workflow": {"name": "part"}},
                        ],
                    },
                },
                {
                    "name": "way",
                    "router": {
                        "expression": "steps.side.error == 'no such model' ? 'bad' : 'good'",
                        "choices": [{"when": "bad", "steps": [_member("end", last)]}],
                    },
                },
            ],
            "definitions": [{"name": "part", "steps": [_member("p", "part {{ input }}")]}],
        },
    )


DESK = team(
    {"name": "clerk"},
    name="desk",
    mode="Workflow",
    workflow={"steps": [{"name": "do", "member": "clerk", "task": "clerk"}]},
)


def _model(call: Call) -> Script:
    task = call.last.rpartition("Your task: ")[2]
    if task.startswith(("one", "never")):
        return [BROKEN]
    if task.startswith("two"):
        return says('{"n": 3.0}' if "was refused" in task else "three")
    return says(f"<{task.split(chr(10))[0]}>")


def _bench() -> Bench:
    bench = Bench()
    bench.knowledge.results = [ok("a", "b")]
    bench.catalogue.all_teams = [DESK]
    return bench


async def _play(
    of: AgentTeam, before: Sequence[Event] = (), model: Callable[[Call], Script] = _model
) -> tuple[list[Event], Bench]:
    bench = _bench()
    bench.models.choose = model
    bench.store.log["runs/r1"] = list(before)
    stored = [stored_event(event_to_pb(event)) for event in before]
    log = bench.run_log()
    log.adopt(stored)
    recorded = Recorded.of(stored)
    assert recorded.misfit(of) == ""
    turn = Turn(
        team=of,
        question="Why?",
        history=(),
        world=bench.world,
        log=log,
        ledger=Ledger(policy="Semantic", min_similarity=0.9),
        stages=StageClock(bench.clock),
        attempt=2 if before else 1,
        recorded=recorded,
    )
    await execute(turn)
    await log.close()
    return bench.store.log["runs/r1"], bench


def _done(events: Sequence[Event]) -> list[str]:
    """What was done, each with what it came to, in any order."""
    out = []
    for event in events:
        match event.step:
            case ModelCallFinished(step=step, text=text):
                out.append(f"{step} {text}")
            case EvidenceRetrieved(step=step):
                out.append(step)
            case StepStarted(path=path, attempt=attempt, input=value):
                out.append(f"{path} {attempt} < {value}")
            case StepFinished(path=path, attempt=attempt, output=value, error=error):
                out.append(f"{path} {attempt} > {value} {error}")
    return sorted(out)


@pytest.mark.parametrize("last", ["end", "never"])
async def test_it_goes_on_after_each_event_and_does_nothing_again(last: str) -> None:
    of = _whole(last)
    whole, bench = await _play(of)
    end = whole[-1].step
    assert isinstance(end, RunFinished)
    assert end.state == ("FAILED" if last == "never" else "SUCCEEDED"), end.error
    finished = [e.step.path for e in whole if isinstance(e.step, StepFinished)]
    assert {"side/two", "side/sub", "@side/sub@do", "again[2]/y/p", "way/end"} <= set(finished)
    assert finished.count("side/two") == 2
    over = next((n for n, e in enumerate(whole) if isinstance(e.step, MessageCompleted)), len(whole) - 1)
    for kept in range(1, over + 1):
        events, again = await _play(of, whole[:kept])
        where = f"after {kept}: {whole[kept - 1].step}"
        assert list(events[:kept]) == list(whole[:kept]), where
        assert isinstance(events[kept].step, RunResumed), where
        assert _done(events) == _done(whole), where
        began = sum(isinstance(e.step, ModelCallFinished) for e in whole[:kept])
        assert len(again.models.calls) <= len(bench.models.calls) - began, where
        final = events[-1].step
        assert isinstance(final, RunFinished), where
        assert (final.state, repr(final.error)) == (end.state, repr(end.error)), where


async def test_a_run_whose_workflow_was_changed_does_not_go_on_in_another() -> None:
    of = _whole("end")
    whole, _ = await _play(of)
    recorded = Recorded.of([stored_event(event_to_pb(event)) for event in whole])
    assert recorded.misfit(of) == ""
    text = of.model_dump_json(by_alias=True, exclude_unset=True)
    renamed = AgentTeam.model_validate_json(
        text.replace('"name":"two"', '"name":"zwei"').replace("two.n", "zwei.n")
    )
    assert recorded.misfit(renamed) == "its workflow has no step side/two any more"
    other_kind = AgentTeam.model_validate_json(text.replace('"workflow":{"name":"part"}', '"member":"ben"'))
    assert (
        recorded.misfit(other_kind)
        == "its workflow has no step again[1]/y, again[1]/y/p, again[2]/y, again[2]/y/p any more"
    )
    assert recorded.misfit(team(*MEMBERS, knowledge=knowledge())).startswith(
        "its workflow has no step again,"
    )
    assert recorded.misfit(DESK, "@side/sub") == ""
    assert (
        recorded.misfit(team({"name": "clerk"}, name="desk"), "@side/sub")
        == "its workflow has no step do any more"
    )


async def test_the_limit_of_steps_counts_those_of_earlier_attempts_of_the_run() -> None:
    of = _whole("end")
    whole, _ = await _play(of)
    recorded = Recorded.of([stored_event(event_to_pb(event)) for event in whole])
    begun = sum(isinstance(event.step, StepStarted) for event in whole)
    assert recorded.usage(max_tool_calls=0).steps == begun > 10


async def test_a_branch_that_is_known_to_have_failed_keeps_the_others_from_beginning_anew() -> None:
    of = team(
        {"name": "ben"},
        mode="Workflow",
        workflow={
            "steps": [{"name": "p", "parallel": {"steps": [_member("slow", "slow"), _member("x", "never")]}}]
        },
    )
    whole, _ = await _play(of, model=lambda call: [9.0] if "slow" in call.last else _model(call))
    assert [e.step.path for e in whole if isinstance(e.step, StepFinished)] == ["p/x", "p"]
    kept = next(n for n, e in enumerate(whole, start=1) if isinstance(e.step, StepFinished))
    events, bench = await _play(of, whole[:kept])
    assert bench.models.calls == []
    assert _done(events) == _done(whole)
