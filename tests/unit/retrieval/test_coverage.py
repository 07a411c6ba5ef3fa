"""Searches say when the store leaves chunks out."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import pytest

from retrieval.core.model import Capabilities, Counts, Outcome, Place, ReasonCode
from servicekit.context import Caller, scope
from servicekit.errors import ServiceError, Unavailable
from tests.support.searching import FlakyStore, World, fill


class Forgetful(FlakyStore):
    """Finds fewer than there are.

    Attributes:
        missing: So many.
        looks: How often it was asked.
        away: Why it cannot say.
        answers: Set while it answers at all.
    """

    def __init__(self) -> None:
        super().__init__()
        self.missing = self.looks = 0
        self.may_miss = True
        self.away: ServiceError | None = None
        self.answers = asyncio.Event()
        self.answers.set()

    async def capabilities(self) -> Capabilities:
        return replace(await super().capabilities(), may_miss=self.may_miss)

    async def findable(self, place: Place) -> int:
        self.looks += 1
        await self.answers.wait()
        if self.away is not None:
            raise self.away
        return await super().findable(place) - self.missing


@pytest.fixture(autouse=True)
def caller() -> Iterator[None]:
    with scope(caller=Caller("default", "test")):
        yield


@pytest.fixture
async def world() -> World:
    world = World(store=Forgetful())
    await fill(world.store)
    return world


@pytest.fixture
def store(world: World) -> Forgetful:
    assert isinstance(world.store, Forgetful)
    return world.store


async def test_what_is_found_is_given_with_the_reason(world: World, store: Forgetful) -> None:
    store.missing = 2
    found = await world.search()
    assert found.outcome == Outcome.DEGRADED
    assert found.hits
    (reason,) = found.reasons
    assert reason.code == ReasonCode.STORE_UNAVAILABLE
    assert "2 chunks cannot be found now" in reason.message
    assert reason.message.endswith("the others were searched")


async def test_that_nothing_is_found_is_not_an_empty_success(world: World, store: Forgetful) -> None:
    store.missing = 3
    found = await world.search(min_similarity=1.0)
    assert (found.outcome, found.hits) == (Outcome.DEGRADED, ())


async def test_it_looks_once_a_second_and_sooner_while_something_is_missing(
    world: World, store: Forgetful
) -> None:
    for _ in range(3):
        assert (await world.search()).outcome == Outcome.OK
    assert store.looks == 1
    store.missing = 1
    world.clock.advance(timedelta(seconds=1))
    assert (await world.search()).outcome == Outcome.DEGRADED
    store.missing = 0
    world.clock.advance(timedelta(seconds=0.2))
    assert (await world.search()).outcome == Outcome.OK


async def test_searches_at_the_same_time_share_a_look(world: World, store: Forgetful) -> None:
    async with asyncio.TaskGroup() as group:
        searches = [group.create_task(world.search()) for _ in range(5)]
    assert {search.result().outcome for search in searches} == {Outcome.OK}
    assert store.looks == 1


async def test_what_is_known_of_the_catalogue_may_be_old(world: World, store: Forgetful) -> None:
    world.catalogue.counts = Counts(ready=4, chunks=9)
    await world.directory.get("default", "kb")
    world.catalogue.counts = Counts(ready=3, chunks=3)  # deleted since, by another process
    assert (await world.search()).outcome == Outcome.OK


async def test_a_store_that_cannot_say_is_no_success(world: World, store: Forgetful) -> None:
    store.away = Unavailable("away", reason="DEPENDENCY_UNAVAILABLE")
    found = await world.search()
    assert found.outcome == Outcome.DEGRADED
    assert found.hits
    assert "not known whether all chunks were searched" in found.reasons[0].message
    store.error = store.away
    found = await world.search()
    assert found.outcome == Outcome.FAILED
    assert len(found.reasons) == len({reason.message for reason in found.reasons})


async def test_looking_leaves_time_for_the_search(world: World, store: Forgetful) -> None:
    store.answers.clear()
    with scope(caller=Caller("default", "test"), timeout=timedelta(seconds=0.5)):
        found = await world.search()
    assert found.outcome == Outcome.DEGRADED
    assert found.hits
    assert "did not say in time" in found.reasons[0].message


async def test_a_store_that_leaves_nothing_out_is_not_asked(world: World, store: Forgetful) -> None:
    store.may_miss = False
    store.missing = 2
    assert (await world.search()).outcome == Outcome.OK
    assert store.looks == 0
