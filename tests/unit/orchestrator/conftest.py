"""What the tests of the orchestrator begin with."""

from collections.abc import AsyncIterator, Iterator

import pytest

from servicekit.context import scope
from tests.support.fake_store import ADA
from tests.support.fleet import Fleet
from tests.support.orchestrator_fakes import Bench


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
def as_ada() -> Iterator[None]:
    with scope(caller=ADA):
        yield


@pytest.fixture
async def fleet() -> AsyncIterator[Fleet]:
    out = Fleet()
    async with out.stack:
        yield out
