"""A real Milvus Standalone 2.3.5 to measure: rows that are known, its own work, its memory."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from pymilvus import MilvusClient
from pymilvus.exceptions import MilvusException

from retrieval.adapters.milvus import MilvusStore
from retrieval.adapters.milvus_rows import VECTOR, to_rows
from retrieval.adapters.milvus_schema import dense_search_params
from retrieval.core.filters import Filter
from retrieval.core.index import BuiltIndex, CollectionSpec
from retrieval.core.model import ChunkRecord, Hit, Place, Segments, StoredChunk, Vectors
from retrieval.core.tuning.steady import until_steady
from retrieval.core.tuning.truth import Recall, Truth, exact, recall
from servicekit.clock import SystemClock
from tests.support.milvus_binary import milvus_folder
from tests.support.milvus_server import MilvusStandalone

TEXT = "x" * 200
FIELDS_BYTES = len(TEXT) + 100
_ROWS_A_WRITE = 4_000
_QUERIES_A_CALL = 500
_QUIET_S = 5.0
_TIMEOUT_S = 120.0

Params = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Work:
    """Of one query among many in a call, in milliseconds."""

    cpu_ms: float
    wall_ms: float


class KnownStore(MilvusStore):
    """Does not read back what this process has just written: walking is not what is measured."""

    def __init__(self, uri: str, vectors: Vectors) -> None:
        super().__init__(uri=uri, timeout_s=_TIMEOUT_S, ddl_timeout_s=_TIMEOUT_S)
        self._vectors = vectors

    async def iterate(
        self, place: Place, *, filter: Filter | None = None, with_vectors: bool = False, batch: int = 500
    ) -> AsyncIterator[list[StoredChunk]]:
        """All rows in their order."""
        for start in range(0, len(self._vectors), batch):
            block = self._vectors[start : start + batch]
            yield [StoredChunk(record=record_of(start + n), vector=vector) for n, vector in enumerate(block)]


class Rig:
    """One server, one set of rows."""

    def __init__(self, folder: Path, vectors: Vectors) -> None:
        self._server = MilvusStandalone(milvus_folder(), folder)
        self._vectors = vectors

    async def start(self) -> None:
        """Also after `stop`: collections that were not released are loaded again."""
        self._server.start()
        (self._process,) = (p for p in psutil.Process().children() if "milvus" in p.name())
        self.store = KnownStore(self._server.uri, self._vectors)
        await self.store.connect()
        self._client = MilvusClient(self._server.uri, timeout=_TIMEOUT_S, dedicated=True)

    async def stop(self) -> None:
        """At once; nothing is lost."""
        await self.store.close()
        self._client.close()
        self.kill()

    def kill(self) -> None:
        """The server alone."""
        self._server.kill()

    async def fill(self, place: Place, index: BuiltIndex, *, rows: int | None = None) -> None:
        """Inserts, in large pieces: an upsert has every segment built twice, since it deletes too."""
        spec = CollectionSpec(place=place, dimension=self._vectors.shape[1], index=index)
        await self.store.ensure_collection(spec)
        vectors = self._vectors[:rows]
        for start in range(0, len(vectors), _ROWS_A_WRITE):
            block = vectors[start : start + _ROWS_A_WRITE]
            records = [record_of(start + n) for n in range(len(block))]
            data = to_rows(place, records, block, sparse=False, loose=False)
            await asyncio.to_thread(self._client.insert, place.collection, data)
        await self.store.flush(place)

    async def steady(self, place: Place, *, within: timedelta) -> Segments:
        """As it is searched from then on."""
        clock = SystemClock()
        found = await until_steady(self.store, place, clock=clock, within=within)
        if found is not None and found.count > 1:
            # It would come by itself, minutes later.
            job = self._client.compact(place.collection, timeout=_TIMEOUT_S)
            ends = time.monotonic() + within.total_seconds()
            while self._client.get_compaction_state(job) != "Completed" and time.monotonic() < ends:  # noqa: ASYNC110
                await asyncio.sleep(1)
            found = await until_steady(self.store, place, clock=clock, within=within)
        if found is None or not found.settled or found.rows < len(self._vectors):
            raise TimeoutError(f"{place.collection} was not built in time: {found}")
        return found

    async def work(self, place: Place, queries: Vectors, params: Params) -> Work:
        """Milvus' own, without what each call costs: many queries in one, and only ids asked for."""
        before, started = self._cpu_s(), time.monotonic()
        await asyncio.to_thread(self._ask, place, queries, params)
        taken, cpu = time.monotonic() - started, self._cpu_s() - before
        return Work(1000 * cpu / len(queries), 1000 * taken / len(queries))

    async def recall(self, place: Place, queries: Vectors, truth: Truth, params: Params) -> Recall:
        """Over all queries."""
        answers: list[list[Hit]] = []
        for start in range(0, len(queries), _QUERIES_A_CALL):
            block = queries[start : start + _QUERIES_A_CALL]
            answers += await asyncio.to_thread(self._ask, place, block, params)
        return recall(truth, answers)

    async def truth(self, queries: Vectors) -> Truth:
        """The exact result."""
        return await exact(queries, self.store.iterate(Place(collection="")))

    async def memory_of(self, place: Place) -> int:
        """What the process grows by when it loads the collection that it had released."""
        async with asyncio.timeout(_TIMEOUT_S):
            while True:
                before = self.rss()
                # After a restart it tries for up to a minute to load on the node that is gone.
                with contextlib.suppress(MilvusException):
                    await asyncio.to_thread(self._client.load_collection, place.collection)
                    break
                await asyncio.sleep(_QUIET_S)
        await asyncio.sleep(_QUIET_S)
        await until_steady(self.store, place, clock=SystemClock(), within=timedelta(seconds=_TIMEOUT_S))
        return self.rss() - before

    def release(self, place: Place) -> None:
        """It is not loaded at the next start."""
        self._client.release_collection(place.collection, timeout=_TIMEOUT_S)

    def rss(self) -> int:
        """Of the server, now."""
        return int(self._process.memory_info().rss)

    def peak(self) -> int:
        """The most that it ever had."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
        return 1024 * int(line.split()[1])

    def _ask(self, place: Place, queries: Vectors, params: Params) -> list[list[Hit]]:
        answers: Any = self._client.search(
            place.collection,
            data=list(queries),
            anns_field=VECTOR,
            limit=10,
            search_params=dense_search_params(10, params),
            output_fields=[],
            consistency_level="Bounded",
            timeout=_TIMEOUT_S,
        )
        return [[replace(_HIT, id=str(row["id"])) for row in rows] for rows in answers]

    def _cpu_s(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)


_HIT = Hit(id="", document="d", title="d.md", ordinal=0, text="", location="", score=0.0)


def record_of(number: int) -> ChunkRecord:
    """The row of a vector."""
    return ChunkRecord(
        id=f"{number:08}",
        document="d",
        title="d.md",
        version="v",
        ordinal=number,
        text=TEXT,
        location="",
    )


def vectors_of(rows: int, dimension: int, rng: np.random.Generator) -> Vectors:
    """Clusters of very different sizes, as topics have them."""
    centres = rng.standard_normal((2_000, dimension)).astype(np.float32)
    shares = rng.pareto(1.2, 2_000) + 0.05
    of = rng.choice(2_000, size=rows, p=shares / shares.sum())
    vectors = centres[of] + 0.7 * rng.standard_normal((rows, dimension), dtype=np.float32)
    normed: Vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return normed
