"""Measures an index and chooses how it is searched."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from retrieval.core.index import BuiltIndex
from retrieval.core.model import Hit, IndexType, Vectors
from retrieval.core.ports import VectorStore
from retrieval.core.tuning.curve import Found, explore
from retrieval.core.tuning.latency import time_searches
from retrieval.core.tuning.model import CurvePoint, K, Measurement, Subject, TuningLimits, knob_of
from retrieval.core.tuning.ports import QuerySamples
from retrieval.core.tuning.queries import Queries, blurred, mix, some_vectors
from retrieval.core.tuning.steady import until_steady
from retrieval.core.tuning.truth import Recall, dealt, exact, recall, unit
from servicekit.clock import Clock

Params = Mapping[str, int]

_NUDGE = 1e-6  # another query to Milvus, with the same neighbours
_MOVED = "; Milvus was still making other segments, so it is looked at again soon"


class Tuner:
    """Measures; changes nothing."""

    def __init__(
        self,
        *,
        store: VectorStore,
        samples: QuerySamples,
        clock: Clock,
        limits: TuningLimits,
        rng: np.random.Generator,
    ) -> None:
        self._store = store
        self._samples = samples
        self._clock = clock
        self._limits = limits
        self._rng = rng

    async def measure(self, subject: Subject, *, reason: str) -> Measurement:
        """The curve of the index as it is, and the cheapest parameter that reaches the target.

        What was measured while Milvus put other segments into use is measured again, once.

        Raises:
            NotFound: The collection is not there.
            Unavailable: The store does not answer; retry.
        """
        measured, moved = await self._measure(subject, reason)
        if moved:
            measured, moved = await self._measure(subject, reason)
        return replace(measured, message=measured.message + _MOVED) if moved else measured

    async def _measure(self, subject: Subject, reason: str) -> tuple[Measurement, bool]:
        """What was measured, and whether the segments were others at the end, or not ready."""
        store, place = self._store, subject.place
        index = await store.index_of(place)
        await store.flush(place)  # what is not sealed is searched without its index
        segments = await until_steady(store, place, clock=self._clock, within=self._limits.steady_wait)
        queries = await self._queries(subject, self._limits.queries)
        truth = await exact(queries.vectors, store.iterate(place, with_vectors=True))
        choosing, promising = (replace(truth, accepted=part) for part in dealt(truth.accepted))
        some, others = (queries.vectors[list(part)] for part in dealt(range(len(queries.vectors))))

        async def attempt(params: Params) -> Recall:
            return recall(choosing, await self._answers(subject, some, params))

        async def promise(params: Params) -> Recall:
            return recall(promising, await self._answers(subject, others, params))

        knob = knob_of(index)
        if not truth.rows or knob is None or subject.search_params:
            params = dict(subject.search_params)
            promised = await promise(params)
            tried = {0: (params, promised)}
            chosen, why = 0, _given(index, subject, rows=truth.rows)
        else:
            name = knob.name
            found = await explore(
                knob,
                lambda value: attempt({name: value}),
                lambda value: promise({name: value}),
                target=subject.target,
            )
            tried = {one.value: ({name: one.value}, one.recall) for one in found.tried}
            chosen, why = found.chosen.value, _why(index, subject, found, name)
            promised = found.promise
        values = list(tried)
        latencies = await time_searches(
            lambda query, params: self._search(subject, query[None, :], params),
            [tried[value][0] for value in values],
            queries.vectors,
            clock=self._clock,
            limits=self._limits,
        )
        curve = {
            value: CurvePoint(
                index=index,
                search_params=tried[value][0],
                recall=tried[value][1].mean,
                p50_s=latency.p50_s,
                p99_s=latency.p99_s,
            )
            for value, latency in zip(values, latencies, strict=True)
        }
        point = curve[chosen]
        measured = Measurement(
            collection=place.collection,
            index=index,
            search_params=point.search_params,
            chunk_count=truth.rows,
            segments=segments.count if segments else 0,
            queries=len(queries.vectors),
            real_queries=queries.real,
            recall=promised.mean,
            p50_s=point.p50_s,
            p99_s=point.p99_s,
            curve=tuple(curve.values()),
            message=f"{reason}; {why}{_of_error(promised)}{_of_queries(queries)}",
        )
        if segments is None:
            return measured, False
        after = await store.segments(place)
        return measured, not segments.settled or after is None or after.layout != segments.layout

    async def check(self, subject: Subject, params: Params) -> Recall:
        """The recall of these parameters now, with few queries."""
        queries = await self._queries(subject, self._limits.check_queries)
        truth = await exact(queries.vectors, self._store.iterate(subject.place, with_vectors=True))
        return recall(truth, await self._answers(subject, queries.vectors, params))

    async def _queries(self, subject: Subject, count: int) -> Queries:
        real = await self._samples.read(
            subject.tenant, subject.knowledge_base, subject.model_fingerprint, limit=count
        )
        if len(real) >= count:
            return mix(real[:count], real[:0], rng=self._rng)
        missing = count - len(real)
        chunks = await some_vectors(
            self._store.iterate(subject.place, with_vectors=True), missing, rng=self._rng
        )
        return mix(real, blurred(chunks, missing, rng=self._rng), rng=self._rng)

    async def _answers(self, subject: Subject, queries: Vectors, params: Params) -> list[list[Hit]]:
        # Milvus' HNSW remembers where a query that it has seen ended, and begins there the next time.
        noise = self._rng.standard_normal(queries.shape).astype(np.float32)
        queries = unit(queries + _NUDGE * noise)
        answers: list[list[Hit]] = []
        for start in range(0, len(queries), self._limits.batch):
            answers += await self._search(subject, queries[start : start + self._limits.batch], params)
        return answers

    async def _search(self, subject: Subject, queries: Vectors, params: Params) -> list[list[Hit]]:
        return await self._store.search_dense(subject.place, queries, limit=K, search_params=params)


def _given(index: BuiltIndex, subject: Subject, *, rows: int) -> str:
    if not rows:
        return "there is nothing to search yet"
    if subject.search_params:
        return "the search parameters are prescribed by the index policy and were only measured"
    return f"{index.type.name} is exact and has no parameter"


def _why(index: BuiltIndex, subject: Subject, found: Found, name: str) -> str:
    value = found.chosen.value
    if found.reached:
        return f"{name} {value} is the smallest that reaches a recall of {subject.target:.0%} with a margin"
    better = {
        IndexType.IVF_SQ8: "IVF_FLAT",
        IndexType.HNSW_SQ: "HNSW",
        IndexType.HNSW: "HNSW with a larger M",
    }
    return (
        f"no {name} reaches a recall of {subject.target:.0%} with a margin; {value} comes closest with "
        f"{found.promise.mean:.1%}. {better.get(index.type, 'A smaller nlist')} would do better"
    )


def _of_error(promised: Recall) -> str:
    return f"; its recall was measured to within {196 * promised.error:.1f} points" if promised.error else ""


def _of_queries(queries: Queries) -> str:
    made = len(queries.vectors) - queries.real
    if not made:
        return ""
    return f"; {made} of {len(queries.vectors)} queries were made of chunks, since too few had been asked"
