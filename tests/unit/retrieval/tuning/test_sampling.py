"""What is kept of the queries that are asked."""

import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

import numpy as np

from retrieval.core.model import Vectors
from retrieval.core.tuning.ports import QuerySample
from retrieval.core.tuning.sampling import QuerySampler
from servicekit.errors import Unavailable
from servicekit.testing import FakeClock
from tests.unit.retrieval.tuning.test_policy import KB


class Samples:
    """Remembers what is written."""

    def __init__(self) -> None:
        self.written: list[list[QuerySample]] = []
        self.down = False

    async def add(self, samples: Sequence[QuerySample], *, now: datetime) -> None:
        if self.down:
            raise Unavailable("down", reason="DEPENDENCY_UNAVAILABLE")
        self.written.append(list(samples))

    async def read(self, tenant: str, knowledge_base: str, model_fingerprint: str, *, limit: int) -> Vectors:
        raise NotImplementedError


def sampler(samples: Samples, *, enabled: bool = True) -> QuerySampler:
    return QuerySampler(samples=samples, clock=FakeClock(), rng=random.Random(1), enabled=enabled)


def numbered(number: int) -> Vectors:
    return np.full(8, number, dtype=np.float32)


async def test_sixteen_of_any_number_in_one_write_and_each_as_likely() -> None:
    samples = Samples()
    keeps = sampler(samples)
    late = 0
    for _ in range(60):
        for number in range(400):
            keeps.offer(KB, numbered(number))
        await keeps.flush()
        late += sum(sample.vector[0] >= 200 for sample in samples.written[-1])
        assert len(samples.written[-1]) == 16
    assert 0.4 < late / (60 * 16) < 0.6
    assert len(samples.written) == 60
    await keeps.flush()
    assert len(samples.written) == 60  # nothing was asked since


async def test_tenants_and_models_are_kept_apart() -> None:
    samples = Samples()
    keeps = sampler(samples)
    for tenant in ("a", "b"):
        keeps.offer(replace(KB, tenant=tenant, model_fingerprint=f"f-{tenant}"), numbered(1))
    await keeps.flush()
    assert {(s.tenant, s.knowledge_base, s.model_fingerprint) for s in samples.written[0]} == {
        ("a", "kb", "f-a"),
        ("b", "kb", "f-b"),
    }


async def test_off_means_off() -> None:
    samples = Samples()
    keeps = sampler(samples, enabled=False)
    keeps.offer(KB, numbered(1))
    await keeps.flush()
    assert samples.written == []


async def test_an_outage_costs_the_samples_and_nothing_else() -> None:
    samples = Samples()
    keeps = sampler(samples)
    samples.down = True
    keeps.offer(KB, numbered(1))
    await keeps.flush()
    samples.down = False
    keeps.offer(KB, numbered(2))
    await keeps.flush()
    assert [[s.vector[0] for s in batch] for batch in samples.written] == [[2]]


async def test_memory_is_bounded_and_nothing_of_the_callers_is_held() -> None:
    samples = Samples()
    keeps = sampler(samples)
    message = numbered(3)
    for number in range(1_500):
        keeps.offer(replace(KB, id=f"kb-{number}"), message)
    message[:] = 9
    await keeps.flush()
    assert len(samples.written[0]) == 1_000
    assert all(sample.vector[0] == 3 for sample in samples.written[0])
