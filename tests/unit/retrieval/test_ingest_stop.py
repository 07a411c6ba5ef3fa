"""A worker that stops, and one that is slowed down, leave nobody waiting and count no failure."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from retrieval.adapters.memory import MemoryStore
from retrieval.core.indexing import batches
from retrieval.core.model import ChunkDraft, DocumentState, Embedded
from servicekit.errors import ResourceExhausted
from tests.support.retrieval import HashEmbedder
from tests.unit.retrieval.test_ingest import FIRST, World, world  # noqa: F401

SOON = timedelta(seconds=0.01)


async def end(running: "asyncio.Future[None]") -> None:
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


class Slow(HashEmbedder):
    """Embeds when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.began = asyncio.Event()
        self.go_on = asyncio.Event()

    async def embed_passages(self, model: str, texts: Sequence[str]) -> Embedded:
        self.began.set()
        await self.go_on.wait()
        return await super().embed_passages(model, texts)


async def test_a_stop_waits_for_what_is_nearly_done(world: World) -> None:  # noqa: F811
    document = await world.upload(FIRST)
    slow = world.embedder = Slow()
    worker = world.worker()
    running = asyncio.ensure_future(worker.run())
    await slow.began.wait()
    drained = asyncio.ensure_future(worker.drain(within=timedelta(seconds=5)))
    await asyncio.sleep(0)
    slow.go_on.set()
    await drained
    assert (await world.documents.get("kb", document.id)).state == DocumentState.READY
    await end(running)


async def test_a_stop_gives_back_what_is_not(world: World) -> None:  # noqa: F811
    document = await world.upload(FIRST)
    slow = world.embedder = Slow()
    worker = world.worker()
    running = asyncio.ensure_future(worker.run())
    await slow.began.wait()
    await worker.drain(within=SOON)
    found = await world.documents.get("kb", document.id)
    assert (found.state, found.attempts) == (DocumentState.PENDING, 0)
    world.embedder = HashEmbedder()
    assert await world.worker().run_until_idle() == 1  # though the lease has not ended
    assert await world.stored(document.id) == world.expected(document.id, FIRST)
    await end(running)


async def test_being_cancelled_gives_back_too(world: World) -> None:  # noqa: F811
    document = await world.upload(FIRST)
    slow = world.embedder = Slow()
    running = asyncio.ensure_future(world.worker().run())
    await slow.began.wait()
    await end(running)
    assert (await world.documents.get("kb", document.id)).attempts == 0


async def test_a_write_that_has_begun_is_ended_before_the_claim_goes_back(world: World) -> None:  # noqa: F811
    began, go_on = asyncio.Event(), asyncio.Event()

    class SlowStore(MemoryStore):
        async def upsert(self, *args: Any, **kwargs: Any) -> None:
            began.set()
            await go_on.wait()
            await super().upsert(*args, **kwargs)

    document = await world.upload(FIRST)
    slow = SlowStore()
    slow.__dict__.update(world.store.__dict__)
    world.store = slow
    worker = world.worker()
    running = asyncio.ensure_future(worker.run())
    await began.wait()
    drained = asyncio.ensure_future(worker.drain(within=SOON))
    await asyncio.wait([drained], timeout=0.1)
    assert not drained.done()
    assert (await world.documents.get("kb", document.id)).state == DocumentState.INDEXING
    go_on.set()
    await drained
    assert (await world.documents.get("kb", document.id)).state == DocumentState.PENDING
    await end(running)


class Full(HashEmbedder):
    """Has no room for the first calls."""

    def __init__(self, refusals: int) -> None:
        super().__init__()
        self.refusals = refusals

    async def embed_passages(self, model: str, texts: Sequence[str]) -> Embedded:
        if self.refusals:
            self.refusals -= 1
            raise ResourceExhausted("no room", reason="QUOTA_EXHAUSTED", retry_after=SOON)
        return await super().embed_passages(model, texts)


async def test_no_room_at_the_model_is_waited_for(world: World) -> None:  # noqa: F811
    document = await world.upload(FIRST)
    world.embedder = Full(5)
    assert await world.worker().run_until_idle() == 1
    found = await world.documents.get("kb", document.id)
    assert (found.state, found.attempts) == (DocumentState.READY, 1)


async def test_no_room_for_long_puts_the_document_back_and_counts_nothing(world: World) -> None:  # noqa: F811
    class FullForLong(Full):
        async def embed_passages(self, model: str, texts: Sequence[str]) -> Embedded:
            world.clock.advance(timedelta(seconds=20))
            return await super().embed_passages(model, texts)

    document = await world.upload(FIRST)
    world.embedder = FullForLong(1_000)
    worker = world.worker()
    for _ in range(60):  # an outage would have failed it by then
        assert await worker.run_once()
        world.clock.advance(timedelta(seconds=60))
    found = await world.documents.get("kb", document.id)
    assert (found.state, found.attempts, found.error) == (DocumentState.PENDING, 0, None)


def test_batches_have_bounds_of_chunks_and_of_tokens() -> None:
    def drafts(*tokens: int) -> list[ChunkDraft]:
        return [ChunkDraft(text="word " * n, context="", location="") for n in tokens]

    def sizes(*tokens: int) -> list[tuple[int, int]]:
        found = batches(drafts(*tokens), chunks=3, tokens=10)
        return [(start, len(batch)) for start, batch in found]

    assert sizes() == []
    assert sizes(1, 1, 1, 1) == [(0, 3), (3, 1)]
    assert sizes(6, 5, 5, 20, 1) == [(0, 1), (1, 2), (3, 1), (4, 1)]
