"""Followers of a run that another process works on."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta
from typing import Any, cast

import pytest

from orchestrator.core.following import Following
from orchestrator.core.log import RunLog
from orchestrator.core.model import TextDelta
from orchestrator.core.ports import RunRow
from servicekit.errors import ResourceExhausted, Unavailable
from tests.support.fake_store import stored

pytestmark = pytest.mark.looptime

RUN = "runs/r1"
PIECE = TextDelta(message="text-#1", offset=0, text="Thirty days.", member="")


class OwnerThatEnded:
    """The owner's last items are on their way while the store says already that the run has ended."""

    def __init__(self) -> None:
        self._arrived = asyncio.Event()
        self._asked = 0

    async def get(self, run: str) -> RunRow:
        self._asked += 1
        over = self._asked > 1
        if over:
            self._arrived.set()
            await asyncio.sleep(0.01)  # the round trip, in which the items are read
        return RunRow(
            name=run,
            team="teams/t",
            session="sessions/s",
            state="SUCCEEDED" if over else "RUNNING",
            last_sequence=2,
            user="ada",
            owner_address="" if over else "127.0.0.1:1",
        )

    async def events(self, run: str, *, after: int, wait: timedelta = timedelta(0)) -> list[Any]:
        return [event for event in (stored(1), stored(2, "run_finished")) if event.sequence > after]

    async def follow(self, address: str, run: str, *, after: int) -> AsyncIterator[Any]:
        yield [stored(1)]
        await self._arrived.wait()
        yield [PIECE]
        yield [stored(2, "run_finished")]


async def test_what_the_owner_sent_comes_before_what_the_store_has() -> None:
    """A process that was frozen finds both when it goes on; only the owner's has the pieces of texts."""
    world: Any = OwnerThatEnded()
    following = Following(store=world, peers=world, address="127.0.0.1:2", find=lambda _: None)
    items = [item async for part in following.follow(RUN, after=0, forwarded=False) for item in part]
    assert items == [stored(1), PIECE, stored(2, "run_finished")]


class WaitingRun:
    """A run that waits for a person: nobody works on it, and nothing comes for a long time."""

    def __init__(self, *, waits: bool = True, full: bool = False) -> None:
        self.asked: list[timedelta] = []
        self._log = [stored(1)]
        self._changed = asyncio.Event()
        self._waits, self._full = waits, full

    def append(self, event: Any) -> None:
        self._log.append(event)
        self._changed.set()

    async def get(self, run: str) -> RunRow:
        return RunRow(
            name=run, team="teams/t", session="sessions/s", state="WAITING", last_sequence=1, user="ada"
        )

    async def events(self, run: str, *, after: int, wait: timedelta = timedelta(0)) -> list[Any]:
        self.asked.append(wait)
        if wait and self._full:
            raise ResourceExhausted("full", reason="TOO_MANY_FOLLOWERS")
        if wait and self._waits and len(self._log) <= after:
            with suppress(TimeoutError):
                async with asyncio.timeout(wait.total_seconds()):
                    await self._changed.wait()
        return self._log[after:]


async def follows(world: WaitingRun, found: list[RunLog]) -> tuple[Following, "asyncio.Task[list[Any]]"]:
    following = Following(
        store=cast(Any, world),
        peers=cast(Any, None),
        address="127.0.0.1:2",
        find=lambda _: found[0] if found else None,
    )

    async def items() -> list[Any]:
        return [i async for part in following.follow(RUN, after=1, forwarded=False) for i in part]

    return following, asyncio.ensure_future(items())


async def test_a_run_that_waits_for_a_person_is_asked_about_six_times_a_minute_and_heard_at_once() -> None:
    world = WaitingRun()
    _, task = await follows(world, [])
    await asyncio.sleep(61)
    assert len(world.asked) == 7
    began = asyncio.get_running_loop().time()
    world.append(stored(2, "run_finished"))
    assert await task == [stored(2, "run_finished")]
    assert asyncio.get_running_loop().time() - began < 0.1


@pytest.mark.parametrize("world", [WaitingRun(waits=False), WaitingRun(full=True)], ids=["old", "full"])
async def test_a_store_that_does_not_wait_is_asked_once_a_second(world: WaitingRun) -> None:
    _, task = await follows(world, [])
    await asyncio.sleep(10.5)
    assert sum(map(bool, world.asked)) == 11
    world.append(stored(2, "run_finished"))
    assert await task == [stored(2, "run_finished")]


async def test_a_run_that_comes_here_ends_the_wait_for_the_store() -> None:
    world = WaitingRun()
    found: list[Any] = []

    class Log:
        async def follow(self, after: int) -> AsyncIterator[Any]:
            yield [PIECE]

    following, task = await follows(world, found)
    await asyncio.sleep(3)
    found.append(Log())
    following.arrived()
    async with asyncio.timeout(0.1):
        assert await task == [PIECE]


async def test_a_process_that_stops_sends_followers_elsewhere_at_once() -> None:
    following, task = await follows(WaitingRun(), [])
    await asyncio.sleep(3)
    following.stop()
    async with asyncio.timeout(0.1):
        with pytest.raises(Unavailable):
            await task
