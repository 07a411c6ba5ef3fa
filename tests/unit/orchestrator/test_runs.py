"""All runs of a process: who may start, follow and stop them, and what becomes of them when it stops."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from orchestrator.core.chat import TextPart
from orchestrator.core.model import Message, MessageCompleted, RunFinished, TextDelta
from orchestrator.core.ports import Acquired, RunRow
from orchestrator.core.runs import Runs
from servicekit.context import Caller, scope
from servicekit.errors import FailedPrecondition, NotFound, ResourceExhausted, Unavailable
from tests.support.fake_models import says
from tests.support.fake_store import ADA, DOWN, stored
from tests.support.orchestrator_fakes import Bench, FakePeers, flat, of_type, team

pytestmark = [pytest.mark.looptime, pytest.mark.usefixtures("as_ada")]


class Process:
    """An orchestrator's runs, working."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        bench.catalogue.all_teams = [team(limits={"maxConcurrentRuns": 2})]
        self.runs = Runs(world=bench.world, store=bench.store, peers=FakePeers(), clock=bench.clock)

    async def start(self, request_id: str = "q1", *, team_name: str = "teams/helpdesk") -> RunRow:
        return await self.runs.start(
            team_name=team_name,
            session="",
            messages=[Message(role="user", content="Why?")],
            request_id=request_id,
        )

    async def follow(self, run: str, *, after: int = 0) -> list[Any]:
        return [item async for item in flat(self.runs.follow(run, after=after))]

    async def ended(self, run: str = "runs/r1") -> RunFinished:
        async with asyncio.timeout(60):
            last = (await self.follow(run))[-1]
        assert isinstance(last.step, RunFinished)
        return last.step

    def hang(self, *texts: str) -> None:
        """The next model call never ends."""
        self.bench.models.add([*(TextPart(text=text) for text in texts), asyncio.Event()])


@asynccontextmanager
async def working(bench: Bench) -> AsyncIterator[Process]:
    process = Process(bench)
    task = asyncio.create_task(process.runs.work())
    await asyncio.sleep(0)
    yield process
    task.cancel()
    await asyncio.wait([task])


async def test_a_run_goes_on_by_itself_and_is_followed_to_its_end(bench: Bench) -> None:
    async with working(bench) as process:
        bench.models.add(says("All good."))
        row = await process.start()
        items = await process.follow(row.name)
    texts = "".join(item.text for item in items if isinstance(item, TextDelta))
    assert texts == "All good."
    assert [i.sequence for i in items if not isinstance(i, TextDelta)] == [1, 2, 3, 4]


async def test_the_same_request_is_the_same_run(bench: Bench) -> None:
    async with working(bench) as process:
        process.hang()
        first = await process.start("q1")
        process.hang()
        await process.start("q2")
        # Even at the limit: it starts nothing.
        assert (await process.start("q1")).name == first.name
        assert len(bench.models.calls) == 2


async def test_a_team_has_a_limit_of_runs_however_fast_they_come(bench: Bench) -> None:
    async with working(bench) as process:
        for _ in range(2):
            process.hang()
        bench.store.begin_gate = asyncio.Event()
        first = [asyncio.create_task(process.start(f"q{n}")) for n in range(2)]
        await bench.store.beginning.wait()
        with pytest.raises(ResourceExhausted) as caught:
            await process.start("q3")
        assert caught.value.reason == "TOO_MANY_RUNS"
        assert caught.value.retry_after == timedelta(seconds=2)
        bench.store.begin_gate.set()
        rows = await asyncio.gather(*first)
        await process.runs.cancel(rows[0].name)
        await process.ended(rows[0].name)
        bench.models.add(says("ok"))
        assert (await process.ended((await process.start("q3")).name)).state == "SUCCEEDED"


async def test_the_limit_counts_the_runs_of_other_processes(bench: Bench) -> None:
    async with working(bench) as one, working(bench) as other:
        for process in (one, one):
            process.hang()
        rows = [await one.start(f"q{n}") for n in range(2)]
        with pytest.raises(ResourceExhausted) as caught:
            await other.start("q3")
        assert (caught.value.reason, caught.value.retry_after) == ("TOO_MANY_RUNS", timedelta(seconds=2))
        await one.runs.cancel(rows[0].name)
        await one.ended(rows[0].name)
        bench.models.add(says("ok"))
        assert (await other.ended((await other.start("q3")).name)).state == "SUCCEEDED"


async def test_a_begin_that_fails_takes_no_place(bench: Bench) -> None:
    async with working(bench) as process:
        bench.store.begin_gate = asyncio.Event()
        bench.store.begin_gate.set()
        original = bench.store.begin
        for number in range(3):

            async def refuse(**_: Any) -> Any:
                raise DOWN

            bench.store.begin = refuse  # type: ignore[method-assign]
            with pytest.raises(Unavailable):
                await process.start(f"q{number}")
        bench.store.begin = original  # type: ignore[method-assign]
        bench.models.add(says("ok"))
        assert (await process.ended((await process.start("q")).name)).state == "SUCCEEDED"


async def test_a_caller_that_hangs_up_while_the_run_is_stored_has_it_all_the_same(bench: Bench) -> None:
    async with working(bench) as process:
        bench.models.add(says("ok"))
        bench.store.begin_gate = asyncio.Event()
        call = asyncio.create_task(process.start())
        await bench.store.beginning.wait()
        call.cancel()
        await asyncio.wait([call])
        bench.store.begin_gate.set()
        await bench.models.called.wait()
        assert (await process.ended()).state == "SUCCEEDED"


async def test_nothing_is_stored_before_the_process_works(bench: Bench) -> None:
    with pytest.raises(Unavailable):
        await Process(bench).start()
    assert not bench.store.rows


@pytest.mark.parametrize(
    ("name", "problems", "error", "reason"),
    [
        ("teams/other", [], NotFound, "TEAM_NOT_FOUND"),
        ("teams/helpdesk", ["no model"], FailedPrecondition, "TEAM_NOT_READY"),
    ],
)
async def test_a_team_must_be_there_and_ready(
    bench: Bench, name: str, problems: list[str], error: type[Exception], reason: str
) -> None:
    async with working(bench) as process:
        bench.catalogue.problems = problems
        with pytest.raises(error) as caught:
            await process.start(team_name=name)
        assert caught.value.reason == reason  # type: ignore[attr-defined]
        assert not bench.store.rows


async def test_a_team_without_a_revision_is_not_ready_rather_than_not_there(bench: Bench) -> None:
    async with working(bench) as process:
        bench.catalogue.all_teams, bench.catalogue.problems = [], ["no revision of it is ready yet"]
        with pytest.raises(FailedPrecondition, match="no revision") as caught:
            await process.start()
        assert caught.value.reason == "TEAM_NOT_READY"


async def test_a_suspended_team_begins_no_runs(bench: Bench) -> None:
    async with working(bench) as process:
        bench.catalogue.all_teams = [team({"name": "agent"}, suspend=True)]
        with pytest.raises(FailedPrecondition, match="suspended") as caught:
            await process.start()
        assert caught.value.reason == "TEAM_NOT_READY"


async def test_cancelling_keeps_what_was_written_and_once_is_enough(bench: Bench) -> None:
    async with working(bench) as process:
        process.hang("Half")
        row = await process.start()
        await bench.models.called.wait()
        bench.store.gate = asyncio.Event()
        await process.runs.cancel(row.name)
        await bench.store.appending.wait()
        await process.runs.cancel(row.name)  # while the end is being stored
        bench.store.gate.set()
        end = await process.ended()
        assert (end.state, end.error) == ("CANCELLED", None)
        (message,) = of_type(bench.store.steps(), MessageCompleted)
        assert message.message.content == "Half\n\n[The answer ends here: the run was cancelled]"


async def test_a_cancel_that_comes_while_the_answer_is_stored_makes_no_second_answer(bench: Bench) -> None:
    async with working(bench) as process:
        bench.store.gate = asyncio.Event()
        bench.models.add(says("Whole."))
        row = await process.start()
        await bench.store.appending.wait()
        await process.runs.cancel(row.name)
        bench.store.gate.set()
        assert (await process.ended()).state == "SUCCEEDED"
        (message,) = of_type(bench.store.steps(), MessageCompleted)
        assert message.message.content == "Whole."


async def test_a_process_that_is_stopped_while_an_answer_is_stored_stores_it_once(bench: Bench) -> None:
    async with working(bench) as process:
        bench.store.lose_answer = True
        bench.models.add(says("Whole."))
        await process.start()
        await bench.store.appending.wait()
    assert len(list(of_type(bench.store.steps(), MessageCompleted))) == 1
    assert bench.store.steps()[-1].state == "SUCCEEDED"


async def test_draining_lets_runs_end_and_gives_back_the_others(bench: Bench) -> None:
    async with working(bench) as process:
        bench.models.add([3.0, *says("Just in time.")])
        await process.start("q1")
        process.hang("Half")
        row = await process.start("q2")
        follower = asyncio.create_task(process.follow(row.name))
        bench.store.holders[row.name] = "this one"
        await process.runs.drain(timedelta(seconds=5))
        assert bench.store.steps("runs/r1")[-1].state == "SUCCEEDED"
        assert bench.store.steps("runs/r2") == []
        assert row.name not in bench.store.holders
        with pytest.raises(Unavailable):
            await follower
        with pytest.raises(Unavailable):
            await process.start("q3")
        assert len(bench.store.rows) == 2


async def test_a_run_whose_lease_is_lost_is_stopped_and_its_followers_hear_of_it_from_the_store(
    bench: Bench,
) -> None:
    async with working(bench) as process:
        process.hang("Half")
        row = await process.start()
        follower = asyncio.create_task(process.follow(row.name))
        await asyncio.sleep(1)
        bench.store.lost.append(row.name)
        await asyncio.sleep(5)
        assert not any(isinstance(step, RunFinished) for step in bench.store.steps())
        bench.store.earlier[row.name] = [stored(1), stored(2, "run_finished")]
        events = [item for item in await follower if not isinstance(item, TextDelta)]
        assert [event.sequence for event in events] == [1, 2]


async def test_a_run_of_our_own_whose_lease_ran_out_goes_on(bench: Bench) -> None:
    async with working(bench) as process:
        bench.models.add([8.0, *says("Late, but here.")])
        row = await process.start()
        bench.store.expired = [Acquired(run=row, fencing_token=2, caller=ADA)]
        assert (await process.ended()).state == "SUCCEEDED"
    assert bench.store.tokens[row.name] == 2


@pytest.mark.parametrize("after_end", [False, True])
async def test_another_user_s_run_is_not_there(bench: Bench, after_end: bool) -> None:
    async with working(bench) as process:
        if after_end:
            bench.models.add(says("ok"))
        else:
            process.hang()
        row = await process.start()
        if after_end:
            await process.ended(row.name)
        for other in (Caller("default", "bob"), Caller("elsewhere", "ada")):
            with scope(caller=other):
                with pytest.raises(NotFound):
                    await process.follow(row.name)
                with pytest.raises(NotFound):
                    await process.runs.cancel(row.name)


async def test_a_run_elsewhere_is_followed_through_the_store(bench: Bench) -> None:
    async with working(bench) as process:
        row = RunRow(
            name="runs/x", team="teams/t", session="sessions/s", state="RUNNING", last_sequence=1, user="ada"
        )
        bench.store.rows["runs/x"], bench.store.owners["runs/x"] = row, ADA
        bench.store.earlier["runs/x"] = [stored(1)]
        follower = asyncio.create_task(process.follow("runs/x"))
        await asyncio.sleep(1)
        await process.runs.cancel("runs/x")
        assert bench.store.asked_to_stop == {"runs/x"}
        bench.store.earlier["runs/x"] += [stored(2), stored(3, "run_finished")]
        bench.store.rows["runs/x"] = replace(row, state="SUCCEEDED")
        assert [event.sequence for event in await follower] == [1, 2, 3]
        with pytest.raises(FailedPrecondition) as caught:
            await process.runs.cancel("runs/x")
        assert caught.value.reason == "RUN_FINISHED"


async def test_finished_runs_are_kept_for_a_while_only(bench: Bench) -> None:
    async with working(bench) as process:
        for number in range(205):
            bench.models.add(says("ok"))
            await process.ended((await process.start(f"q{number}")).name)
        await asyncio.sleep(0)
        assert len(process.runs._held.finished) == 200
        assert not process.runs._places
