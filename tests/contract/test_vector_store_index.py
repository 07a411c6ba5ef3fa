"""Parameters of indexes and of searches reach each vector store: what is found changes with them."""

import asyncio
import os
from collections.abc import Mapping

import numpy as np
import pytest

from retrieval.core.index import BuiltIndex
from retrieval.core.model import IndexType, Place, Vectors
from retrieval.core.ports import VectorStore
from tests.contract.conftest import Make
from tests.support.vector_stores import DIMENSION, record

_ROWS, _QUERIES = 3_000, 40
_PATIENCE_S = 40

WORSE_AND_BETTER = [
    (BuiltIndex(type=IndexType.IVF_FLAT, build_params={"nlist": 64}), {"nprobe": 1}, {"nprobe": 64}),
    (BuiltIndex(type=IndexType.IVF_SQ8, build_params={"nlist": 64}), {"nprobe": 1}, {"nprobe": 64}),
    (BuiltIndex(type=IndexType.HNSW, build_params={"M": 2, "efConstruction": 8}), {"ef": 10}, {"ef": 1000}),
    (
        BuiltIndex(type=IndexType.HNSW_SQ, build_params={"M": 2, "efConstruction": 8}),
        {"ef": 10},
        {"ef": 1000},
    ),
]


def _vectors(count: int, seed: int) -> Vectors:
    made = np.random.default_rng(seed).normal(size=(count, DIMENSION))
    unit: Vectors = (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)
    return unit


ROWS, QUERIES = _vectors(_ROWS, 1), _vectors(_QUERIES, 2)
TRUTH = np.argsort(-(QUERIES @ ROWS.T), axis=1)[:, :10]


async def _recall(store: VectorStore, place: Place, params: Mapping[str, int]) -> float:
    answers = await store.search_dense(place, QUERIES, limit=10, search_params=params)
    found = [
        len({hit.ordinal for hit in hits} & set(best.tolist()))
        for hits, best in zip(answers, TRUTH, strict=True)
    ]
    return sum(found) / TRUTH.size


@pytest.mark.parametrize("case", WORSE_AND_BETTER, ids=lambda case: case[0].type.name)
async def test_parameters_reach_the_index(
    store: VectorStore, backend: str, make: Make, case: tuple[BuiltIndex, dict[str, int], dict[str, int]]
) -> None:
    index, worse, better = case
    if backend == "memory":
        pytest.skip("a store in memory compares all: no parameter of an index changes what it finds")
    if backend == "standalone" and not os.environ.get("CONFORMANCE"):
        pytest.skip("NOT RUN against Standalone, 10 s each: make conformance does it")
    if index.type not in (await store.capabilities()).index_types:
        pytest.skip("this Milvus has no such index; its capabilities say so")
    place = await make(index=index)
    await store.upsert(place, [record(number) for number in range(_ROWS)], ROWS)
    await store.flush(place)
    low = 1.0
    async with asyncio.timeout(_PATIENCE_S):  # until it is built and in use, all rows are compared
        while low > 0.9:
            await asyncio.sleep(0.2)
            low = await _recall(store, place, worse)
    assert await _recall(store, place, better) > low + 0.05
    assert await store.index_of(place) == index
    segments = await store.segments(place)
    if segments is not None:
        assert (segments.rows, segments.indexed) == (_ROWS, _ROWS)
        assert segments.count >= 1
