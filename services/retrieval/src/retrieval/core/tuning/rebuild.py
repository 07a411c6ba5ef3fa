"""Building an index anew beside the one in use. The steps and what a crash leaves: docs/tuning.md."""

import asyncio
from datetime import datetime

import numpy as np
import structlog

from retrieval.core.coverage import check_all_there
from retrieval.core.directory import Directory
from retrieval.core.index import BuiltIndex, CollectionSpec
from retrieval.core.model import KnowledgeBase, MetadataField, Place, Vectors
from retrieval.core.places import tenant_database
from retrieval.core.ports import VectorStore
from retrieval.core.tuning.model import Job, Measurement, TuningLimits
from retrieval.core.tuning.policy import fits
from retrieval.core.tuning.ports import Tunings
from retrieval.core.tuning.steady import until_steady
from servicekit.clock import Clock
from servicekit.errors import FailedPrecondition, Unavailable
from servicekit.ids import new_id

log = structlog.get_logger()

_COPIED_ROWS = 500
_POLL_S = 1.0
_IDS = 500  # documents that the catalogue is asked about at once
_COMPARISONS = 10


class JobLost(Exception):
    """Another worker has the job, or the knowledge base has changed under it."""


class Rebuild:
    """Makes, fills, swaps and removes shadows; each step can be repeated."""

    def __init__(
        self,
        *,
        store: VectorStore,
        tunings: Tunings,
        directory: Directory,
        clock: Clock,
        limits: TuningLimits,
    ) -> None:
        self._store = store
        self._tunings = tunings
        self._directory = directory
        self._clock = clock
        self._limits = limits

    async def discard(self, job: Job, place: Place, shadow: str) -> None:
        """Drops what a former try has left, and only then forgets its name."""
        await self._store.drop(_at(place, shadow))
        if not await self._tunings.set_shadow(job, "", lease=self._limits.lease, now=self._clock.now()):
            raise JobLost
        log.info("shadow_dropped", collection=shadow)

    def new_shadow(self, knowledge_base: KnowledgeBase) -> Place:
        """Never the place of a former one, which a worker without a lease may still be filling."""
        return _at(knowledge_base.place, f"{knowledge_base.alias}_{new_id()}")

    async def build(
        self,
        job: Job,
        knowledge_base: KnowledgeBase,
        fields: tuple[MetadataField, ...],
        index: BuiltIndex,
        *,
        shadow: Place,
    ) -> datetime:
        """Steps 1 to 3: a shadow with the same rows and another index.

        Returns:
            Since when nothing may have been indexed.

        Raises:
            FailedPrecondition: The store has built another index, or other rows came out.
            Unavailable: The store does not answer, or not with all rows.
        """
        place = knowledge_base.place
        limits = self._limits
        # The name first: a collection that no row names would stay for ever.
        if not await self._tunings.set_shadow(
            job, shadow.collection, lease=limits.lease, now=self._clock.now()
        ):
            raise JobLost
        await self._wait_for_workers(job)
        since = self._clock.now()
        await self._store.ensure_collection(
            CollectionSpec(place=shadow, dimension=knowledge_base.dimension, fields=fields, index=index)
        )
        built = await self._store.index_of(shadow)
        if not fits(index, built):
            raise FailedPrecondition(
                f"the store built {built.type.name} {dict(built.build_params)} when it was asked for "
                f"{index.type.name} {dict(index.build_params)}",
                reason="DEPENDENCY_UNAVAILABLE",
            )
        rows = 0
        async for chunks in self._store.iterate(place, with_vectors=True, batch=_COPIED_ROWS):
            records = [chunk.record for chunk in chunks if chunk.vector is not None]
            vectors = [chunk.vector for chunk in chunks if chunk.vector is not None]
            await self._store.upsert(shadow, records, _stacked(vectors))
            rows += len(records)
        log.info("shadow_filled", collection=shadow.collection, rows=rows)
        await self._compare(job, place, shadow)
        await self._store.flush(shadow)
        await self._store.settle(shadow)
        segments = await until_steady(self._store, shadow, clock=self._clock, within=self._limits.index_wait)
        if segments is not None and segments.served < segments.rows:
            raise Unavailable(
                f"{segments.served} of {segments.rows} rows were indexed in "
                f"{self._limits.index_wait.total_seconds():.0f} s",
                reason="DEPENDENCY_UNAVAILABLE",
                metadata={"dependency": "milvus"},
            )
        return since

    async def swap(self, job: Job, measured: Measurement, *, since: datetime) -> None:
        """Step 4: from now on the shadow is what is written, and the job cannot go back."""
        if not await self._tunings.swap(job, measured, since=since, now=self._clock.now()):
            raise JobLost
        log.info("shadow_serves", collection=measured.collection)

    async def settle(
        self, knowledge_base: KnowledgeBase, fields: tuple[MetadataField, ...], job: Job, former: str
    ) -> None:
        """Steps 5 to 7, for the knowledge base as it is after the swap."""
        place = knowledge_base.place
        await self._store.ensure_collection(
            CollectionSpec(place=place, dimension=knowledge_base.dimension, fields=fields)
        )
        self._directory.forget(knowledge_base.tenant, knowledge_base.id)
        await self._remove_gone(job, place)
        # A deletion that began before the swap may still name the former collection.
        await asyncio.sleep(self._limits.settle.total_seconds())
        await self._remove_gone(job, place)
        await self._store.drop(_at(place, former))
        log.info("former_collection_dropped", collection=former)

    async def drop_orphans(self, job: Job) -> None:
        """Of a knowledge base that is gone, and with it what its tenancy was: both places are looked at."""
        for collection in filter(None, (job.shadow, job.former)):
            await self._store.drop(Place(collection=collection))
            await self._store.drop(Place(collection=collection, database=tenant_database(job.tenant)))

    async def _wait_for_workers(self, job: Job) -> None:
        """Those that hold a document may still write to the collection in use."""
        ends = self._clock.monotonic() + self._limits.index_wait.total_seconds()
        while held := await self._tunings.indexing(job, now=self._clock.now()):
            if self._clock.monotonic() >= ends:
                raise Unavailable(
                    f"{held} documents are still being indexed", reason="DEPENDENCY_UNAVAILABLE"
                )
            await asyncio.sleep(_POLL_S)

    async def _compare(self, job: Job, place: Place, shadow: Place) -> None:
        """Deletions go on meanwhile: the counts meet when those have ended."""
        there = here = 0
        for _ in range(_COMPARISONS):
            await self._remove_gone(job, shadow)
            there, here = await self._store.count(place), await self._store.count(shadow)
            if there == here:
                # What a node that died had held is neither copied nor counted.
                self._directory.forget(job.tenant, job.knowledge_base)
                await check_all_there(self._store, await self._directory.get(job.tenant, job.knowledge_base))
                return
            await asyncio.sleep(_POLL_S)
        raise FailedPrecondition(
            f"the copy has {here} rows and the collection in use {there}; nothing was swapped",
            reason="DEPENDENCY_UNAVAILABLE",
        )

    async def _remove_gone(self, job: Job, place: Place) -> None:
        """Chunks of documents that were deleted after they had been copied."""
        documents: set[str] = set()
        async for chunks in self._store.iterate(place):
            documents.update(chunk.record.document for chunk in chunks)
        known = sorted(documents)
        for start in range(0, len(known), _IDS):
            for document in await self._tunings.gone(job, known[start : start + _IDS]):
                await self._store.delete_document(place, document)


def _at(place: Place, collection: str) -> Place:
    """Beside it, without an alias."""
    return Place(collection=collection, database=place.database)


def _stacked(vectors: list[Vectors]) -> Vectors:
    return np.stack(vectors) if vectors else np.empty((0, 0), dtype=np.float32)
