"""Is the recall that the tuner promises there, and what does tuning save? And is the planner's memory right?

    python bench/tuner.py [--rows 100000] [--dimension 384] [--svg FILE]

On a real Milvus Standalone 2.3.5, with vectors in clusters: for each type of index the tuner
measures as it does in the service; then other queries, which it has never seen, are compared
with the exact result. Latencies are medians of rounds in which all parameters take turns.
Memory is what the server's process grew by when the collection was loaded, beside what the
planner says.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # not this folder

import capacity  # noqa: E402
from bench.curve_svg import Point, draw, write  # noqa: E402
from retrieval.adapters.milvus import MilvusStore  # noqa: E402
from retrieval.core.index import BuiltIndex, CollectionSpec  # noqa: E402
from retrieval.core.model import ChunkRecord, IndexType, Place, Vectors  # noqa: E402
from retrieval.core.tuning.latency import time_searches  # noqa: E402
from retrieval.core.tuning.model import Measurement, Subject, TuningLimits  # noqa: E402
from retrieval.core.tuning.queries import blurred  # noqa: E402
from retrieval.core.tuning.truth import Truth, exact, recall  # noqa: E402
from retrieval.core.tuning.tuner import Tuner  # noqa: E402
from servicekit.clock import SystemClock  # noqa: E402
from tests.support.milvus_binary import milvus_folder  # noqa: E402
from tests.support.milvus_server import MilvusStandalone  # noqa: E402

TARGET = 0.95
TEXT = "x" * 200
_BATCH = 2_000
LIMITS = TuningLimits()


class NoSamples:
    """Nobody has asked anything."""

    def __init__(self, vectors: Vectors) -> None:
        self._vectors = vectors

    async def add(self, samples: object, *, now: object) -> None:
        """Not in a benchmark."""

    async def read(self, tenant: str, knowledge_base: str, model_fingerprint: str, *, limit: int) -> Vectors:
        """The queries of the run."""
        return self._vectors[:limit]


@dataclass(frozen=True, slots=True)
class Outcome:
    """One index."""

    measured: Measurement
    held_out: float
    default_recall: float
    default_ms: float
    tuned_ms: float
    memory: int
    predicted: int


def vectors_of(rows: int, dimension: int, rng: np.random.Generator) -> Vectors:
    """Clusters of very different sizes, as topics have them."""
    centres = rng.standard_normal((2_000, dimension)).astype(np.float32)
    shares = rng.pareto(1.2, 2_000) + 0.05
    of = rng.choice(2_000, size=rows, p=shares / shares.sum())
    vectors = centres[of] + 0.7 * rng.standard_normal((rows, dimension)).astype(np.float32)
    normed: Vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return normed


async def fill(store: MilvusStore, place: Place, index: BuiltIndex, vectors: Vectors) -> None:
    """Creates, writes, and waits until everything is indexed."""
    await store.ensure_collection(CollectionSpec(place=place, dimension=vectors.shape[1], index=index))
    for start in range(0, len(vectors), _BATCH):
        block = vectors[start : start + _BATCH]
        records = [
            ChunkRecord(
                id=f"{start + n:08}",
                document="d",
                title="d.md",
                version="v",
                ordinal=n,
                text=TEXT,
                location="",
            )
            for n in range(len(block))
        ]
        await store.upsert(place, records, block)
    await store.flush(place)
    segments = None
    ends = time.monotonic() + 300
    while time.monotonic() < ends:
        segments = await store.segments(place)
        if segments is not None and segments.rows >= len(vectors) and segments.indexed >= segments.rows:
            return
        await asyncio.sleep(1)
    raise SystemExit(f"the index was not built in 300 s: {segments}")


async def one(
    store: MilvusStore,
    index: BuiltIndex,
    *,
    vectors: Vectors,
    asked: Vectors,
    fresh: Vectors,
    server: psutil.Process,
) -> Outcome:
    """Fills, tunes and looks again."""
    clock = SystemClock()
    place = Place(
        collection=f"bench_{index.type.name.lower()}", alias=f"bench_{index.type.name.lower()}_alias"
    )
    before = rss(server)
    await fill(store, place, index, vectors)
    await asyncio.sleep(5)  # the growing segments are given back
    memory = rss(server) - before
    subject = Subject(tenant="bench", knowledge_base="kb", place=place, model_fingerprint="f", target=TARGET)
    tuner = Tuner(
        store=store, samples=NoSamples(asked), clock=clock, limits=LIMITS, rng=np.random.default_rng(2)
    )
    measured = await tuner.measure(subject, reason="benchmark")
    truth = await exact(fresh, store.iterate(place, with_vectors=True))
    held_out = await recall_of(store, place, fresh, truth, measured.search_params)
    default_recall = await recall_of(store, place, fresh, truth, {})

    async def search(query: Vectors, params: object) -> None:
        await store.search_dense(place, query[None, :], limit=10, search_params=params)  # type: ignore[arg-type]

    default, tuned = await time_searches(
        search, [{}, measured.search_params], fresh, clock=clock, limits=LIMITS
    )
    segments = await store.segments(place)
    shape = capacity.Shape(dimension=vectors.shape[1], bytes_per_row=len(TEXT) + 100, text_bytes=0)
    predicted = capacity.memory_of(
        len(vectors), shape, capacity.IndexType(index.type), index.build_params, growing=False
    )
    print(f"  {index.type.name}: {segments.count if segments else 0} segments; {measured.message}")
    await store.drop(place)
    await asyncio.sleep(5)
    return Outcome(
        measured=measured,
        held_out=held_out,
        default_recall=default_recall,
        default_ms=1000 * default.p50_s,
        tuned_ms=1000 * tuned.p50_s,
        memory=memory,
        predicted=predicted.total,
    )


async def recall_of(
    store: MilvusStore, place: Place, queries: Vectors, truth: Truth, params: object
) -> float:
    """A share, over all queries."""
    answers = []
    for start in range(0, len(queries), 100):
        answers += await store.search_dense(
            place,
            queries[start : start + 100],
            limit=10,
            search_params=params,  # type: ignore[arg-type]
        )
    return recall(truth, answers).mean


def rss(process: psutil.Process) -> int:
    """With all its children."""
    return sum(p.memory_info().rss for p in [process, *process.children(recursive=True)])


def show(outcomes: dict[str, Outcome]) -> None:
    """Two tables."""
    print(
        "\n| index | chosen | promised recall | on other queries | difference, points "
        "| recall by default | default / tuned p50 |"
    )
    print("|---|---|---|---|---|---|---|")
    for name, o in outcomes.items():
        params = ", ".join(f"{k} {v}" for k, v in o.measured.search_params.items())
        print(
            f"| {name} | {params} | {100 * o.measured.recall:.1f} % | {100 * o.held_out:.1f} % | "
            f"{100 * (o.held_out - o.measured.recall):+.2f} | {100 * o.default_recall:.1f} % | "
            f"{o.default_ms / o.tuned_ms:.2f} |"
        )
    print("\n| index | memory measured | predicted | predicted / measured |")
    print("|---|---|---|---|")
    for name, o in outcomes.items():
        print(
            f"| {name} | {capacity.show_bytes(o.memory)} | {capacity.show_bytes(o.predicted)} | "
            f"{o.predicted / max(1, o.memory):.2f} |"
        )


async def run(rows: int, dimension: int, svg: Path | None) -> None:
    """Both indexes, one after the other."""
    rng = np.random.default_rng(1)
    vectors = vectors_of(rows, dimension, rng)
    asked, fresh = blurred(vectors, LIMITS.queries, rng=rng), blurred(vectors, 1_000, rng=rng)
    outcomes: dict[str, Outcome] = {}
    with tempfile.TemporaryDirectory() as folder:
        server = MilvusStandalone(milvus_folder(), Path(folder))
        server.start()
        try:
            (process,) = (p for p in psutil.Process().children() if "milvus" in p.name())
            store = MilvusStore(uri=server.uri, timeout_s=60, ddl_timeout_s=300)
            await store.connect()
            for index in (
                BuiltIndex(
                    type=IndexType.IVF_FLAT,
                    build_params={
                        "nlist": capacity.build_params(capacity.IndexType.IVF_FLAT, segment_rows=rows)[
                            "nlist"
                        ]
                    },
                ),
                BuiltIndex(type=IndexType.HNSW, build_params={"M": 16, "efConstruction": 200}),
            ):
                outcomes[index.type.name] = await one(
                    store, index, vectors=vectors, asked=asked, fresh=fresh, server=process
                )
            await store.close()
        finally:
            server.kill()
    show(outcomes)
    if svg is not None:
        curves = {
            name: [
                Point(
                    ", ".join(f"{k} {v}" for k, v in point.search_params.items()),
                    1000 * point.p50_s,
                    100 * point.recall,
                    dict(point.search_params) == dict(o.measured.search_params),
                )
                for point in o.measured.curve
            ]
            for name, o in outcomes.items()
        }
        write(svg, draw(f"{rows:,} vectors of {dimension}, Milvus 2.3.5", curves, target=100 * TARGET))


def main() -> None:
    """Reads the arguments."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--svg", type=Path)
    arguments = parser.parse_args()
    started = time.monotonic()
    asyncio.run(run(arguments.rows, arguments.dimension, arguments.svg))
    print(f"\n{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
