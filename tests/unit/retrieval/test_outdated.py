"""A knowledge base whose collection an earlier release made moves to a new one, and loses nothing."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from retrieval.adapters.memory import MemoryStore
from retrieval.adapters.migrate import migrate
from retrieval.core.errors import OutdatedCollection
from retrieval.core.model import Document, DocumentState, Place, Tenancy
from servicekit.context import Caller, scope
from servicekit.errors import NotFound
from tests.support.ingest_upkeep import reconciler
from tests.unit.retrieval.test_ingest import FIRST, LIMITS, SECOND, SPEC, Fuse, Killed, World


class AgedStore(MemoryStore):
    """Some of its collections lack a field."""

    def __init__(self) -> None:
        super().__init__()
        self.old: set[str] = set()
        self.looks = 0

    async def lacking(self, place: Place) -> frozenset[str]:
        self.looks += 1
        await super().lacking(place)
        return frozenset({"metadata"}) if place.collection in self.old else frozenset()

    async def upsert(self, place: Place, *args: Any) -> None:
        if place.collection in self.old:
            raise OutdatedCollection("unexpected field `metadata`", reason="DEPENDENCY_UNAVAILABLE")
        await super().upsert(place, *args)


class AgedWorld(World):
    """With a knowledge base."""

    def __init__(self, folder: Path, aged: AgedStore) -> None:
        super().__init__(folder, aged)
        self.aged = aged

    async def grow_old(self) -> Place:
        place = (await self.knowledge_bases.get("kb")).knowledge_base.place
        self.aged.old.add(place.collection)
        return place

    async def indexed(self) -> Document:
        document = await self.upload(FIRST)
        await self.worker().run_until_idle()
        return document

    async def check(self, document: Document, text: str, former: Place) -> None:
        """All is in a new collection, and the former one is gone."""
        now = await self.knowledge_bases.get("kb")
        assert now.knowledge_base.collection != former.collection
        assert await self.stored(document.id) == self.expected(document.id, text)
        await self.knowledge_bases.sweep()
        with pytest.raises(NotFound):
            await self.store.count(replace(former, alias=""))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[AgedWorld]:
    world = AgedWorld(tmp_path, AgedStore())
    await migrate(world.engine)
    with scope(caller=Caller("default", "test")):
        await world.knowledge_bases.create("kb", SPEC)
        yield world
    await world.engine.dispose()


async def test_creating_it_again_moves_it(world: AgedWorld) -> None:
    document = await world.indexed()
    former = await world.grow_old()
    snapshot = await world.knowledge_bases.create("kb", SPEC)
    assert (snapshot.counts.pending, snapshot.counts.chunks) == (1, 0)
    await world.worker().run_until_idle()
    await world.check(document, FIRST, former)
    now = (await world.knowledge_bases.get("kb")).knowledge_base
    await world.knowledge_bases.create("kb", SPEC)  # which moves it once only
    assert (await world.knowledge_bases.get("kb")).knowledge_base == now


async def test_the_first_document_of_a_worker_moves_it(world: AgedWorld) -> None:
    document = await world.indexed()
    former = await world.grow_old()
    other = await world.upload(SECOND, "b.md")
    looks = world.aged.looks
    await world.worker().run_until_idle()
    await world.check(document, FIRST, former)
    assert await world.stored(other.id) == world.expected(other.id, SECOND)
    assert world.aged.looks - looks == 2  # the former one and the new one, not once a document
    assert (await world.knowledge_bases.get("kb")).counts.ready == 2


async def test_killed_at_any_call_the_move_goes_on(world: AgedWorld) -> None:
    document = await world.indexed()
    for at in range(1, 100):
        former = await world.grow_old()
        await world.upload(SECOND if at % 2 else FIRST)
        fuse = Fuse(at=at)
        with contextlib.suppress(Killed):
            await world.worker(fuse).run_until_idle()
        if fuse.calls < at:
            break
        # A new collection that was named and not made is made by the comparison that a lost write asks for.
        for _ in range(3):
            world.clock.advance(LIMITS.lease + timedelta(minutes=2))
            await world.worker().run_until_idle()
            await reconciler(world).run_once()
        await world.check(document, SECOND if at % 2 else FIRST, former)
    else:
        pytest.fail("the fuse always blew")
    assert at > 10


async def test_one_that_was_made_old_again_postpones_and_never_fails(world: AgedWorld) -> None:
    """By a replica of the earlier release, after the worker looked."""
    worker = world.worker()
    await world.upload(FIRST)
    await worker.run_until_idle()
    former = await world.grow_old()
    document = await world.upload(SECOND)
    await worker.run_until_idle()  # it does not look before this write, but after it
    waiting = await world.documents.get("kb", document.id)
    assert (waiting.state, waiting.error) == (DocumentState.PENDING, None)
    world.clock.advance(timedelta(minutes=2))
    await worker.run_until_idle()
    await world.check(document, SECOND, former)


async def test_a_shared_one_waits_for_a_person(world: AgedWorld) -> None:
    await world.knowledge_bases.delete("kb")
    shared = replace(SPEC, tenancy=Tenancy.PARTITION_KEY)
    await world.knowledge_bases.create("kb", shared)
    before = await world.grow_old()
    document = await world.upload(FIRST)
    for _ in range(8):
        await world.worker().run_until_idle()
        world.clock.advance(LIMITS.patience)
    waiting = await world.documents.get("kb", document.id)
    assert (waiting.state, waiting.attempts) == (DocumentState.PENDING, 8)
    with pytest.raises(OutdatedCollection, match=f"{before.collection} .* lacks metadata; delete"):
        await world.knowledge_bases.create("kb", shared)
    world.aged.old.clear()
    await world.worker().run_until_idle()
    assert await world.stored(document.id) == world.expected(document.id, FIRST)
