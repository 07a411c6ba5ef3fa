"""An index that is built anew: searches go on, nothing is lost, whatever is killed."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from retrieval.adapters.database import new_engine
from retrieval.adapters.migrate import migrate
from retrieval.core.index import BuiltIndex
from retrieval.core.model import Capabilities, IndexType, Place
from retrieval.core.names import document_id
from retrieval.core.tuning.model import TuningState
from servicekit.errors import Unavailable
from tests.support.tuning import World, clustered

OUTGROWN = BuiltIndex(type=IndexType.IVF_FLAT, build_params={"nlist": 5})
ROWS = 40
SMALL = {"queries": 40, "check_queries": 20, "min_chunks": 10}
LEASE = timedelta(seconds=60)


class Killed(BaseException):
    """As `kill -9` would end the process: nothing catches it."""


class Fuse:
    """Blows at the given call of any port, before or after it."""

    def __init__(self, at: int = -1, *, after: bool = False, error: type[BaseException] = Killed) -> None:
        self.at, self.after, self.error, self.calls = at, after, error, 0

    def blow(self) -> None:
        if self.error is Unavailable:
            raise Unavailable("down", reason="DEPENDENCY_UNAVAILABLE")
        raise self.error


class Fused:
    """A port whose every call may be the last one. `meanwhile` runs before each."""

    def __init__(
        self, inner: Any, fuse: Fuse, meanwhile: Callable[[str], Awaitable[None]] | None = None
    ) -> None:
        self._inner, self._fuse, self._meanwhile = inner, fuse, meanwhile

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)
        if name == "iterate":
            return lambda *args, **kwargs: self._iterate(method, *args, **kwargs)

        async def call(*args: Any, **kwargs: Any) -> Any:
            if self._meanwhile is not None:
                await self._meanwhile(name)
            self._fuse.calls += 1
            blown = self._fuse.calls == self._fuse.at
            if blown and not self._fuse.after:
                self._fuse.blow()
            result = await method(*args, **kwargs)
            if blown:
                self._fuse.blow()
            return result

        return call

    async def _iterate(self, method: Any, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        async for batch in method(*args, **kwargs):
            self._fuse.calls += 1
            if self._fuse.calls == self._fuse.at:
                self._fuse.blow()
            yield batch


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    await world.fill(chunks=10, index=OUTGROWN)
    await world.worker(**SMALL).sweep()
    yield world
    await world.close()


async def found(world: World, collections: int | None = None) -> set[str]:
    """Everything that a search through the alias can find."""
    hits = await world.store.search_dense(
        world.knowledge_base.place, clustered(1), limit=1_000, search_params={"ef": 10_000}
    )
    if collections is not None:
        assert len(world.store._collections) == collections
    return {hit.id for hit in hits[0]}


async def settled(world: World, *, rows: int = ROWS) -> None:
    """Exactly one collection, the new one, with all rows, searched, written and tuned."""
    snapshot = await world.catalogue.snapshot("default", "kb")
    assert snapshot is not None
    place = snapshot.knowledge_base.place
    assert list(world.store._collections) == [("", place.collection)]
    assert place.collection != "c1"
    assert world.store._aliases == {("", "alias"): place.collection}
    assert await world.store.count(place) == rows
    assert (await world.store.index_of(place)).build_params["nlist"] == round(4 * rows**0.5)
    assert snapshot.search_params  # and those are of this collection
    assert len(await found(world)) == rows
    tuning = (await world.tunings.get("default", ["kb"]))["kb"]
    assert tuning.state == TuningState.DONE
    assert tuning.measured is not None
    assert "built anew: nlist is 5" in tuning.message
    assert tuning.measured.collection == place.collection
    # Indexing goes on, in the new collection.
    await world.add("later.md", chunks=3, seed=50)
    assert await world.store.count(place) == rows + 3


async def test_a_shadow_takes_over(world: World) -> None:
    await world.worker(**SMALL).run_until_idle()
    await settled(world)


async def _killed_at(world: World, at: int, *, after: bool) -> bool:
    """Whether the worker was killed; searches find everything all the while."""
    fuse = Fuse(at, after=after)

    async def look(_: str) -> None:
        assert len(await found(world)) == ROWS
        assert len(world.store._collections) <= 2

    try:
        await world.worker(
            store=Fused(world.store, fuse, look), tunings=Fused(world.tunings, fuse), **SMALL
        ).run_until_idle()
    except Killed:
        return True
    except BaseExceptionGroup as group:
        if group.subgroup(Killed) is None:
            raise
        return True
    return False


@pytest.mark.parametrize("after", [False, True])
async def test_killed_at_any_call_the_next_worker_ends_it(tmp_path: Path, after: bool) -> None:
    migrated = tmp_path / "migrated.db"
    engine = new_engine(f"sqlite:///{migrated}")
    await migrate(engine)
    await engine.dispose()
    at, kills = 1 + after, 0
    while True:
        folder = tmp_path / str(at)
        folder.mkdir()
        world = World(folder)
        await world.fill(chunks=10, index=OUTGROWN, database=migrated)
        await world.worker(**SMALL).sweep()
        killed = await _killed_at(world, at, after=after)
        if not killed:
            await world.close()
            break
        kills += 1
        assert len(await found(world)) == ROWS
        world.clock.advance(LEASE + timedelta(seconds=1))
        await world.worker(**SMALL).run_until_idle()
        await settled(world)
        await world.close()
        at += 3
    assert kills > 5


async def test_indexing_waits_and_deletions_do_not(world: World) -> None:
    seen: list[str] = []

    async def meanwhile(call: str) -> None:
        if call == "count" and "deleted" not in seen:
            seen.append("deleted")
            # Uploaded while it is copied: accepted, and not claimed.
            now = world.clock.now()
            await world.catalogue.put_document(document("new.md", world))
            assert await world.catalogue.claim(lease=LEASE, now=now) is None
            # Deleted after it was copied.
            gone = document_id("1.md")
            assert await world.catalogue.mark_document_deleted("default", "kb", gone, now=now) is False
            await world.store.delete_document(world.knowledge_base.place, gone)
            await world.catalogue.remove_document("default", "kb", gone, now=now)

    store = Fused(world.store, Fuse(), None)
    tunings = world.tunings

    class Watching:
        def __getattr__(self, name: str) -> Any:
            return getattr(store, name)

        async def flush(self, place: Any) -> None:
            await meanwhile("count")
            await world.store.flush(place)

    await world.worker(store=Watching(), tunings=tunings, **SMALL).run_until_idle()
    assert seen == ["deleted"]
    snapshot = await world.catalogue.snapshot("default", "kb")
    assert snapshot is not None
    assert snapshot.knowledge_base.collection != "c1"
    assert len(await found(world, collections=1)) == ROWS - 10
    claim = await world.catalogue.claim(lease=LEASE, now=world.clock.now())
    assert claim is not None
    assert claim.document.path == "new.md"


async def test_what_was_indexed_during_the_copy_is_never_lost(world: World) -> None:
    """A worker of a version that knows no pause: the swap is refused, and begins again."""
    done: list[str] = []

    class Rogue:
        def __getattr__(self, name: str) -> Any:
            return getattr(world.store, name)

        async def flush(self, place: Any) -> None:
            if not done:
                done.append("indexed")
                world.clock.advance(timedelta(seconds=1))
                await indexed_by_a_former_version(world, "rogue.md")
            await world.store.flush(place)

    worker = world.worker(store=Rogue(), **SMALL)
    await worker.run_until_idle()
    assert len(await found(world)) == ROWS + 2
    world.clock.advance(timedelta(minutes=1))
    await worker.run_until_idle()
    await settled(world, rows=ROWS + 2)


async def test_an_outage_leaves_no_shadow_behind(world: World) -> None:
    class Failing:
        def __getattr__(self, name: str) -> Any:
            return getattr(world.store, name)

        async def flush(self, place: Any) -> None:
            raise Unavailable("Milvus does not answer", reason="DEPENDENCY_UNAVAILABLE")

    await world.worker(store=Failing(), **SMALL).run_until_idle()
    assert len(await found(world, collections=1)) == ROWS
    assert await world.catalogue.claim(lease=LEASE, now=world.clock.now()) is None  # nothing waits
    tuning = (await world.tunings.get("default", ["kb"]))["kb"]
    assert tuning.state == TuningState.PENDING
    world.clock.advance(timedelta(minutes=1))
    await world.worker(**SMALL).run_until_idle()
    await settled(world)


async def test_a_copy_of_what_is_only_half_loaded_does_not_serve(world: World) -> None:
    """A query node has died: neither walks nor counts say so."""

    class HalfLoaded:
        def __getattr__(self, name: str) -> Any:
            return getattr(world.store, name)

        async def capabilities(self) -> Capabilities:
            return replace(await world.store.capabilities(), may_miss=True)

        async def iterate(self, place: Place, **options: Any) -> AsyncIterator[Any]:
            async for batch in world.store.iterate(place, **options):
                yield batch[: len(batch) // 2] if place.collection == "c1" else batch

        async def count(self, place: Place) -> int:
            return await world.store.count(place) // (2 if place.collection == "c1" else 1)

        findable = count

    await world.worker(store=HalfLoaded(), **SMALL).run_until_idle()
    assert len(await found(world, collections=1)) == ROWS
    tuning = (await world.tunings.get("default", ["kb"]))["kb"]
    assert tuning.state == TuningState.PENDING
    world.clock.advance(timedelta(minutes=1))
    await world.worker(**SMALL).run_until_idle()
    await settled(world)


async def test_a_knowledge_base_that_is_deleted_takes_its_shadow_along(world: World) -> None:
    assert await _killed_at(world, 30, after=True)
    assert len(world.store._collections) == 2
    await world.catalogue.mark_knowledge_base_deleted("default", "kb")
    await world.store.drop(world.knowledge_base.place)
    await world.catalogue.remove_knowledge_base("default", "kb")
    world.clock.advance(LEASE + timedelta(seconds=1))
    await world.worker(**SMALL).run_until_idle()
    assert world.store._collections == {}
    assert await world.tunings.get("default", ["kb"]) == {}


async def test_a_lost_lease_stops_the_work(world: World) -> None:
    """The first worker sleeps through its lease; what it does afterwards changes nothing."""
    reached, go_on = asyncio.Event(), asyncio.Event()

    class Slow:
        def __getattr__(self, name: str) -> Any:
            return getattr(world.store, name)

        async def flush(self, place: Any) -> None:
            reached.set()
            await go_on.wait()

    sleeper = asyncio.ensure_future(world.worker(store=Slow(), **SMALL).run_once())
    async with asyncio.timeout(5):
        await reached.wait()
    world.clock.advance(LEASE + timedelta(seconds=1))
    await world.worker(**SMALL).run_until_idle()
    go_on.set()
    async with asyncio.timeout(5):
        await sleeper
    await settled(world)


def document(path: str, world: World) -> Any:
    return world.upload(path)


async def indexed_by_a_former_version(world: World, path: str) -> None:
    await world.add(path, chunks=2, seed=77, pausable=False)
