"""Runs of every mode that are taken over between any two of their events."""

import pytest

from orchestrator.adapters.events_pb import event_to_pb, stored_event
from orchestrator.core.model import RunFinished
from orchestrator.core.recorded import Recorded
from servicekit.errors import FailedPrecondition
from tests.support import scenes_modes
from tests.support.golden import Scene, cut_anywhere, golden_events, play
from tests.support.model_script import ChatRequest, Reply, ToolCall
from tests.support.orchestrator_fakes import knowledge, team

pytestmark = pytest.mark.looptime

ANN, BEN = {"name": "ann", "role": "finds", "knowledge": ["docs"]}, {"name": "ben", "role": "writes"}
REJECTED = FailedPrecondition("no", reason="MODEL_REJECTED")


def system(request: ChatRequest) -> str:
    return str(request.messages[0]["content"])


def tools_told(request: ChatRequest) -> int:
    return sum(message.get("role") == "tool" for message in request.turn)


def adds(*tasks: tuple[str, str, list[int]]) -> ToolCall:
    listed = [{"member": member, "text": text, "depends_on": needs} for member, text, needs in tasks]
    return ToolCall(name="add_tasks", arguments={"tasks": listed})


def delegates(member: str, text: str) -> ToolCall:
    return ToolCall(name="delegate_task", arguments={"member": member, "task": text})


def member(request: ChatRequest) -> Reply:
    """Searches once if it can; says what it was asked. Fails if it is asked to."""
    text = request.last_user_text.rpartition("Your task: ")[2]
    if "fail" in text:
        raise REJECTED
    if "search_knowledge" in request.tools and not tools_told(request):
        return Reply("I look.", tool_calls=[ToolCall(name="search_knowledge", arguments={"query": text})])
    return Reply(f"Done: {text} [1].")


def task_leader(request: ChatRequest) -> Reply:
    """A wrong call, then two calls in one reply, then one more task."""
    if "add_tasks" not in request.tools:
        return member(request)
    plans: list[list[ToolCall]] = [
        [adds(("ann", "a", [5]))],
        [adds(("ann", "a", []), ("ben", "fail", []), ("ben", "x", [2])), adds(("ben", "c", [1]))],
        [adds(("ann", "d", [4, 1]))],
    ]
    told = sum(bool(message.get("tool_calls")) for message in request.turn)
    return Reply(tool_calls=plans[told]) if told < len(plans) else Reply("So it is [1].")


def indecisive(request: ChatRequest) -> Reply:
    """A leader that never chooses."""
    return Reply("Well, well.") if "choose_member" in request.tools else member(request)


def half_broken(request: ChatRequest) -> Reply:
    """One of the members fails."""
    if "You lead a team" in system(request):
        return Reply(f"Of {request.last_user_text.count('<report by=')} [1].")
    if "writes" in system(request):
        raise REJECTED
    return member(request)


def boss(request: ChatRequest) -> Reply:
    """A leader that asks the same team for two things at once; that team works by tasks, not at once."""
    if "delegate_task" in request.tools:
        both = [delegates("desk", "left"), delegates("desk", "right")]
        return Reply("Both agree [1].") if tools_told(request) else Reply(tool_calls=both)
    if "add_tasks" in request.tools:
        plans = [[ToolCall(name="no_such_tool")], [adds(("ann", "a", []), ("ben", "b", [1]))]]
        told = tools_told(request)
        return Reply(tool_calls=plans[told]) if told < len(plans) else Reply("Ok [1].")
    return member(request)


def chain(request: ChatRequest) -> Reply:
    """Routes down to the last."""
    if "choose_member" in request.tools:
        deeper = "desk" if "- desk:" in system(request) else "ann"
        return Reply(tool_calls=[ToolCall(name="choose_member", arguments={"member": deeper})])
    return member(request)


DESK = {"name": "desk", "teamRef": {"name": "inner"}}
SCENES = {
    "tasks": ([team(ANN, BEN, knowledge=knowledge(), mode="Tasks")], task_leader),
    "nobody chosen": ([team(ANN, BEN, knowledge=knowledge(), mode="Route")], indecisive),
    "one of two fails": (
        [team(ANN, BEN, knowledge=knowledge(search="Always"), mode="Broadcast")],
        half_broken,
    ),
    "tasks within": (
        [team(DESK, BEN), team(ANN, BEN, name="inner", knowledge=knowledge(), mode="Tasks")],
        boss,
    ),
    "routes": (
        [
            team(DESK, BEN, mode="Route"),
            team({"name": "desk", "teamRef": {"name": "last"}}, BEN, name="inner", mode="Route"),
            team(ANN, name="last", knowledge=knowledge(search="Always")),
        ],
        chain,
    ),
}


@pytest.mark.parametrize("uneven", [False, True], ids=["in step", "uneven"])
@pytest.mark.parametrize("name", SCENES)
async def test_a_run_goes_on_from_whatever_its_log_holds(name: str, uneven: bool) -> None:
    teams, script = SCENES[name]
    scene = Scene(
        name=name,
        team=teams[0].metadata.name,
        question="Why?",
        script=script,
        documents={"a": "text"},
        teams=teams,
        uneven=uneven,
    )
    whole = await play(scene)
    end = whole.events[-1].step
    assert isinstance(end, RunFinished)
    assert end.state == "SUCCEEDED"
    await cut_anywhere(scene, whole.events)


@pytest.mark.parametrize("was", [scene for scene in scenes_modes.SCENES if scene.name != "nested"])
@pytest.mark.parametrize("now", ["Coordinate", "Route", "Broadcast", "Tasks"])
def test_what_one_mode_has_begun_no_other_goes_on_with(was: Scene, now: str) -> None:
    team = was.catalogue().team("default", was.team)
    assert team is not None
    changed = team.model_copy(update={"spec": team.spec.model_copy(update={"mode": now})})
    recorded = Recorded.of(stored_event(event_to_pb(event)) for event in golden_events(was))
    assert recorded.misfit(changed) == ("" if now == team.spec.mode else f"its mode is {now} now")


def test_members_and_knowledge_of_a_team_within_are_not_asked_of_the_outer_one() -> None:
    nested = next(scene for scene in scenes_modes.SCENES if scene.name == "nested")
    outer, inner = (nested.catalogue().team("default", name) for name in ("nested", "desk"))
    assert outer is not None
    assert inner is not None
    recorded = Recorded.of(stored_event(event_to_pb(event)) for event in golden_events(nested))
    assert recorded.misfit(outer) == ""
    assert recorded.misfit(inner, "#1.1") == ""
    without = inner.model_copy(update={"spec": inner.spec.model_copy(update={"knowledge": ()})})
    assert recorded.misfit(without, "#1.1") == "it has no knowledge docs any more"
    alone = inner.model_copy(
        update={"spec": inner.spec.model_copy(update={"members": inner.spec.members[:1]})}
    )
    assert recorded.misfit(alone, "#1.1") == "it has no member memory any more"
