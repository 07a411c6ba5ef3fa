"""Exact neighbours in blocks, recall, and the queries that are measured with."""

from collections.abc import AsyncIterator, Sequence

import numpy as np
import pytest

from retrieval.core.model import Hit, StoredChunk, Vectors
from retrieval.core.tuning.queries import blurred, mix, some_vectors
from retrieval.core.tuning.truth import Recall, Truth, dealt, exact, recall
from tests.support.tuning import chunk, clustered


async def walk(vectors: Vectors, batch: int = 500) -> AsyncIterator[list[StoredChunk]]:
    for start in range(0, len(vectors), batch):
        yield [
            StoredChunk(record=chunk(start + n, "d"), vector=vector)
            for n, vector in enumerate(vectors[start : start + batch])
        ]


def hits(ids: Sequence[str]) -> list[Hit]:
    return [Hit(id=i, document="d", title="", ordinal=0, text="", location="", score=0.0) for i in ids]


async def test_truth_over_several_blocks_is_that_of_all_rows_at_once() -> None:
    vectors, queries = clustered(9_000), clustered(30, seed=2)
    truth = await exact(queries, walk(vectors))
    assert truth.rows == 9_000
    assert truth.wanted == 10
    for query, accepted in zip(queries, truth.accepted, strict=True):
        best = np.argsort(-(vectors @ query))[:10]
        assert {f"d-{n:05}" for n in best} <= accepted
        assert len(accepted) <= 12


async def test_chunks_as_near_as_the_tenth_count_as_found() -> None:
    vectors = np.repeat(clustered(3), 7, axis=0)  # each seven times
    truth = await exact(vectors[:1], walk(vectors))
    (accepted,) = truth.accepted
    assert len(accepted) == 14  # seven of the nearest, and every one of the seven next
    some = hits([f"d-{n:05}" for n in range(7)] + sorted(accepted - {f"d-{n:05}" for n in range(7)})[-3:])
    assert recall(truth, [some]).mean == 1.0


@pytest.mark.parametrize("rows", [0, 1, 4])
async def test_fewer_rows_than_ten(rows: int) -> None:
    vectors = clustered(rows) if rows else np.empty((0, 16), dtype=np.float32)
    truth = await exact(clustered(2, seed=5), walk(vectors))
    assert truth.wanted == rows
    everything = hits([f"d-{n:05}" for n in range(rows)])
    assert recall(truth, [everything, everything]).mean == 1.0


def test_recall_and_its_error() -> None:
    wanted = frozenset(str(n) for n in range(10))
    truth = Truth((wanted, wanted, wanted, wanted), 10, 100)
    all_, half = hits([str(n) for n in range(10)]), hits([str(n) for n in range(5)] + ["x"])
    measured = recall(truth, [all_, half, all_, half])
    assert measured.mean == pytest.approx(0.75)
    assert measured.error == pytest.approx(0.125)
    assert measured.surely(0.5)
    assert not measured.surely(0.6)
    assert Recall(0.95, 0.0).surely(0.95)


def test_both_parts_get_their_share_of_real_queries() -> None:
    rng = np.random.default_rng(1)
    real, made = np.eye(200, dtype=np.float32)[:60], np.eye(200, dtype=np.float32)[60:140]
    queries = mix(real, made, rng=rng)
    assert queries.real == 60
    assert len(queries.vectors) == 140
    places = queries.vectors.argmax(axis=1)
    assert sorted(places) == list(range(140))
    choosing, promising = (np.asarray(part) for part in dealt(places))
    assert sorted([*choosing, *promising]) == list(range(140))
    assert (len(choosing), (choosing < 60).sum()) == (47, 20)
    assert (len(promising), (promising < 60).sum()) == (93, 40)


def test_made_queries_are_near_chunks_and_are_none_of_them() -> None:
    chunks = clustered(50, dimension=128)
    made = blurred(chunks, 500, rng=np.random.default_rng(1))
    nearest = (made @ chunks.T).max(axis=1)
    assert made.shape == (500, 128)
    assert 0.7 < float(nearest.mean()) < 0.95
    assert float(nearest.max()) < 0.999
    assert len(np.unique(made, axis=0)) == 500
    assert blurred(chunks[:0], 5, rng=np.random.default_rng(1)).shape[0] == 0


async def test_chunks_are_chosen_from_a_bounded_number() -> None:
    read, vectors = 0, clustered(500)

    async def endless() -> AsyncIterator[list[StoredChunk]]:
        nonlocal read
        while True:
            read += 500
            yield [StoredChunk(record=chunk(n, "d"), vector=vector) for n, vector in enumerate(vectors)]

    chosen = await some_vectors(endless(), 30, rng=np.random.default_rng(1))
    assert chosen.shape == (30, 16)
    assert read == 20_000
