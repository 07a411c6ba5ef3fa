"""Catalogue and store are made to agree, and what a worker is writing is left alone."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from retrieval.core.ingest_model import Reconciled
from retrieval.core.model import Capabilities, Document, DocumentError, DocumentState, Place, StoredChunk
from servicekit.errors import Unavailable
from tests.support.ingest_upkeep import all_chunks, reconciler
from tests.unit.retrieval.test_ingest import FIRST, LIMITS, SECOND, Fuse, Fused, Killed, World, world  # noqa: F401

PATHS = [f"{number}.md" for number in range(4)]
NOTHING = Reconciled()


async def filled(world: World) -> list[Document]:  # noqa: F811
    documents = [await world.upload(f"# {path}\n\n{FIRST}", path) for path in PATHS]
    await world.worker().run_until_idle()
    return documents


async def ids(world: World) -> list[str]:  # noqa: F811
    return [chunk.record.id for chunk in await all_chunks(world)]


async def plant(world: World, like: StoredChunk, **changes: Any) -> None:  # noqa: F811
    """A row that should not be there."""
    place = (await world.knowledge_bases.get("kb")).knowledge_base.place
    assert like.vector is not None
    await world.store.upsert(place, [replace(like.record, **changes)], np.array([like.vector]))


async def test_nothing_is_wrong(world: World) -> None:  # noqa: F811
    await filled(world)
    before = await ids(world)
    assert await reconciler(world).reconcile("default", "kb") == NOTHING
    assert await ids(world) == before
    status = (await world.catalogue.ingest_statuses("default", ["kb"], now=world.clock.now()))["kb"]
    assert status.reconcile_time == world.clock.now()


async def test_strays_go(world: World) -> None:  # noqa: F811
    await filled(world)
    right = await ids(world)
    chunk = (await all_chunks(world))[0]
    await plant(world, chunk, id=f"{'0' * 26}-00000-x", document="0" * 26)  # of no document, the first
    await plant(world, chunk, id=f"{'v' * 26}-00000-x", document="v" * 26)  # the last
    await plant(world, chunk, id=f"{chunk.record.document}-00099-x", version="old")  # of a former version
    assert await reconciler(world).reconcile("default", "kb") == Reconciled(stray_chunks_removed=3)
    assert await ids(world) == right
    assert await reconciler(world).reconcile("default", "kb") == NOTHING
    status = (await world.catalogue.ingest_statuses("default", ["kb"], now=world.clock.now()))["kb"]
    assert (status.stray_chunks_removed, status.documents_requeued) == (3, 0)


async def test_missing_chunks_are_indexed_again(world: World) -> None:  # noqa: F811
    documents = await filled(world)
    right = await ids(world)
    place = (await world.knowledge_bases.get("kb")).knowledge_base.place
    await world.store.delete_chunks(place, [(await world.stored(documents[0].id))[3]])
    await world.store.delete_document(place, documents[3].id)
    assert await reconciler(world).reconcile("default", "kb") == Reconciled(documents_requeued=2)
    assert (await world.documents.get("kb", documents[3].id)).state == DocumentState.PENDING
    assert await world.worker().run_until_idle() == 2
    assert await ids(world) == right


async def test_a_lost_collection_is_made_and_filled_again(world: World) -> None:  # noqa: F811
    await filled(world)
    right = await ids(world)
    await world.store.drop((await world.knowledge_bases.get("kb")).knowledge_base.place)
    assert await reconciler(world).reconcile("default", "kb") == Reconciled(documents_requeued=4)
    await world.worker().run_until_idle()
    assert await ids(world) == right


async def test_a_failed_document_has_no_chunks(world: World) -> None:  # noqa: F811
    documents = await filled(world)
    await world.upload(SECOND, PATHS[0])
    claim = await world.catalogue.claim(lease=LIMITS.lease, now=world.clock.now())
    assert claim is not None
    error = DocumentError(reason="MODEL_UNAVAILABLE", message="away")
    assert await world.catalogue.fail(claim, error, chunks_removed=False, now=world.clock.now())
    there = len(await world.stored(documents[0].id))
    assert await reconciler(world).reconcile("default", "kb") == Reconciled(stray_chunks_removed=there)
    assert await world.stored(documents[0].id) == []
    assert (await world.documents.get("kb", documents[0].id)).chunk_count == 0


async def test_what_waits_or_is_in_work_is_left_alone(world: World) -> None:  # noqa: F811
    await filled(world)
    await world.upload(SECOND, PATHS[0])  # waits, with chunks of its former version
    await world.upload(SECOND, PATHS[1])
    with pytest.raises(Killed):
        await world.worker(Fuse(at=6)).run_until_idle()  # in work, with some chunks of its new one
    before = await ids(world)
    assert await reconciler(world).reconcile("default", "kb") == NOTHING
    assert await ids(world) == before


class Between:
    """A store that does something after the walk has read all, before it is judged."""

    def __init__(self, world: World, action: Callable[[], Awaitable[Any]]) -> None:  # noqa: F811
        self._world = world
        self._action: Callable[[], Awaitable[Any]] | None = action

    def __getattr__(self, name: str) -> Any:
        return getattr(self._world.store, name)

    async def iterate(self, place: Any, **options: Any) -> AsyncIterator[list[StoredChunk]]:
        batches = [batch async for batch in self._world.store.iterate(place, **options)]
        action, self._action = self._action, None
        if action is not None:
            await action()
        for batch in batches:
            yield batch


async def test_a_document_that_is_replaced_during_the_walk(world: World) -> None:  # noqa: F811
    documents = await filled(world)
    await plant(
        world, (await all_chunks(world))[0], id=f"{documents[0].id}-00099-x", document=documents[0].id
    )

    async def replaced() -> None:
        await world.upload(SECOND, PATHS[0])
        await world.worker().run_until_idle()

    assert await reconciler(world, store=Between(world, replaced)).reconcile("default", "kb") == NOTHING
    assert await world.stored(documents[0].id) == world.expected(documents[0].id, SECOND)


async def test_a_document_that_is_uploaded_during_the_walk_is_no_stray(world: World) -> None:  # noqa: F811
    await filled(world)
    chunk = (await all_chunks(world))[0]
    new = "late.md"
    late = (await world.upload(SECOND, new)).id
    await world.documents.delete("kb", late)
    await plant(world, chunk, id=f"{late}-00099-x", document=late)

    async def uploaded() -> None:
        await world.upload(SECOND, new)
        await world.worker().run_until_idle()

    found = await reconciler(world, store=Between(world, uploaded)).reconcile("default", "kb")
    assert (found.stray_chunks_removed, found.documents_requeued) == (1, 0)  # what was planted, no more
    assert await world.stored(late) == world.expected(late, SECOND)


async def test_an_upload_waits_while_a_document_is_mended(world: World) -> None:  # noqa: F811
    documents = await filled(world)
    claimed: list[object] = []

    class Mending:
        def __getattr__(self, name: str) -> Any:
            return getattr(world.store, name)

        async def delete_document(self, *args: Any, **kwargs: Any) -> None:
            await world.upload(SECOND, PATHS[0])
            claimed.append(await world.catalogue.claim(lease=LIMITS.lease, now=world.clock.now()))
            await world.store.delete_document(*args, **kwargs)

    chunk = next(c for c in await all_chunks(world) if c.record.document == documents[0].id)
    await plant(world, chunk, id=f"{documents[0].id}-00099-x", version="old")
    await reconciler(world, store=Mending()).reconcile("default", "kb")
    assert claimed == [None]
    assert await world.worker().run_until_idle() == 1
    assert await world.stored(documents[0].id) == world.expected(documents[0].id, SECOND)


@pytest.mark.parametrize("after", [False, True])
async def test_killed_at_any_call_the_next_comparison_ends_it(world: World, after: bool) -> None:  # noqa: F811
    documents = await filled(world)
    right = await ids(world)
    chunk = (await all_chunks(world))[0]
    place = (await world.knowledge_bases.get("kb")).knowledge_base.place
    kills = 0
    while True:
        await plant(world, chunk, id=f"{'0' * 26}-00000-x", document="0" * 26)
        await world.store.delete_document(place, documents[2].id)
        fuse = Fuse(at=kills + 1, after=after)
        walking = reconciler(world)
        walking._catalogue = Fused(world.catalogue, fuse)
        try:
            await walking.reconcile("default", "kb")
            if fuse.calls <= kills:
                break
        except Killed:
            pass
        kills += 1
        world.clock.advance(timedelta(minutes=5))
        await reconciler(world).reconcile("default", "kb")
        await world.worker().run_until_idle()
        await world.documents.sweep()
        assert await ids(world) == right
    assert kills >= 6


async def test_when_comparisons_are_due(world: World) -> None:  # noqa: F811
    await filled(world)
    compare = reconciler(world)
    assert await compare.run_once()
    assert not await compare.run_once()
    world.clock.advance(timedelta(hours=6))
    assert await compare.run_once()
    now = world.clock.now()
    await world.catalogue.reconcile_by(now, unless_since=now - timedelta(minutes=10))
    assert not await compare.run_once()
    await world.catalogue.reconcile_by(now)
    assert await compare.run_once()


async def test_what_the_store_is_loading_again_is_not_taken_for_lost(world: World) -> None:  # noqa: F811
    documents = await filled(world)
    place = (await world.knowledge_bases.get("kb")).knowledge_base.place

    class Loading:
        missing = 3

        def __getattr__(self, name: str) -> Any:
            return getattr(world.store, name)

        async def capabilities(self) -> Capabilities:
            return replace(await world.store.capabilities(), may_miss=True)

        async def findable(self, place: Place) -> int:
            return await world.store.findable(place) - self.missing

    store = Loading()
    compare = reconciler(world, store=store)
    for _ in range(2):
        with pytest.raises(Unavailable, match="3 chunks cannot be found now"):
            await compare.run_once()
        world.clock.advance(timedelta(minutes=4))
        await world.catalogue.reconcile_by(world.clock.now())
    store.missing = 0
    assert await compare.run_once()
    assert await world.worker().run_until_idle() == 0
    # What stays away is lost.
    await world.store.delete_document(place, documents[0].id)
    world.clock.advance(timedelta(hours=6))
    with pytest.raises(Unavailable):
        await compare.run_once()
    world.clock.advance(timedelta(minutes=5))
    await world.catalogue.reconcile_by(world.clock.now())
    assert await compare.run_once()
    assert await world.worker().run_until_idle() == 1


async def test_an_outage_of_the_store_makes_one_due(world: World) -> None:  # noqa: F811
    await filled(world)
    compare = reconciler(world)
    assert await compare.run_once()
    away = Unavailable("away", reason="DEPENDENCY_UNAVAILABLE", metadata={"dependency": "milvus"})
    await world.upload(SECOND, PATHS[0])
    await world.worker(Fuse(at=5, error=away)).run_until_idle()
    assert not await compare.run_once()
    world.clock.advance(LIMITS.lease)
    assert await compare.run_once()
