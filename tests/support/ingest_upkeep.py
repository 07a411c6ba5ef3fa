"""What keeps a store right, around the world of test_ingest."""

from datetime import timedelta
from typing import Any

from retrieval.core.model import StoredChunk
from retrieval.core.reconciling import Reconciler
from retrieval.core.upkeep import DocumentUpkeep


def reconciler(world: Any, *, store: Any = None) -> Reconciler:
    """Compares the world's catalogue with its store, or with what stands before it."""
    return Reconciler(
        catalogue=world.catalogue,
        store=store or world.store,
        ensure_collection=world.knowledge_bases.ensure_collection,
        directory=world.directory,
        clock=world.clock,
        interval=timedelta(hours=6),
    )


def upkeep(world: Any) -> DocumentUpkeep:
    """Retries, moves and compares."""
    return DocumentUpkeep(
        catalogue=world.catalogue,
        reconciler=reconciler(world),
        directory=world.directory,
        clock=world.clock,
        queued=lambda: None,
    )


async def all_chunks(world: Any) -> list[StoredChunk]:
    """Everything in the store."""
    place = (await world.knowledge_bases.get("kb")).knowledge_base.place
    return [chunk async for batch in world.store.iterate(place, with_vectors=True) for chunk in batch]
