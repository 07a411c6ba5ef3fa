"""What a run asks of its session: how much of the conversation, and how long it is kept."""

import asyncio
from datetime import timedelta

import pytest

from orchestrator.core.model import Message
from orchestrator.core.runs import Runs
from tests.support.fake_models import says
from tests.support.orchestrator_fakes import Bench, FakePeers, flat, team

pytestmark = [pytest.mark.looptime, pytest.mark.usefixtures("as_ada")]


@pytest.mark.parametrize(
    ("session", "asked"),
    [
        ({}, (6, None)),
        ({"historyRuns": 0, "retentionDays": 30}, (0, timedelta(days=30))),
        ({"historyRuns": 100, "retentionDays": 1}, (200, timedelta(days=1))),
    ],
)
async def test_a_run_asks_for_the_history_and_the_retention_of_its_team(
    session: dict[str, int], asked: tuple[int, timedelta | None]
) -> None:
    bench = Bench()
    bench.catalogue.all_teams = [team(session=session)]
    bench.models.add(says("Yes."))
    runs = Runs(world=bench.world, store=bench.store, peers=FakePeers(), clock=bench.clock)
    task = asyncio.create_task(runs.work())
    await asyncio.sleep(0)
    row = await runs.start(
        team_name="helpdesk",
        session="",
        messages=[Message(role="user", content="Why?")],
        request_id="q1",
    )
    async with asyncio.timeout(60):
        assert [item async for item in flat(runs.follow(row.name, after=0))]
    task.cancel()
    await asyncio.wait([task])
    assert bench.store.asked == {row.name: asked}
