"""A knowledge base with vectors in clusters, everything that tunes it, and nothing that waits."""

import random
import shutil
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import select, update

from retrieval.adapters.catalogue import SqlCatalogue
from retrieval.adapters.database import new_engine
from retrieval.adapters.migrate import migrate
from retrieval.adapters.query_samples import SqlQuerySamples
from retrieval.adapters.tuning_tables import tunings
from retrieval.adapters.tunings import SqlTunings
from retrieval.core.directory import Directory
from retrieval.core.index import BuiltIndex, CollectionSpec
from retrieval.core.model import (
    Chunking,
    ChunkRecord,
    Document,
    DocumentState,
    IndexType,
    KnowledgeBase,
    KnowledgeBaseSpec,
    SearchMode,
    Vectors,
)
from retrieval.core.names import document_id
from retrieval.core.tuning.model import TuningLimits
from retrieval.core.tuning.rebuild import Rebuild
from retrieval.core.tuning.tuner import Tuner
from retrieval.core.tuning.worker import TuningWorker
from servicekit.testing import FakeClock
from tests.support.approximate_store import ApproximateStore

DIMENSION = 16
HNSW = BuiltIndex(type=IndexType.HNSW, build_params={"M": 16, "efConstruction": 200})
LIMITS = TuningLimits(
    queries=200,
    check_queries=100,
    latency_queries=2,
    rounds=2,
    min_chunks=100,
    settle=timedelta(0),
    index_wait=timedelta(seconds=5),
)


def clustered(rows: int, *, dimension: int = DIMENSION, seed: int = 1, clusters: int = 20) -> Vectors:
    """Vectors of length 1 around random centres."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((clusters, dimension))
    vectors = centres[rng.integers(clusters, size=rows)] + 0.4 * rng.standard_normal((rows, dimension))
    normed: Vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return normed


def chunk(number: int, document: str) -> ChunkRecord:
    """Chunk `number` of a document."""
    return ChunkRecord(
        id=f"{document}-{number:05}",
        document=document,
        title=f"{document}.md",
        version="v1",
        ordinal=number,
        text=f"text {number}",
        location="",
    )


class World:
    """One knowledge base `kb` on a catalogue of its own, and a store that approximates."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "catalogue.db"
        self.engine = new_engine(f"sqlite:///{self._file}")
        self.catalogue = SqlCatalogue(self.engine)
        self.tunings = SqlTunings(self.engine)
        self.samples = SqlQuerySamples(self.engine, rng=random.Random(1))
        self.clock = FakeClock()
        self.store = ApproximateStore(self.clock)
        self.knowledge_base = KnowledgeBase(
            tenant="default",
            id="kb",
            spec=KnowledgeBaseSpec(
                embedding_model="models/m", chunking=Chunking(), search_mode=SearchMode.DENSE
            ),
            dimension=DIMENSION,
            model_fingerprint="f1",
            revision=1,
            alias="alias",
            collection="c1",
            create_time=self.clock.now(),
        )

    async def fill(
        self,
        *,
        documents: int = 4,
        chunks: int = 75,
        index: BuiltIndex = HNSW,
        database: Path | None = None,
    ) -> None:
        """Migrates, or copies a migrated database; creates; puts READY documents with their chunks."""
        if database is None:
            await migrate(self.engine)
        else:
            shutil.copyfile(database, self._file)
        await self.catalogue.insert_knowledge_base(self.knowledge_base)
        await self.store.ensure_collection(
            CollectionSpec(place=self.knowledge_base.place, dimension=DIMENSION, index=index)
        )
        for number in range(documents):
            await self.add(f"{number}.md", chunks=chunks, seed=number + 1)

    def upload(self, path: str) -> Document:
        """As `put_document` takes it."""
        now = self.clock.now()
        return Document(
            tenant="default",
            knowledge_base="kb",
            id=document_id(path),
            path=path,
            media_type="text/markdown",
            size_bytes=1,
            sha256="0" * 64,
            blob=f"blob-{path}",
            state=DocumentState.PENDING,
            create_time=now,
            update_time=now,
        )

    async def add(self, path: str, *, chunks: int, seed: int, pausable: bool = True) -> Document:
        """A document as a worker would have left it; one of a former version knows no pause."""
        document, now = self.upload(path), self.clock.now()
        await self.catalogue.put_document(document)
        until = None if pausable else await self._without_pause()
        claim = await self.catalogue.claim(lease=timedelta(seconds=60), now=now)
        assert claim is not None
        if until is not None:
            await self._pause(until)
        snapshot = await self.catalogue.snapshot("default", "kb")
        assert snapshot is not None
        place = snapshot.knowledge_base.place
        await self.store.upsert(
            place, [chunk(n, document.id) for n in range(chunks)], clustered(chunks, seed=seed)
        )
        assert await self.catalogue.finish(
            claim, collection=place.collection, chunk_count=chunks, warnings=(), now=now
        )
        self.clock.advance(timedelta(seconds=1))
        return document

    async def _without_pause(self) -> int:
        async with self.engine.begin() as connection:
            until = await connection.scalar(select(tunings.c.paused_until_ms))
            await connection.execute(update(tunings).values(paused_until_ms=0))
        return int(until or 0)

    async def _pause(self, until: int) -> None:
        async with self.engine.begin() as connection:
            await connection.execute(update(tunings).values(paused_until_ms=until))

    def worker(self, *, store: Any = None, tunings: Any = None, **limits: Any) -> TuningWorker:
        """A new one, as after a restart."""
        bounds = replace(LIMITS, **limits)
        store, jobs = store or self.store, tunings or self.tunings
        directory = Directory(catalogue=self.catalogue, clock=self.clock, time_to_live=timedelta(seconds=2))
        return TuningWorker(
            catalogue=self.catalogue,
            tunings=jobs,
            store=store,
            tuner=Tuner(
                store=store,
                samples=self.samples,
                clock=self.clock,
                limits=bounds,
                rng=np.random.default_rng(1),
            ),
            rebuild=Rebuild(store=store, tunings=jobs, directory=directory, clock=self.clock, limits=bounds),
            directory=directory,
            clock=self.clock,
            limits=bounds,
        )

    async def close(self) -> None:
        """Ends the database's connections."""
        await self.engine.dispose()
