"""Followers of a run that another process works on."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from orchestrator.core.following import Following
from orchestrator.core.model import TextDelta
from orchestrator.core.ports import RunRow
from tests.support.orchestrator_fakes import stored

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

    async def events(self, run: str, *, after: int) -> list[Any]:
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
