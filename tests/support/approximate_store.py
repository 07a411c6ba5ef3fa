"""A store in memory whose index finds less than all, as its parameters say."""

import math
import zlib
from collections.abc import Mapping
from datetime import timedelta

import numpy as np

from retrieval.adapters.memory import MemoryStore
from retrieval.core.filters import Filter
from retrieval.core.model import Hit, Place, Vectors
from retrieval.core.ports import NO_PARAMS
from servicekit.testing import FakeClock

SCALE = 20  # recall .95 at three times it


class ApproximateStore(MemoryStore):
    """Each of the nearest is missed with a chance that shrinks as `ef` or `nprobe` grows.

    What is missed depends on query and chunk only, so that a larger parameter never finds less. A
    search takes as many microseconds of the clock as the parameter says.
    """

    def __init__(self, clock: FakeClock) -> None:
        super().__init__()
        self.clock = clock
        self.asked: list[dict[str, int]] = []
        self.handicap = 1.0
        """How much of what a parameter promised is left."""

    async def search_dense(
        self,
        place: Place,
        vectors: Vectors,
        *,
        limit: int,
        filter: Filter | None = None,
        search_params: Mapping[str, int] = NO_PARAMS,
        with_vectors: bool = False,
    ) -> list[list[Hit]]:
        """Some of the exact answer."""
        self.asked.append(dict(search_params))
        value = search_params.get("ef", search_params.get("nprobe", 10 * SCALE))
        self.clock.advance(timedelta(microseconds=value))
        rows = list(self._rows(place, filter, searched=True))
        if not rows:
            return [[] for _ in vectors]
        scores = np.asarray(vectors) @ np.stack([row.vector for row in rows]).T
        answers = []
        chance = 1 - math.exp(-value * self.handicap / SCALE)
        for vector, ranked in zip(vectors, scores, strict=True):
            best = np.argsort(-ranked)[: 2 * limit]
            hits = [_hit(rows[i].record.id, float(ranked[i])) for i in best]
            answers.append([hit for hit in hits if _luck(vector, hit.id) < chance][:limit])
        return answers


def _hit(id_: str, score: float) -> Hit:
    return Hit(id=id_, document="d", title="d.md", ordinal=0, text="", location="", score=score)


def _luck(vector: Vectors, id_: str) -> float:
    # Rounded: what is asked again is moved a little, and has the same neighbours.
    return zlib.crc32((np.round(vector, 3) + 0.0).tobytes() + id_.encode()) / 2**32
