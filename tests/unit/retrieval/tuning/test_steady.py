"""What is measured is the index as it stays, not one that Milvus is still making."""

from collections.abc import Iterator
from datetime import timedelta

import numpy as np
import pytest

from retrieval.core.index import CollectionSpec
from retrieval.core.model import Place, Segments, Vectors
from retrieval.core.tuning.model import Measurement, Subject
from retrieval.core.tuning.steady import until_steady
from retrieval.core.tuning.tuner import Tuner
from servicekit.testing import FakeClock
from tests.support.approximate_store import ApproximateStore
from tests.support.tuning import DIMENSION, HNSW, LIMITS, chunk, clustered

pytestmark = pytest.mark.looptime

PLACE = Place(collection="c", alias="a")
ROWS = 300
STEP = timedelta(seconds=1)


def segments(*layout: int, served: int = ROWS, pending: int = 0) -> Segments:
    return Segments(
        count=len(layout),
        rows=ROWS,
        indexed=ROWS - pending,
        pending=pending,
        served=served,
        layout=frozenset(layout),
    )


class Changing(ApproximateStore):
    """Its segments are others each time that somebody asks, until there are no further ones."""

    def __init__(self, *states: Segments) -> None:
        super().__init__(FakeClock())
        self._states: Iterator[Segments] = iter(states)
        self._now = next(self._states)
        self.looks = 0
        self.flushes = 0

    async def segments(self, place: Place) -> Segments:
        now, self._now = self._now, next(self._states, self._now)
        self.looks += 1
        self.clock.advance(STEP)
        return now

    async def flush(self, place: Place) -> None:
        self.flushes += 1


class NoSamples:
    """Nobody has asked anything."""

    async def add(self, samples: object, *, now: object) -> None:
        """Not here."""

    async def read(self, tenant: str, knowledge_base: str, model_fingerprint: str, *, limit: int) -> Vectors:
        return np.empty((0, DIMENSION), dtype=np.float32)


async def measured(store: Changing) -> Measurement:
    await store.ensure_collection(CollectionSpec(place=PLACE, dimension=DIMENSION, index=HNSW))
    await store.upsert(PLACE, [chunk(n, "d") for n in range(ROWS)], clustered(ROWS))
    tuner = Tuner(
        store=store,
        samples=NoSamples(),
        clock=store.clock,
        limits=LIMITS,
        rng=np.random.default_rng(1),
    )
    subject = Subject(tenant="t", knowledge_base="kb", place=PLACE, model_fingerprint="f", target=0.9)
    return await tuner.measure(subject, reason="asked for")


async def test_it_waits_until_searches_use_the_index_and_nothing_is_compacted() -> None:
    store = Changing(segments(1, 2, served=100, pending=200), segments(1, 2, pending=ROWS), segments(3))
    found = await until_steady(store, PLACE, clock=store.clock, within=timedelta(minutes=1))
    assert found == segments(3)
    assert store.looks == 3


async def test_it_does_not_wait_for_ever() -> None:
    building = segments(1, served=0, pending=ROWS)
    store = Changing(building)
    found = await until_steady(store, PLACE, clock=store.clock, within=timedelta(seconds=10))
    assert found == building
    assert store.looks <= 11


async def test_a_steady_index_is_measured_once_with_all_that_was_written() -> None:
    store = Changing(segments(1, 2, pending=ROWS), segments(3))
    found = await measured(store)
    assert (store.looks, store.flushes) == (3, 1)
    assert found.segments == 1
    assert "other segments" not in found.message


async def test_what_changed_under_the_measurement_is_measured_again() -> None:
    store = Changing(segments(1, 2), segments(3))
    found = await measured(store)
    assert (store.looks, store.flushes) == (4, 2)
    assert found.segments == 1  # the compacted one
    assert "other segments" not in found.message


async def test_what_goes_on_changing_is_measured_twice_and_said() -> None:
    store = Changing(*(segments(n) for n in range(9)))
    found = await measured(store)
    assert store.looks == 4
    assert "Milvus was still making other segments" in found.message
