"""Answers in a form that the team or the caller asked for."""

import asyncio
from typing import Any

import pytest

from manifests import AgentTeam
from orchestrator.core.model import Message, MessageCompleted, ModelCallFinished, RunFinished, SearchResult
from orchestrator.core.run import execute
from orchestrator.core.runs import Runs
from servicekit.context import scope
from tests.support.fake_models import Script, delegates, says
from tests.support.fake_store import ADA, Link
from tests.support.one_run import answer
from tests.support.orchestrator_fakes import Bench, FakePeers, flat, knowledge, of_type, team

pytestmark = pytest.mark.looptime

SCHEMA = {"type": "object", "properties": {"years": {"type": "integer"}}, "required": ["years"]}
FORM = {"schema": SCHEMA}
GOOD, BAD = '{"years": 2}', '{"years": "two"}'
ANY = {"type": "object"}
READER = {"name": "agent", "knowledge": ["docs"]}


async def play(of: AgentTeam, *scripts: Script, bench: Bench | None = None) -> tuple[Bench, list[Any]]:
    bench = bench or Bench()
    bench.models.add(*scripts)
    turn = bench.turn(of)
    await execute(turn)
    await turn.log.close()
    return bench, bench.store.steps()


def end(steps: list[Any]) -> RunFinished:
    assert isinstance(steps[-1], RunFinished)
    return steps[-1]


async def test_an_answer_in_its_form_is_stored_alone() -> None:
    bench, steps = await play(team(answer=FORM), says(f"```json\n{GOOD}\n```"))
    assert (end(steps).state, answer(steps)) == ("SUCCEEDED", GOOD)
    assert bench.models.calls[0].answer_schema == SCHEMA
    assert '"years"' in bench.models.calls[0].prompts[0].content


async def test_without_a_schema_nothing_is_asked_for() -> None:
    bench, steps = await play(team(), says("Two years."))
    assert answer(steps) == "Two years."
    assert bench.models.calls[0].answer_schema is None


async def test_what_does_not_satisfy_the_schema_is_repaired_by_the_model_that_is_told_why() -> None:
    bench, steps = await play(team(answer=FORM), says("Two years."), says(BAD), says(GOOD))
    assert (end(steps).state, answer(steps)) == ("SUCCEEDED", GOOD)
    first, second = bench.models.calls[1:]
    assert "not valid JSON" in first.last
    assert first.prompts[-2].content == "Two years."
    assert "$.years" in second.last
    assert [call.step for call in of_type(steps, ModelCallFinished)] == ["#1", "=answer#1", "=answer#2"]


async def test_after_two_repairs_the_run_fails_and_the_text_is_kept() -> None:
    bench, steps = await play(team(answer=FORM), says(BAD), says(BAD), says('{"years": "2"}'))
    error = end(steps).error
    assert end(steps).state == "FAILED"
    assert error is not None
    assert error.reason == "ANSWER_INVALID"
    assert "$.years" in error.message
    assert answer(steps).startswith('{"years": "2"}')
    assert len(bench.models.calls) == 3


async def test_the_form_is_not_asked_for_where_tools_are_offered_and_not_of_members() -> None:
    pair = team({"name": "ann"}, {"name": "ben"}, answer=FORM)
    bench, steps = await play(pair, delegates(("ann", "t")), says("It lasts two years."), says(GOOD))
    assert answer(steps) == GOOD
    assert [call.answer_schema for call in bench.models.calls] == [None, None, None]
    leader, member, _ = bench.models.calls
    assert '"years"' in leader.prompts[0].content
    assert '"years"' not in member.prompts[0].content


async def test_followers_see_only_the_checked_answer() -> None:
    bench = Bench()
    turn = bench.turn(team(answer=FORM))
    bench.models.add(says("I think two."), says(GOOD))

    async def follow() -> list[str]:
        return [i.text async for i in flat(turn.log.follow(0)) if hasattr(i, "text") and hasattr(i, "offset")]

    following = asyncio.create_task(follow())
    await asyncio.sleep(0)
    await execute(turn)
    assert "".join(await following) == GOOD
    await turn.log.close()


async def test_a_list_of_numbers_in_the_answer_is_no_citation() -> None:
    of = team(READER, knowledge=knowledge(search="Always"), answer={"schema": ANY})
    _, steps = await play(of, says('{"years": [1], "text": "It says so [2]."}'))
    (completed,) = of_type(steps, MessageCompleted)
    assert [citation.number for citation in completed.message.citations if citation.by_model] == [2]


async def test_no_form_is_made_up_where_there_are_no_documents() -> None:
    bench = Bench()
    bench.knowledge.results = [SearchResult(outcome="EMPTY")]
    of = team(READER, knowledge=knowledge(search="Always"), answer=FORM)
    _, steps = await play(of, bench=bench)
    error = end(steps).error
    assert error is not None
    assert error.reason == "ANSWER_INVALID"
    assert "no documents yet" in answer(steps)
    assert not bench.models.calls


# --- what the caller asks for, and a take-over ---------------------------------------


async def begin(bench: Bench, link: Link) -> tuple[Runs, "asyncio.Task[None]"]:
    runs = Runs(world=bench.world, store=link, peers=FakePeers(), clock=bench.clock)
    task = asyncio.create_task(runs.work())
    await asyncio.sleep(0)
    return runs, task


async def end_of(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.wait([task])


async def test_the_callers_schema_wins_and_survives_a_take_over() -> None:
    bench = Bench()
    bench.catalogue.all_teams.append(team(answer=FORM))
    link = bench.store.link("one")
    bench.models.add(says("no JSON"), [asyncio.Event()], says('{"name": "x"}'))
    wanted = {"required": ["name"], "properties": {"name": {"type": "string", "maxLength": 5}}}
    with scope(caller=ADA):
        one, task = await begin(bench, link)
        row = await one.start(
            team_name="teams/helpdesk",
            session="",
            messages=[Message(role="user", content="Why?")],
            request_id="q1",
            answer_schema=wanted,
        )
        await bench.store.appending.wait()
        link.kill()
        await end_of(task)
        two, task = await begin(bench, bench.store.link("two"))
        async with asyncio.timeout(60):
            items = [item async for item in flat(two.follow(row.name, after=0))]
        await end_of(task)
    assert getattr(items[-1], "is_last", False)
    assert answer(bench.store.steps(row.name)) == '{"name": "x"}'
    # The first call was not made again; the repair was, with the caller's schema, whole numbers as such.
    assert len(bench.models.calls) == 3
    assert bench.models.calls[-1].answer_schema == wanted
    assert '"maxLength":5' in bench.models.calls[-1].prompts[0].content
