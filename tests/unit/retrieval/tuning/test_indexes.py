"""What a knowledge base shows of its index while the store is quick, silent or full."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from retrieval.core.index import CollectionSpec
from retrieval.core.model import Counts, Place, Segments, Snapshot, StoreMemory
from retrieval.core.tuning.indexes import Indexes
from retrieval.core.tuning.model import Measurement, Tuning, TuningState
from servicekit.errors import Unavailable
from servicekit.testing import FakeClock
from tests.support.approximate_store import ApproximateStore
from tests.support.tuning import DIMENSION, HNSW, World

GIB = 2**30


class Telling(ApproximateStore):
    """Says what it is told to."""

    def __init__(self) -> None:
        super().__init__(FakeClock())
        self.said: StoreMemory | None = None
        self.silent = self.broken = False
        self.asked_memory = self.asked_segments = 0

    async def memory(self) -> StoreMemory | None:
        self.asked_memory += 1
        await self._answer()
        return self.said

    async def segments(self, place: Place) -> Segments:
        self.asked_segments += 1
        await self._answer()
        return Segments(count=3, rows=9, indexed=9, pending=0, served=9, layout=frozenset({1, 2, 3}))

    async def _answer(self) -> None:
        if self.broken:
            raise Unavailable("no answer", reason="DEPENDENCY_UNAVAILABLE")
        if self.silent:
            await asyncio.Event().wait()


class Tunings:
    """One knowledge base was tuned, with seven segments."""

    def __init__(self, collection: str) -> None:
        self._measured = Measurement(
            collection=collection,
            index=HNSW,
            search_params={"ef": 50},
            chunk_count=10,
            segments=7,
            queries=10,
            real_queries=0,
            recall=0.95,
            p50_s=0.001,
            p99_s=0.002,
            curve=(),
            message="",
        )

    async def get(self, tenant: str, ids: Sequence[str]) -> Mapping[str, Tuning]:
        return {"kb": Tuning(state=TuningState.DONE, message="", measured=self._measured)}


class Newest:
    """The catalogue, for who looks once more."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    async def snapshot(self, tenant: str, id_: str) -> Snapshot:
        return self._snapshot


@pytest.fixture
async def snapshot(tmp_path: Path) -> AsyncIterator[Snapshot]:
    world = World(tmp_path)
    yield Snapshot(knowledge_base=world.knowledge_base, counts=Counts(ready=1, chunks=10))
    await world.close()


@pytest.fixture
async def store(snapshot: Snapshot) -> Telling:
    store = Telling()
    place = snapshot.knowledge_base.place
    await store.ensure_collection(CollectionSpec(place=place, dimension=DIMENSION, index=HNSW))
    return store


def indexes(store: Telling, snapshot: Snapshot, *, memory_bytes: int | None = None) -> Indexes:
    newest: Any = Newest(snapshot)
    tunings: Any = Tunings(snapshot.knowledge_base.collection)
    return Indexes(
        catalogue=newest, tunings=tunings, store=store, clock=store.clock, memory_bytes=memory_bytes
    )


async def test_segments_are_those_that_the_store_has_now(store: Telling, snapshot: Snapshot) -> None:
    (view,) = await indexes(store, snapshot).views([snapshot])
    assert view.segments == 3


async def test_a_tuning_that_has_just_ended_is_shown_with_what_it_has_chosen(
    store: Telling, snapshot: Snapshot
) -> None:
    now = replace(snapshot, search_params={"ef": 50})
    (view,) = await indexes(store, now).views([snapshot])  # read before it ended
    assert view.tuning is not None
    assert (view.tuning.state, view.search_params) == (TuningState.DONE, {"ef": 50})


async def test_a_list_asks_for_the_memory_once_and_for_no_segments(
    store: Telling, snapshot: Snapshot
) -> None:
    store.said = StoreMemory(total_bytes=16 * GIB, used_bytes=GIB)
    other = replace(snapshot, knowledge_base=replace(snapshot.knowledge_base, id="other"))
    looked_at = indexes(store, snapshot)
    first, second = await looked_at.views([snapshot, other])
    await looked_at.views([snapshot, other])
    assert (first.segments, second.segments) == (7, 0)
    assert first.store == second.store == store.said
    assert (store.asked_memory, store.asked_segments) == (1, 0)


@pytest.mark.looptime
@pytest.mark.parametrize("how", ["silent", "broken"])
async def test_a_store_that_does_not_answer_hides_nothing_else(
    store: Telling, snapshot: Snapshot, how: str
) -> None:
    setattr(store, how, True)
    async with asyncio.timeout(3):
        (view,) = await indexes(store, snapshot, memory_bytes=8 * GIB).views([snapshot])
    assert (view.segments, view.built) == (7, HNSW)
    assert view.store == StoreMemory(total_bytes=8 * GIB, used_bytes=0)


@pytest.mark.parametrize(("used_gib", "at_risk"), [(11, False), (12, True)])
async def test_other_collections_that_fill_the_store_are_a_risk(
    store: Telling, snapshot: Snapshot, used_gib: int, at_risk: bool
) -> None:
    store.said = StoreMemory(total_bytes=16 * GIB, used_bytes=used_gib * GIB)
    (view,) = await indexes(store, snapshot).views([snapshot])
    assert view.advice.at_risk == at_risk


async def test_the_setting_counts_more_than_what_the_store_says(store: Telling, snapshot: Snapshot) -> None:
    store.said = StoreMemory(total_bytes=64 * GIB, used_bytes=12 * GIB)
    (view,) = await indexes(store, snapshot, memory_bytes=16 * GIB).views([snapshot])
    assert view.advice.at_risk
    assert "12 GiB of the 16 GiB that Milvus has" in view.advice.text
