"""Exact neighbours, in bounded memory, and the recall of an approximate answer."""

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from retrieval.core.model import Hit, StoredChunk, Vectors
from retrieval.core.tuning.model import K

_BLOCK_ROWS = 4_096
_BLOCK_QUERIES = 500
_CHOOSING = 3
_SPARE = 10  # beyond the tenth: chunks that are as near
_TIE = 1e-5
_MARGIN = 1.64


Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Truth:
    """What each query should find.

    Attributes:
        accepted: For each query, ids that are at least as near as its tenth.
        wanted: How many of them an answer should have: 10, or all there are.
        rows: How many were compared.
    """

    accepted: tuple[frozenset[str], ...]
    wanted: int
    rows: int


@dataclass(frozen=True, slots=True)
class Recall:
    """The mean over queries, and how far chance may have moved it."""

    mean: float
    error: float

    def surely(self, target: float) -> bool:
        """Whether it reaches the target with a margin: one chance in twenty to be wrong."""
        return self.mean - _MARGIN * self.error >= target

    def surely_below(self, target: float) -> bool:
        """Likewise that it does not."""
        return self.mean + _MARGIN * self.error < target


class _Nearest:
    """The best so far of every query."""

    def __init__(self, queries: Vectors) -> None:
        self._queries = unit(queries)
        self._keep = K + _SPARE
        self._scores = np.full((len(queries), 0), -np.inf, dtype=np.float32)
        self._ids: npt.NDArray[np.object_] = np.empty((len(queries), 0), dtype=object)
        self.rows = 0

    def add(self, ids: Sequence[str], vectors: Vectors) -> None:
        """Blocks; runs in a thread."""
        self.rows += len(ids)
        named: npt.NDArray[np.object_] = np.empty(len(ids), dtype=object)
        named[:] = ids
        rows = unit(vectors).T
        found = [_best(self._queries[at] @ rows, named, self._keep) for at in _slices(len(self._queries))]
        scores = np.concatenate([self._scores, np.concatenate([scores for scores, _ in found])], axis=1)
        names = np.concatenate([self._ids, np.concatenate([names for _, names in found])], axis=1)
        self._scores, self._ids = _best(scores, names, self._keep)

    def truth(self) -> Truth:
        """After the last block."""
        wanted = min(K, self.rows)
        accepted = []
        for scores, ids in zip(self._scores, self._ids, strict=True):
            tenth = np.sort(scores)[-wanted] if wanted else np.inf
            accepted.append(frozenset(ids[scores >= tenth - _TIE]))
        return Truth(tuple(accepted), wanted, self.rows)


def _best(
    scores: npt.NDArray[np.float32], names: npt.NDArray[np.object_], keep: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.object_]]:
    """The best of each row, in no order; `names` of the columns, or of each place."""
    keep = min(keep, scores.shape[1])
    best = np.argpartition(scores, scores.shape[1] - keep, axis=1)[:, scores.shape[1] - keep :]
    chosen = names[best] if names.ndim == 1 else np.take_along_axis(names, best, axis=1)
    return np.take_along_axis(scores, best, axis=1), chosen


def _slices(queries: int) -> list[slice]:
    return [slice(start, start + _BLOCK_QUERIES) for start in range(0, queries, _BLOCK_QUERIES)]


async def exact(queries: Vectors, chunks: AsyncIterator[list[StoredChunk]]) -> Truth:
    """Compares every query with every chunk that has a vector."""
    nearest = _Nearest(queries)
    ids: list[str] = []
    vectors: list[Vectors] = []
    async for batch in chunks:
        for chunk in batch:
            if chunk.vector is not None:
                ids.append(chunk.record.id)
                vectors.append(chunk.vector)
        if len(ids) >= _BLOCK_ROWS:
            await asyncio.to_thread(nearest.add, ids, np.asarray(vectors, dtype=np.float32))
            ids, vectors = [], []
    if ids:
        await asyncio.to_thread(nearest.add, ids, np.asarray(vectors, dtype=np.float32))
    return await asyncio.to_thread(nearest.truth)


def recall(truth: Truth, answers: Sequence[Sequence[Hit]]) -> Recall:
    """Of answers to the same queries, in their order."""
    if not truth.wanted:
        return Recall(1.0, 0.0)
    found = np.array(
        [
            min(truth.wanted, len({hit.id for hit in hits} & accepted)) / truth.wanted
            for hits, accepted in zip(answers, truth.accepted, strict=True)
        ]
    )
    return Recall(float(found.mean()), float(found.std()) / math.sqrt(len(found)))


def dealt(items: Sequence[Item]) -> tuple[tuple[Item, ...], tuple[Item, ...]]:
    """Every third, which chooses; and the others, which promise: a promise wants the more queries."""
    return tuple(items[::_CHOOSING]), tuple(item for place, item in enumerate(items) if place % _CHOOSING)


def unit(vectors: Vectors) -> Vectors:
    """Of length 1; what has none stays."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    result: Vectors = np.asarray(vectors / np.where(lengths == 0, 1, lengths), dtype=np.float32)
    return result
