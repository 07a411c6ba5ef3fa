"""Is the recall that the tuner promises there, and what does tuning save? And is the planner's memory right?

    python bench/tuner.py [--rows 100000] [--dimension 384] [--minutes 8] [--svg FILE]

On a real Milvus Standalone 2.3.5, with vectors in clusters. The tuner measures as it does in
the service, after Milvus has put its segments together; then 10,000 other queries, which it has
never seen, are compared with the exact result. What is saved is counted against Milvus' default
nlist of 128, searched with the nprobe that finds as much. That is Milvus' own work: 500 queries
in one call, the processor time of its process; the ways take turns. Memory is what the process
grows by when it loads a collection after a restart, beside what the planner says.
"""

import argparse
import asyncio
import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # not this folder

import capacity  # noqa: E402
from bench.curve_svg import Point, draw, write  # noqa: E402
from bench.tuner_rig import FIELDS_BYTES, Rig, Work, vectors_of  # noqa: E402
from retrieval.core.index import BuiltIndex  # noqa: E402
from retrieval.core.model import IndexType, Place, Vectors  # noqa: E402
from retrieval.core.tuning.model import Measurement, Subject, TuningLimits  # noqa: E402
from retrieval.core.tuning.queries import blurred  # noqa: E402
from retrieval.core.tuning.truth import Recall  # noqa: E402
from retrieval.core.tuning.tuner import Tuner  # noqa: E402
from servicekit.clock import SystemClock  # noqa: E402

TARGET = 0.95
LIMITS = TuningLimits(latency_budget=timedelta(seconds=15))
FRESH = 10_000
CALL = 500
ROUNDS = 6
DEFAULT_NLIST = 128
DEFAULT_NPROBE = {"nprobe": 8}
WARM = Place(collection="warm", alias="warm_alias")
UNTUNED_EF = {"ef": 128}


class Asked:
    """The queries of the run."""

    def __init__(self, vectors: Vectors) -> None:
        self._vectors = vectors

    async def add(self, samples: object, *, now: object) -> None:
        """Not in a benchmark."""

    async def read(self, tenant: str, knowledge_base: str, model_fingerprint: str, *, limit: int) -> Vectors:
        """The queries of the run."""
        return self._vectors[:limit]


@dataclass(slots=True, kw_only=True)
class Way:
    """One index and how it is searched."""

    name: str
    place: Place
    params: Mapping[str, int]
    recall: Recall
    works: list[Work] = field(default_factory=list)

    @property
    def cpu_ms(self) -> float:
        """Milvus' processor time for a query."""
        return statistics.median(work.cpu_ms for work in self.works)

    @property
    def wall_ms(self) -> float:
        """Of a query among many."""
        return statistics.median(work.wall_ms for work in self.works)


@dataclass(slots=True)
class Results:
    """What there is so far."""

    tuned: dict[str, Measurement] = field(default_factory=dict)
    ways: list[Way] = field(default_factory=list)
    memory: list[tuple[str, int, int]] = field(default_factory=list)
    around: list[str] = field(default_factory=list)


class Bench:
    """One run."""

    def __init__(self, rig: Rig, vectors: Vectors, *, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self._rig = rig
        self._rows, self._dimension = vectors.shape
        self._asked = blurred(vectors, LIMITS.queries, rng=rng)
        self._fresh = blurred(vectors, FRESH, rng=rng)
        self.results = Results()

    async def run(self) -> None:
        """Everything; what is done is in the results even if the rest is not."""
        self._fresh_truth = await self._rig.truth(self._fresh)
        self._asked_truth = await self._rig.truth(self._asked)
        planned = capacity.build_params(capacity.IndexType.IVF_FLAT, segment_rows=self._rows)
        indexes = {
            "hnsw": BuiltIndex(type=IndexType.HNSW, build_params={"M": 16, "efConstruction": 200}),
            "ivf": BuiltIndex(type=IndexType.IVF_FLAT, build_params=planned),
            "plain": BuiltIndex(type=IndexType.IVF_FLAT, build_params={"nlist": DEFAULT_NLIST}),
        }
        await self._rig.fill(WARM, BuiltIndex(type=IndexType.FLAT), rows=1_000)
        places = {name: Place(collection=name, alias=f"{name}_alias") for name in indexes}
        for name, index in indexes.items():
            await self._rig.fill(places[name], index)
            said(f"{name}: written")
        for place in places.values():
            segments = await self._rig.steady(place, within=timedelta(minutes=10))
            said(f"{place.collection}: {segments.count} segments, steady")
        ivf = await self._tuned("IVF_FLAT", places["ivf"])
        plain = await self._as_good(places["plain"], ivf.measured.recall)
        hnsw = await self._tuned("HNSW", places["hnsw"])
        built = f"nlist {planned['nlist']}"
        await self._add(f"IVF_FLAT, nlist {DEFAULT_NLIST}, as good", places["plain"], plain)
        await self._add(f"IVF_FLAT, {built}, tuned", places["ivf"], ivf.params)
        await self._add("HNSW, M 16, tuned", places["hnsw"], hnsw.params)
        await self._add(f"IVF_FLAT, nlist {DEFAULT_NLIST}, default nprobe", places["plain"], DEFAULT_NPROBE)
        await self._add("HNSW, M 16, before tuning", places["hnsw"], UNTUNED_EF)
        await self._take_turns()
        await self._memory(indexes, places)

    async def _tuned(self, name: str, place: Place) -> "Tuned":
        subject = Subject(
            tenant="bench", knowledge_base="kb", place=place, model_fingerprint="f", target=TARGET
        )
        tuner = Tuner(
            store=self._rig.store,
            samples=Asked(self._asked),
            clock=SystemClock(),
            limits=LIMITS,
            rng=np.random.default_rng(2),
        )
        measured = await tuner.measure(subject, reason="benchmark")
        said(f"{name}: {measured.message}")
        self.results.tuned[name] = measured
        return Tuned(measured, measured.search_params)

    async def _as_good(self, place: Place, wanted: float) -> Mapping[str, int]:
        """The smallest nprobe that finds as much as was promised, on the queries that the tuner had."""
        low, high = 0, DEFAULT_NLIST
        while high - low > 1:
            middle = (low + high) // 2
            found = await self._rig.recall(place, self._asked, self._asked_truth, {"nprobe": middle})
            low, high = (low, middle) if found.mean >= wanted else (middle, high)
        return {"nprobe": high}

    async def _add(self, name: str, place: Place, params: Mapping[str, int]) -> None:
        found = await self._rig.recall(place, self._fresh, self._fresh_truth, params)
        self.results.ways.append(Way(name=name, place=place, params=params, recall=found))

    async def _take_turns(self) -> None:
        for round_ in range(ROUNDS):
            queries = self._fresh[round_ * CALL : (round_ + 1) * CALL]
            for way in self.results.ways:
                way.works.append(await self._rig.work(way.place, queries, way.params))

    async def _memory(self, indexes: Mapping[str, BuiltIndex], places: Mapping[str, Place]) -> None:
        rig, shown = self._rig, capacity.show_bytes
        self.results.around.append(
            f"the process: {shown(rig.peak())} at most while it wrote and built, {shown(rig.rss())} after"
        )
        for place in (WARM, *places.values()):
            rig.release(place)
        await rig.stop()
        await rig.start()
        await rig.memory_of(WARM)  # the first load brings what later ones find there
        self.results.around.append(f"{shown(rig.rss())} after a restart with next to nothing loaded")
        shape = capacity.Shape(dimension=self._dimension, bytes_per_row=FIELDS_BYTES, text_bytes=0)
        for name, index in indexes.items():
            predicted = capacity.memory_of(
                self._rows, shape, capacity.IndexType(index.type), index.build_params, growing=False
            )
            built = ", ".join(f"{k} {v}" for k, v in index.build_params.items())
            grown = await rig.memory_of(places[name])
            self.results.memory.append((f"{index.type.name}, {built}", grown, predicted.total))


@dataclass(frozen=True, slots=True)
class Tuned:
    """What came out of it."""

    measured: Measurement
    params: Mapping[str, int]


STARTED = time.monotonic()


def said(text: str) -> None:
    """On the way."""
    print(f"  {time.monotonic() - STARTED:4.0f} s  {text}", file=sys.stderr, flush=True)


def text_of(params: Mapping[str, int]) -> str:
    """As in a table."""
    return ", ".join(f"{name} {value}" for name, value in params.items())


def show(results: Results) -> None:
    """Three tables."""
    print("\n| index | chosen | promised recall | on other queries | difference, points |")
    print("|---|---|---|---|---|")
    for name, measured in results.tuned.items():
        ways = [way for way in results.ways if way.params == measured.search_params and name in way.name]
        for way in ways[:1]:
            print(
                f"| {name}, {text_of(measured.index.build_params)} | {text_of(measured.search_params)} | "
                f"{100 * measured.recall:.1f} % | {100 * way.recall.mean:.1f} % | "
                f"{100 * (way.recall.mean - measured.recall):+.2f} |"
            )
    timed = [way for way in results.ways if way.works]
    if timed:
        first = timed[0]
        print("\n| way | searched with | recall | processor time | relative | time of the call, relative |")
        print("|---|---|---|---|---|---|")
        for way in timed:
            print(
                f"| {way.name} | {text_of(way.params)} | {100 * way.recall.mean:.1f} % | "
                f"{way.cpu_ms:.2f} ms | {way.cpu_ms / first.cpu_ms:.2f} | {way.wall_ms / first.wall_ms:.2f} |"
            )
    if results.memory:
        print("\n| index | memory measured | predicted | predicted / measured |")
        print("|---|---|---|---|")
        for name, grown, predicted in results.memory:
            print(
                f"| {name} | {capacity.show_bytes(grown)} | {capacity.show_bytes(predicted)} | "
                f"{predicted / max(1, grown):.2f} |"
            )
    print("".join(f"\n{line}" for line in results.around))


def picture(results: Results, title: str) -> str:
    """Recall over latency."""
    curves = {
        name: [
            Point(
                text_of(point.search_params),
                1000 * point.p50_s,
                100 * point.recall,
                dict(point.search_params) == dict(measured.search_params),
            )
            for point in measured.curve
        ]
        for name, measured in results.tuned.items()
    }
    return draw(title, curves, target=100 * TARGET)


async def run(rows: int, dimension: int, minutes: float, svg: Path | None) -> bool:
    """Whether all was measured in the time."""
    vectors = vectors_of(rows, dimension, np.random.default_rng(1))
    with tempfile.TemporaryDirectory() as folder:
        rig = Rig(Path(folder), vectors)
        bench = Bench(rig, vectors, seed=3)
        whole = False
        try:
            await rig.start()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(60 * minutes):
                    await bench.run()
                    whole = True
        finally:
            rig.kill()
    show(bench.results)
    if svg is not None and bench.results.tuned:
        write(svg, picture(bench.results, f"{rows:,} vectors of {dimension}, Milvus 2.3.5"))
    return whole


def main() -> None:
    """Reads the arguments."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--svg", type=Path)
    arguments = parser.parse_args()
    whole = asyncio.run(run(arguments.rows, arguments.dimension, arguments.minutes, arguments.svg))
    print(f"\n{time.monotonic() - STARTED:.0f} s")
    if not whole:
        sys.exit(f"not all was measured in {arguments.minutes:g} minutes")


if __name__ == "__main__":
    main()
