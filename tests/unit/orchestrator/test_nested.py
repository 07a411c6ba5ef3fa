"""Teams as members of teams."""

import pytest

from manifests import AgentTeam
from orchestrator.core.model import (
    EvidenceRetrieved,
    MemberFinished,
    MemberStarted,
    Message,
    MessageCompleted,
    ModelCallFinished,
    RunFinished,
    SearchResult,
    TasksChanged,
    TextDelta,
    ToolCallFinished,
)
from orchestrator.core.run import execute
from tests.support.fake_models import Call, Script, calls, delegates, says
from tests.support.one_run import answer, play, taken_over
from tests.support.orchestrator_fakes import Bench, flat, knowledge, model_config, of_type, team

pytestmark = pytest.mark.looptime

DESK = {"name": "desk", "role": "finds out", "teamRef": {"name": "inner"}}
EDITOR = {"name": "editor"}
INNER = ({"name": "ann"}, {"name": "ben"})


async def test_the_inner_team_works_in_its_own_way_within_the_same_run(bench: Bench) -> None:
    bench.catalogue.models.append(model_config("dear"))
    inner = team(*INNER, name="inner", instructions="Be quick.", modelConfigRef={"name": "dear"})
    bench.catalogue.all_teams = [inner]
    steps = await play(
        bench,
        team(DESK, EDITOR),
        delegates(("editor", "ask")),
        says("What exactly?"),
        delegates(("desk", "dig")),
        delegates(("ann", "read")),
        says("Ann's find"),
        says("The desk's report"),
        says("So it is."),
    )
    assert answer(steps) == "So it is."
    leader, ann = bench.models.calls[3], bench.models.calls[4]
    assert (leader.config, ann.config, leader.tools) == ("dear", "dear", ["delegate_task"])
    assert leader.prompts[0].content.endswith("- ann: agent\n- ben: agent\nBe quick.")
    assert leader.last == (
        '<report by="editor">\nWhat exactly?\n</report>\n\nQuestion of the user: Why?\n\nYour task: dig'
    )
    assert ann.last == (
        '<report by="editor">\nWhat exactly?\n</report>\n\n'
        "Question of the user: Why?\n\nTask of your team: dig\n\n"
        "Your task: read"
    )
    desk = [event for event in bench.store.log["runs/r1"] if event.member.startswith("desk")]
    assert [(event.member, type(event.step).__name__) for event in desk] == [
        ("desk", "MemberStarted"),
        ("desk", "ModelCallFinished"),
        ("desk", "ToolCallStarted"),
        ("desk/ann", "MemberStarted"),
        ("desk/ann", "ModelCallFinished"),
        ("desk/ann", "MemberFinished"),
        ("desk", "ToolCallFinished"),
        ("desk", "ModelCallFinished"),
        ("desk", "MemberFinished"),
    ]
    assert steps[-1].summary.usage.model_calls == 7
    assert steps[-1].summary.usage.tool_calls == 3


async def test_a_team_that_is_chosen_answers_the_user_as_the_outer_one_would(bench: Bench) -> None:
    bench.catalogue.all_teams = [team(*INNER, name="inner", mode="Route")]
    of = team(DESK, EDITOR, mode="Route")
    bench.models.add(
        calls(("choose_member", '{"member": "desk"}')),
        calls(("choose_member", '{"member": "ben"}')),
        says("From Ben."),
    )
    turn = bench.turn(of)
    await execute(turn)
    items = [item async for item in flat(turn.log.follow(1))]
    (message,) = of_type(bench.store.steps(), MessageCompleted)
    assert (message.message.name, message.message.content) == ("text-#1.1#1.1#1", "From Ben.")
    assert [(i.message, i.text) for i in items if isinstance(i, TextDelta) and not i.member] == [
        ("text-#1.1#1.1#1", "From Ben.")
    ]
    starts = [e.member for e in bench.store.log["runs/r1"] if isinstance(e.step, MemberStarted)]
    assert starts == ["desk", "desk/ben"]


async def test_an_inner_agent_searches_its_own_knowledge_and_the_ledger_is_shared(bench: Bench) -> None:
    searcher = {"name": "solo", "knowledge": ["docs"]}
    bench.catalogue.all_teams = [team(searcher, name="inner", knowledge=knowledge(search="Always"))]
    outer = team(DESK, {"name": "editor", "knowledge": ["docs"]}, knowledge=knowledge())
    steps = await play(
        bench,
        outer,
        delegates(("desk", "warranty")),
        says("Two years [1]."),
        delegates(("editor", "check")),
        calls(("search_knowledge", '{"query": "Warranty"}')),
        says("It is so."),
        says("Two years [1]."),
    )
    first, second = of_type(steps, EvidenceRetrieved)
    assert (first.query, first.source, first.step) == ("warranty", "SEARCH", "#1.1?docs")
    assert second.source == "LEDGER_EXACT"


@pytest.mark.parametrize("mode", ["Route", "Coordinate"])
async def test_an_inner_team_that_answers_the_user_knows_the_conversation(bench: Bench, mode: str) -> None:
    bench.catalogue.all_teams = [team(name="inner")]
    first = calls(("choose_member", '{"member": "desk"}')) if mode == "Route" else delegates(("desk", "x"))
    bench.models.add(first, says("From the desk."), says("Done."))
    history = (Message(role="user", content="Hello"), Message(role="assistant", content="Good day"))
    turn = bench.turn(team(DESK, EDITOR, mode=mode), history=history)
    await execute(turn)
    await turn.log.close()
    asked = [prompt.content for prompt in bench.models.calls[1].prompts]
    assert ("Good day" in asked) is (mode == "Route")  # a task says what its member must know


async def test_an_inner_agent_is_shown_what_was_found_before_it_began(bench: Bench) -> None:
    bench.catalogue.all_teams = [team(name="inner")]
    outer = team(DESK, {"name": "editor", "knowledge": ["docs"]}, knowledge=knowledge(search="Always"))
    script = delegates(("editor", "look"))
    await play(bench, outer, script, says("Seen."), delegates(("desk", "x")), says("Yes."), says("Done."))
    assert "<evidence>" in bench.models.calls[3].last


async def test_a_team_within_a_team_that_routes_has_the_task_of_that(bench: Bench) -> None:
    middle = team({"name": "deep", "teamRef": {"name": "last"}}, EDITOR, name="inner", mode="Route")
    bench.catalogue.all_teams = [middle, team(*INNER, name="last")]
    chosen = calls(("choose_member", '{"member": "deep"}'))
    await play(bench, team(DESK, EDITOR), delegates(("desk", "dig")), chosen, says("Dug."), says("Done."))
    assert bench.models.calls[2].last == "Question of the user: Why?\n\nYour task: dig"


async def test_the_task_list_of_an_inner_team_is_its_own(bench: Bench) -> None:
    bench.catalogue.all_teams = [team(*INNER, name="inner", mode="Tasks")]
    plan = calls(("add_tasks", '{"tasks": [{"member": "ann", "text": "a"}]}'))
    await play(bench, team(DESK, EDITOR), delegates(("desk", "x")), plan, *map(says, ("1", "2", "3")))
    told = [e for e in bench.store.log["runs/r1"] if isinstance(e.step, TasksChanged)]
    assert {event.member for event in told} == {"desk"}
    assert [(t.id, t.member) for t in told[-1].step.tasks] == [("#1.1:1", "desk/ann")]  # type: ignore[union-attr]


@pytest.mark.parametrize(("inner", "most"), [(1, 1), (12, 2)])
async def test_the_stricter_of_both_bounds_the_turns(bench: Bench, inner: int, most: int) -> None:
    bench.catalogue.all_teams = [team(*INNER, name="inner", limits={"maxTurns": inner, "maxToolCalls": 0})]

    def endless(call: Call) -> Script:
        if call.prompts[0].content.endswith("- desk: finds out\n- editor: agent"):
            return delegates(("desk", "dig"))
        return says("Found.") if "delegate_task" not in call.tools else delegates(("ann", "read"))

    bench.models.choose = endless
    steps = await play(bench, team(DESK, EDITOR, limits={"maxTurns": 2}))
    made = [step.step for step in of_type(steps, ModelCallFinished) if step.step.startswith("#1.1#")]
    assert [step for step in made if step.count("#") == 2] == [f"#1.1#{n + 1}" for n in range(most)]
    # Of the inner team's limits only the turns count: its 0 tool calls are those of a run of its own.
    assert sum(finished.error is None for finished in of_type(steps, MemberFinished)) == most - 1


async def test_a_team_without_documents_reports_that_and_the_run_goes_on(bench: Bench) -> None:
    searcher = {"name": "solo", "knowledge": ["docs"]}
    bench.catalogue.all_teams = [team(searcher, name="inner", knowledge=knowledge(search="Always"))]
    bench.knowledge.results = [SearchResult(outcome="EMPTY", ready_documents=0)]
    steps = await play(bench, team(DESK, EDITOR), delegates(("desk", "dig")), says("Add documents."))
    assert answer(steps) == "Add documents."
    (told,) = of_type(steps, ToolCallFinished)
    assert "agentteams ingest docs PATH" in told.result


@pytest.mark.parametrize(
    ("teams", "said"),
    [
        ([], 'desk could not do it: team "inner" does not exist'),
        ([team({"name": "me", "teamRef": {"name": "inner"}}, EDITOR, name="inner")], "inner > inner"),
        (
            [team({"name": "up", "teamRef": {"name": "helpdesk"}}, EDITOR, name="inner")],
            "inner > helpdesk",
        ),
    ],
    ids=["missing", "itself", "circle"],
)
async def test_teams_that_cannot_be_asked_are_told_to_the_leader(
    bench: Bench, teams: list[AgentTeam], said: str
) -> None:
    # As after a manifest was deleted or changed in the middle of a run: before it such a team is not ready.
    bench.catalogue.all_teams = teams

    def leader(call: Call) -> Script:
        if any(prompt.role == "tool" for prompt in call.prompts):
            return says(call.prompts[-1].content)
        member = "desk" if "- desk:" in call.prompts[0].content else None
        return delegates((member or ("me" if "- me:" in call.prompts[0].content else "up"), "x"))

    bench.models.choose = leader
    steps = await play(bench, team(DESK, EDITOR))
    assert said in answer(steps)


async def test_four_teams_are_the_most_within_one_another(bench: Bench) -> None:
    def nested(name: str, below: str) -> AgentTeam:
        return team({"name": below, "teamRef": {"name": below}}, EDITOR, name=name)

    bench.catalogue.all_teams = [nested("b", "c"), nested("c", "d"), nested("d", "e"), team(name="e")]

    def leader(call: Call) -> Script:
        if any(prompt.role == "tool" for prompt in call.prompts):
            return says(call.prompts[-1].content)
        return delegates((next(name for name in "bcde" if f"- {name}:" in call.prompts[0].content), "x"))

    bench.models.choose = leader
    steps = await play(bench, nested("a", "b"))
    assert "at most 4 teams may lie one within the other, none within itself: a > b > c > d > e" in answer(
        steps
    )
    assert not any(call.tools == [] for call in bench.models.calls)


async def test_an_inner_team_that_was_changed_meanwhile_ends_the_run(bench: Bench) -> None:
    bench.catalogue.all_teams = [team(*INNER, name="inner")]
    of = team(DESK, EDITOR)
    await play(bench, of, delegates(("desk", "x")), delegates(("ann", "y")), says("1"), says("2"), says("3"))
    log = bench.store.log["runs/r1"]
    began = next(n for n, event in enumerate(log) if event.member == "desk/ann")
    again = Bench()
    again.catalogue.all_teams = [team({"name": "carl"}, {"name": "ben"}, name="inner")]
    turn = taken_over(again, again.turn(of), log[: began + 1])
    assert turn.recorded.misfit(of) == ""  # the team that was asked is as it was
    await execute(turn)
    end = again.store.steps()[-1]
    assert isinstance(end, RunFinished)
    assert end.error is not None
    assert (end.state, end.error.reason) == ("FAILED", "TEAM_CHANGED")
    assert 'team "inner" was changed' in end.error.message
    assert "it has no member ann any more" in end.error.message
