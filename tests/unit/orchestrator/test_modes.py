"""What each mode does when all goes well, and when models and members do not."""

import json
from typing import Any

import pytest

from manifests import ModelConfig
from orchestrator.core.model import (
    ContextTrimmed,
    MemberFinished,
    MemberStarted,
    Message,
    RunFinished,
    SearchResult,
    TasksChanged,
    TextDelta,
    ToolCallFinished,
)
from orchestrator.core.run import execute
from servicekit.errors import Unavailable
from tests.support.fake_models import Call, Script, calls, done, says
from tests.support.one_run import answer, play
from tests.support.orchestrator_fakes import Bench, flat, knowledge, model_config, of_type, team

pytestmark = pytest.mark.looptime

DOWN = Unavailable("no answer", reason="MODEL_UNAVAILABLE")
MEMBERS = ({"name": "ann", "role": "finds"}, {"name": "ben", "role": "writes"})
HISTORY = (Message(role="user", content="Hello"), Message(role="assistant", content="Good day"))


def end(steps: list[Any]) -> tuple[str, str]:
    """The run's state and why."""
    assert isinstance(steps[-1], RunFinished)
    return steps[-1].state, steps[-1].error.reason if steps[-1].error else ""


def chooses(member: object) -> Script:
    return calls(("choose_member", json.dumps({"member": member})))


def adds(*tasks: dict[str, Any]) -> Script:
    return calls(("add_tasks", json.dumps({"tasks": tasks})))


def task(member: str, text: str, *depends_on: object) -> dict[str, Any]:
    return {"member": member, "text": text, **({"depends_on": depends_on} if depends_on else {})}


def told(call: Call) -> str:
    """The last thing that a tool told the model."""
    return next(prompt.content for prompt in reversed(call.prompts) if prompt.role == "tool")


# --- any mode -----------------------------------------------------------------


@pytest.mark.parametrize("mode", ["Coordinate", "Route", "Broadcast", "Tasks"])
async def test_one_member_is_an_agent_in_every_mode(bench: Bench, mode: str) -> None:
    steps = await play(bench, team({"name": "ann"}, mode=mode), says("By myself."), history=HISTORY)
    assert answer(steps) == "By myself."
    (call,) = bench.models.calls
    assert [prompt.content for prompt in call.prompts][1:] == [
        "Hello",
        "Good day",
        "Question of the user: Why?",
    ]
    assert not list(of_type(steps, MemberStarted))


# --- Route --------------------------------------------------------------------


async def test_the_chosen_member_answers_and_nobody_writes_after_it(bench: Bench) -> None:
    of = team(*MEMBERS, mode="Route", instructions="Ben for letters.")
    bench.models.add(chooses("ben"), says("From Ben."))
    turn = bench.turn(of, history=HISTORY)
    await execute(turn)
    items = [item async for item in flat(turn.log.follow(1))]
    steps = bench.store.steps()
    assert (end(steps), answer(steps)) == (("SUCCEEDED", ""), "From Ben.")
    leader, member = bench.models.calls
    assert (leader.tools, member.tools) == (["choose_member"], [])
    assert leader.prompts[0].content.endswith("- ann: finds\n- ben: writes\nBen for letters.")
    for call in (leader, member):  # a question such as "and for members?" means nothing without it
        assert [prompt.content for prompt in call.prompts][1:3] == ["Hello", "Good day"]
    assert [i.text for i in items if isinstance(i, TextDelta) and not i.member] == ["From Ben."]
    started = [
        (e.member, e.step.task) for e in bench.store.log["runs/r1"] if isinstance(e.step, MemberStarted)
    ]
    assert started == [("ben", "Why?")]


async def test_the_first_of_two_choices_counts(bench: Bench) -> None:
    both = calls(("choose_member", '{"member": "ben"}'), ("choose_member", '{"member": "ann"}'))
    steps = await play(bench, team(*MEMBERS, mode="Route"), both, says("From Ben."))
    assert [start.call_id for start in of_type(steps, MemberStarted)] == ["#1.1"]
    assert "writes" in bench.models.calls[1].prompts[0].content


@pytest.mark.parametrize(
    "nobody",
    [
        says("I answer that myself."),
        chooses("carl"),
        chooses(7),
        calls(("choose_member", "{")),
        calls(("delegate_task", '{"member": "ann"}')),
    ],
    ids=["text", "unknown", "number", "broken", "other tool"],
)
async def test_a_leader_that_chooses_nobody_is_told_so_once(bench: Bench, nobody: Script) -> None:
    steps = await play(bench, team(*MEMBERS, mode="Route"), nobody, chooses("ben"), says("From Ben."))
    assert answer(steps) == "From Ben."
    again = bench.models.calls[1].prompts[-1]
    assert again.content == "You have not chosen a member. Call choose_member with one of: ann, ben."
    # An endpoint refuses a tool call without its answer.
    asked = {call.id for prompt in bench.models.calls[1].prompts for call in prompt.tool_calls}
    assert {prompt.tool_call_id for prompt in bench.models.calls[1].prompts} - {""} == asked


@pytest.mark.parametrize("turns", [12, 1])
async def test_a_leader_that_cannot_choose_leaves_it_to_the_first_member(bench: Bench, turns: int) -> None:
    of = team(*MEMBERS, mode="Route", limits={"maxTurns": turns})
    tries = min(turns, 2)
    steps = await play(bench, of, *[says("I do not know.")] * tries, says("From Ann."))
    assert answer(steps) == "From Ann."
    assert len(bench.models.calls) == tries + 1


async def test_a_chosen_member_that_fails_fails_the_run(bench: Bench) -> None:
    steps = await play(bench, team(*MEMBERS, mode="Route"), chooses("ben"), *[[DOWN]] * 3)
    assert end(steps) == ("FAILED", "MODEL_UNAVAILABLE")
    (finished,) = of_type(steps, MemberFinished)
    assert finished.error.reason == "MODEL_UNAVAILABLE"


async def test_what_a_leader_chooses_by_fits_its_model(bench: Bench) -> None:
    small = model_config().model_dump(by_alias=True)
    small["spec"] |= {"contextTokens": 512, "parameters": {"maxOutputTokens": 100}}
    bench.catalogue.models = [ModelConfig.model_validate(small)]
    long = (Message(role="user", content="word " * 2000), *HISTORY)
    steps = await play(bench, team(*MEMBERS, mode="Route"), chooses("ben"), says("From Ben."), history=long)
    assert answer(steps) == "From Ben."
    assert [trimmed.step for trimmed in of_type(steps, ContextTrimmed)] == ["#1", "#1.1#1"]


# --- Broadcast ----------------------------------------------------------------


def views(call: Call) -> Script:
    """Ann is down; Ben answers; the leader says what it was told."""
    if "You lead a team" in call.prompts[0].content:
        return says(call.last)
    return [DOWN] if "finds" in call.prompts[0].content else says("Ben's view.")


async def test_the_leader_is_told_of_a_member_that_failed(bench: Bench) -> None:
    bench.models.choose = views
    steps = await play(bench, team(*MEMBERS, mode="Broadcast"), history=HISTORY)
    assert answer(steps) == (
        '<report by="ann">\ncould not do it: no answer\n</report>\n\n'
        '<report by="ben">\nBen\'s view.\n</report>\n\nQuestion of the user: Why?'
    )
    assert end(steps) == ("SUCCEEDED", "")
    assert all("Good day" in [p.content for p in call.prompts] for call in bench.models.calls)


async def test_members_answer_side_by_side_and_see_nothing_of_one_another(bench: Bench) -> None:
    def slow(call: Call) -> Script:
        return says("All agree.") if "You lead a team" in call.prompts[0].content else [1.0, *says("Yes.")]

    bench.models.choose = slow
    steps = await play(bench, team(*MEMBERS, {"name": "carl"}, mode="Broadcast"))
    assert steps[-1].summary.seconds == pytest.approx(1.0, abs=0.3)
    assert [call.last for call in bench.models.calls[:3]] == ["Question of the user: Why?"] * 3


async def test_a_run_fails_when_all_members_do(bench: Bench) -> None:
    steps = await play(bench, team(*MEMBERS, mode="Broadcast"), *[[DOWN]] * 6)
    assert end(steps) == ("FAILED", "MODEL_UNAVAILABLE")
    # No leader is asked to make an answer of nothing.
    assert not [call for call in bench.models.calls if "You lead a team" in call.prompts[0].content]


async def test_a_limit_ends_the_run_whichever_member_reaches_it(bench: Bench) -> None:
    of = team(*MEMBERS, mode="Broadcast", limits={"maxTokensPerRun": 256})
    steps = await play(bench, of, [1.0, done("long", tokens=300)], [10.0, *says("late")])
    assert end(steps) == ("FAILED", "RUN_LIMIT_REACHED")
    assert steps[-1].summary.seconds < 5


# --- Tasks --------------------------------------------------------------------


def states(steps: list[Any]) -> list[list[str]]:
    return [[task.state for task in changed.tasks] for changed in of_type(steps, TasksChanged)]


def works(*plan: Script) -> Any:
    """A leader that says these things in turn; members repeat their task, and how many reports they saw."""
    left = list(plan)

    def choose(call: Call) -> Script:
        if "add_tasks" in call.tools or "You lead a team" in call.prompts[0].content:
            return left.pop(0)
        text = call.last.rpartition("Your task: ")[2]
        if text == "fail":
            return [DOWN]
        return [1.0, *says(f"{text} done, {call.last.count('<report by=')} reports")]

    return choose


async def test_tasks_are_worked_on_when_they_are_ready(bench: Bench) -> None:
    plan = adds(task("ann", "a"), task("ann", "b"), task("ben", "c", 1, 2))
    bench.models.choose = works(plan, adds(task("ben", "d", 3)), says("So it is."))
    of = team(*MEMBERS, mode="Tasks", sharing={"memberInteractions": "None"})
    steps = await play(bench, of)
    assert answer(steps) == "So it is."
    assert steps[-1].summary.seconds == pytest.approx(3.0, abs=0.3)  # a and b side by side, then c, then d
    first, second = of_type(steps, ToolCallFinished)
    assert first.result == (
        "Task 1 (ann) is done: a done, 0 reports\n\nTask 2 (ann) is done: b done, 0 reports\n\n"
        "Task 3 (ben) is done: c done, 2 reports"
    )
    assert second.result == "Task 4 (ben) is done: d done, 1 reports"
    assert states(steps)[0] == ["RUNNING", "RUNNING", "PENDING"]
    assert states(steps)[-1] == ["DONE"] * 4
    assert steps[-1].summary.usage.tool_calls == 2 + 4


async def test_tasks_of_one_reply_may_depend_on_one_another(bench: Bench) -> None:
    both = calls(
        ("add_tasks", json.dumps({"tasks": [task("ann", "a")]})),
        ("add_tasks", json.dumps({"tasks": [task("ben", "b", 1)]})),
    )
    bench.models.choose = works(both, says("So it is."))
    steps = await play(bench, team(*MEMBERS, mode="Tasks", sharing={"memberInteractions": "None"}))
    assert [f.result for f in of_type(steps, ToolCallFinished)] == [
        "Task 1 (ann) is done: a done, 0 reports",
        "Task 2 (ben) is done: b done, 1 reports",
    ]


async def test_what_depends_on_a_failed_task_is_skipped(bench: Bench) -> None:
    plan = adds(task("ann", "fail"), task("ben", "x", 1), task("ben", "y", 2), task("ann", "z"))
    bench.models.choose = works(plan, says("As far as I can."))
    steps = await play(bench, team(*MEMBERS, mode="Tasks"))
    (result,) = [finished.result for finished in of_type(steps, ToolCallFinished)]
    assert result == (
        "Task 1: ann could not do it: no answer\n\nTask 2 (ben) was skipped: it depends on 1.\n\n"
        "Task 3 (ben) was skipped: it depends on 2.\n\nTask 4 (ann) is done: z done, 0 reports"
    )
    assert states(steps)[-1] == ["FAILED", "SKIPPED", "SKIPPED", "DONE"]
    assert end(steps) == ("SUCCEEDED", "")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (task("ann", "a", 2), "there is no task 2; the tasks are 1 to 1"),
        (task("ann", "a", 0), "there is no task 0"),
        (task("ann", "a", 1), "Tasks 1 wait for one another"),
        (task("carl", "a"), "carl"),
        (task("ann", " "), "'text' is required"),
        ({"member": "ann"}, "text"),
    ],
)
async def test_a_wrong_task_is_told_and_may_be_corrected(
    bench: Bench, wrong: dict[str, Any], said: str
) -> None:
    bench.models.choose = works(adds(wrong), adds(task("ann", "a")), says("So it is."))
    steps = await play(bench, team(*MEMBERS, mode="Tasks"))
    bad, good = of_type(steps, ToolCallFinished)
    assert said in bad.result
    assert bad.error.reason == "MODEL_BAD_RESPONSE"
    assert good.result.startswith("Task 1 (ann) is done")
    assert told(bench.models.calls[1]) == bad.result


async def test_tasks_in_a_circle_are_refused_whole(bench: Bench) -> None:
    circle = adds(task("ann", "a"), task("ann", "b", 1, 3), task("ben", "c", 2))
    bench.models.choose = works(circle, says("I give up."))
    steps = await play(bench, team(*MEMBERS, mode="Tasks"))
    (refused,) = of_type(steps, ToolCallFinished)
    assert "Tasks 2, 3 wait for one another" in refused.result
    assert not list(of_type(steps, MemberStarted))
    assert not list(of_type(steps, TasksChanged))


async def test_a_list_has_an_end(bench: Bench) -> None:
    many = [task("ann", f"t{number}") for number in range(33)]
    bench.models.choose = works(adds(*many), adds(*many[:32]), adds(many[32]), says("Enough."))
    steps = await play(bench, team(*MEMBERS, mode="Tasks", limits={"maxToolCalls": 100}))
    first, second, third = of_type(steps, ToolCallFinished)
    assert "at most 32" in first.result
    assert second.error is None
    assert "There are 32 tasks" in third.result


async def test_tasks_count_as_tool_calls(bench: Bench) -> None:
    bench.models.choose = works(
        adds(task("ann", "a"), task("ann", "b"), task("ben", "c", 2)), says("Enough.")
    )
    steps = await play(bench, team(*MEMBERS, mode="Tasks", limits={"maxToolCalls": 2}))
    (result,) = [finished.result for finished in of_type(steps, ToolCallFinished)]
    assert "Task 2: ann could not do it: the run has had its 2 tool calls" in result
    assert "Task 3 (ben) was skipped" in result
    assert steps[-1].summary.usage.tool_calls == 2
    assert end(steps) == ("SUCCEEDED", "")


async def test_a_leader_that_never_stops_adding_must_answer_in_its_last_turn(bench: Bench) -> None:
    bench.models.choose = works(adds(task("ann", "a")), adds(task("ann", "b")), says("Enough."))
    steps = await play(bench, team(*MEMBERS, mode="Tasks", limits={"maxTurns": 3}))
    assert answer(steps) == "Enough."
    assert [call.must_answer for call in bench.models.calls if call.tools] == [False, False, True]
    stubborn = Bench()
    stubborn.models.choose = works(*[adds(task("ann", "a"))] * 3)
    steps = await play(stubborn, team(*MEMBERS, mode="Tasks", limits={"maxTurns": 3}))
    assert end(steps) == ("FAILED", "RUN_LIMIT_REACHED")


async def test_every_result_has_its_share_of_what_the_leader_is_told(bench: Bench) -> None:
    def long(call: Call) -> Script:
        if "add_tasks" not in call.tools:
            return says("x" * 20_000)
        return says("Read.") if call.prompts[-1].role == "tool" else adds(task("ann", "a"), task("ben", "b"))

    bench.models.choose = long
    steps = await play(bench, team(*MEMBERS, mode="Tasks"))
    (result,) = [finished.result for finished in of_type(steps, ToolCallFinished)]
    assert len(result) <= 16_000
    one, two = result.split("\n\n")
    assert abs(len(one) - len(two)) < 10
    assert one.endswith("[cut]")


async def test_a_task_that_needs_documents_where_there_are_none_ends_the_run_with_that(bench: Bench) -> None:
    bench.knowledge.results = [SearchResult(outcome="EMPTY", ready_documents=0)]
    searcher = {"name": "ann", "knowledge": ["docs"]}
    of = team(searcher, MEMBERS[1], mode="Tasks", knowledge=knowledge(search="Always"))
    steps = await play(bench, of, adds(task("ann", "a")))
    assert "agentteams ingest docs PATH" in answer(steps)


# --- what members see -----------------------------------------------------------


@pytest.mark.parametrize(("most", "seen"), [(1, ["a", "c"]), (2, ["a", "b", "c"]), (4, ["a", "b", "c"])])
async def test_what_a_task_needs_is_shown_and_of_the_others_the_latest(
    bench: Bench, most: int, seen: list[str]
) -> None:
    plan = adds(task("ann", "a"), task("ann", "b", 1), task("ben", "c", 2))
    bench.models.choose = works(plan, adds(task("ben", "d", 1)), says("So it is."))
    await play(bench, team(*MEMBERS, mode="Tasks", sharing={"maxInteractions": most}))
    (last,) = [call.last for call in bench.models.calls if call.last.endswith("Your task: d")]
    assert [name for name in ("a", "b", "c") if f">\n{name} done" in last] == seen
