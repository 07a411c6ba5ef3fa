"""Puts the tuning of indexes together."""

import asyncio
import random
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
from sqlalchemy.ext.asyncio import AsyncEngine

from retrieval.adapters.query_samples import SqlQuerySamples
from retrieval.adapters.tunings import SqlTunings
from retrieval.core.directory import Directory
from retrieval.core.ports import Catalogue, VectorStore
from retrieval.core.tuning.indexes import Indexes
from retrieval.core.tuning.model import TuningLimits
from retrieval.core.tuning.rebuild import Rebuild
from retrieval.core.tuning.sampling import QuerySampler
from retrieval.core.tuning.tuner import Tuner
from retrieval.core.tuning.worker import TuningWorker
from retrieval.settings import Settings
from servicekit.clock import Clock

_LAST_WRITE_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningParts:
    """What the rest of the process needs of it."""

    worker: TuningWorker
    sampler: QuerySampler
    indexes: Indexes

    async def sample(self) -> None:
        """Writes queries until it is cancelled; then once more."""
        try:
            await self.sampler.run()
        finally:
            async with asyncio.timeout(_LAST_WRITE_S):
                await self.sampler.flush()


def assemble_tuning(
    settings: Settings,
    engine: AsyncEngine,
    *,
    catalogue: Catalogue,
    store: VectorStore,
    directory: Directory,
    clock: Clock,
) -> TuningParts:
    """Its own adapters, over what the process has."""
    limits = TuningLimits(
        queries=settings.tuning_queries,
        min_chunks=settings.tuning_min_chunks,
        check_every=timedelta(hours=settings.tuning_check_hours),
        # Every replica has read the knowledge base anew by then.
        settle=timedelta(seconds=2 * settings.snapshot_ttl_s + 1),
    )
    tunings = SqlTunings(engine)
    samples = SqlQuerySamples(engine, rng=random.Random())
    rng = np.random.default_rng()
    return TuningParts(
        worker=TuningWorker(
            catalogue=catalogue,
            tunings=tunings,
            store=store,
            tuner=Tuner(store=store, samples=samples, clock=clock, limits=limits, rng=rng),
            rebuild=Rebuild(store=store, tunings=tunings, directory=directory, clock=clock, limits=limits),
            directory=directory,
            clock=clock,
            limits=limits,
        ),
        sampler=QuerySampler(
            samples=samples, clock=clock, rng=random.Random(), enabled=settings.sample_queries
        ),
        indexes=Indexes(
            catalogue=catalogue,
            tunings=tunings,
            store=store,
            clock=clock,
            memory_bytes=settings.milvus_memory_bytes(),
        ),
    )
