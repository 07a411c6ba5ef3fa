"""Writes to a store that does one call at a time leave room for searches between them."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from retrieval.adapters.memory import MemoryStore
from retrieval.adapters.migrate import migrate
from retrieval.core.model import Capabilities, ChunkRecord, Place, Vectors
from servicekit.context import Caller, scope
from servicekit.testing import FakeClock
from tests.unit.retrieval.test_ingest import FIRST, SECOND, SPEC, World


class Slow(MemoryStore):
    """Counts the writes that are under way; each takes 50 ms of the clock's time."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self._under_way = 0
        self.most = 0
        self.writes = 0

    async def capabilities(self) -> Capabilities:
        return replace(await super().capabilities(), flush_after_ingest=True)

    async def upsert(self, place: Place, records: Sequence[ChunkRecord], vectors: Vectors) -> None:
        self._under_way += 1
        self.writes += 1
        self.most = max(self.most, self._under_way)
        for _ in range(100):  # of the event loop: time for whoever else would write
            await asyncio.sleep(0)
        self.clock.advance(timedelta(milliseconds=50))
        await super().upsert(place, records, vectors)
        self._under_way -= 1


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[tuple[World, Slow]]:
    store = Slow()
    world = World(tmp_path, store)
    store.clock = world.clock
    await migrate(world.engine)
    with scope(caller=Caller("default", "test")):
        await world.knowledge_bases.create("kb", SPEC)
        yield world, store
    await world.engine.dispose()


async def test_two_documents_at_a_time_write_in_turn_and_rest_as_long_as_a_write_took(
    world: tuple[World, Slow],
) -> None:
    here, store = world
    await here.upload(FIRST, path="a.md")
    await here.upload(SECOND, path="b.md")
    worker = here.worker()
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert all(await asyncio.gather(worker.run_once(), worker.run_once()))
    assert store.writes > 3
    assert store.most == 1
    assert loop.time() - began > store.writes * 0.05 * 0.9
