"""How a search ends, for everything that can go wrong around it."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from retrieval.core.model import Counts, Outcome, ReasonCode, SearchMode
from servicekit.context import Caller, scope
from servicekit.errors import DeadlineExceeded, InvalidArgument, NotFound, ServiceError, Unavailable
from tests.support.retrieval import DIMENSION, HashEmbedder, hash_vectors
from tests.support.searching import FlakyStore, World, codes, fill


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    await fill(world.store)
    with scope(caller=Caller("default", "test")):
        yield world


async def test_ok(world: World) -> None:
    result = await world.search()
    assert (result.outcome, codes(result)) == (Outcome.OK, [])
    assert (result.hits[0].id, result.revision, result.ready_documents) == ("c0", 7, 3)
    assert set(result.stages) == {"embedding", "vector_search"}


async def test_nothing_found_is_empty_and_not_an_error(world: World) -> None:
    result = await world.search("zebra", mode=SearchMode.SPARSE)
    assert (result.outcome, codes(result), result.hits) == (Outcome.EMPTY, [], ())


async def test_documents_that_wait_make_it_degraded_even_with_no_hits(world: World) -> None:
    world.catalogue.counts = Counts(pending=1, indexing=1)
    result = await world.search("zebra", mode=SearchMode.SPARSE)
    assert (result.outcome, codes(result)) == (Outcome.DEGRADED, [ReasonCode.INDEXING])
    assert result.ready_documents == 0


async def test_a_given_vector_saves_the_embedding(world: World) -> None:
    world.embedder.error = Unavailable("away", reason="MODEL_UNAVAILABLE")
    vector = hash_vectors(["red foxes"])[0]
    result = await world.search(vector=vector, model_fingerprint="hash-1", mode=SearchMode.DENSE)
    assert (result.outcome, result.hits[0].id) == (Outcome.OK, "c0")
    assert "embedding" not in result.stages


async def test_a_foreign_vector_is_not_compared(world: World) -> None:
    foreign = hash_vectors(["rain falls"])[0]
    result = await world.search(vector=foreign, model_fingerprint="other", mode=SearchMode.DENSE)
    assert (result.outcome, result.hits[0].id) == (Outcome.OK, "c0")  # embedded by the service itself
    world.embedder.fingerprint = "other"
    result = await world.search(vector=foreign, model_fingerprint="other")
    assert (result.outcome, codes(result)) == (Outcome.DEGRADED, [ReasonCode.MODEL_CHANGED])
    assert [hit.id for hit in result.hits] == ["c0"]  # by words
    world.store = FlakyStore(sparse=False)
    await fill(world.store)
    result = await world.search(vector=foreign, model_fingerprint="other", mode=SearchMode.DENSE)
    assert (result.outcome, codes(result)) == (Outcome.FAILED, [ReasonCode.MODEL_CHANGED])
    assert "only words" not in result.reasons[0].message


async def test_a_vector_of_another_dimension_is_an_error(world: World) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await world.search(vector=hash_vectors(["x"], 8)[0], model_fingerprint="hash-1")
    assert caught.value.reason == "DIMENSION_MISMATCH"
    assert caught.value.metadata["expected"] == str(DIMENSION)


@pytest.mark.parametrize("mode", [SearchMode.HYBRID, SearchMode.DENSE])
async def test_without_embedding_words_are_compared(world: World, mode: SearchMode) -> None:
    world.embedder.error = Unavailable("away", reason="MODEL_UNAVAILABLE")
    result = await world.search(mode=mode)
    assert (result.outcome, codes(result)) == (Outcome.DEGRADED, [ReasonCode.EMBEDDING_UNAVAILABLE])
    assert [hit.id for hit in result.hits] == ["c0"]


async def test_without_embedding_and_words_it_failed(world: World) -> None:
    world.store = FlakyStore(sparse=False)
    await fill(world.store)
    world.embedder.error = Unavailable("away", reason="MODEL_UNAVAILABLE")
    result = await world.search()
    assert result.outcome == Outcome.FAILED
    assert codes(result) == [ReasonCode.SPARSE_UNSUPPORTED, ReasonCode.EMBEDDING_UNAVAILABLE]


@pytest.mark.parametrize("mode", [SearchMode.HYBRID, SearchMode.SPARSE])
async def test_a_store_without_words_compares_vectors(world: World, mode: SearchMode) -> None:
    world.store = FlakyStore(sparse=False)
    await fill(world.store)
    result = await world.search(mode=mode)
    assert (result.outcome, codes(result)) == (Outcome.DEGRADED, [ReasonCode.SPARSE_UNSUPPORTED])
    assert result.hits[0].id == "c0"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Unavailable("down", reason="DEPENDENCY_UNAVAILABLE"), ReasonCode.STORE_UNAVAILABLE),
        (NotFound("gone", reason="COLLECTION_NOT_FOUND"), ReasonCode.STORE_UNAVAILABLE),
        (DeadlineExceeded("late", reason="DEADLINE_TOO_SHORT"), ReasonCode.DEADLINE),
    ],
)
async def test_a_store_that_fails_is_an_outcome(world: World, error: ServiceError, code: ReasonCode) -> None:
    world.store.error = error
    result = await world.search()
    assert (result.outcome, codes(result), result.hits) == (Outcome.FAILED, [code], ())


async def test_little_time_left_gives_up_words(world: World) -> None:
    with scope(caller=Caller("default", "test"), timeout=timedelta(milliseconds=90)):
        result = await world.search()
    assert (result.outcome, codes(result)) == (Outcome.DEGRADED, [ReasonCode.DEADLINE])
    assert result.hits[0].id == "c0"


async def test_embedding_leaves_time_for_the_store(world: World) -> None:
    class Slow(HashEmbedder):
        async def embed_queries(self, model: str, texts: Any, *, timeout: Any = None) -> Any:
            assert timeout < timedelta(seconds=0.6)
            raise DeadlineExceeded("late", reason="DEADLINE_TOO_SHORT")

    with scope(caller=Caller("default", "test"), timeout=timedelta(seconds=0.9)):
        result = await world.search(embedder=Slow())
    assert (result.outcome, codes(result)) == (Outcome.DEGRADED, [ReasonCode.DEADLINE])
    assert [hit.id for hit in result.hits] == ["c0"]


async def test_another_tenant_sees_nothing(world: World) -> None:
    await world.search()
    with scope(caller=Caller("other", "test")), pytest.raises(NotFound) as caught:
        await world.search()
    assert caught.value.reason == "KNOWLEDGE_BASE_NOT_FOUND"


async def test_a_warm_search_reads_no_catalogue(world: World) -> None:
    for _ in range(5):
        await world.search()
    assert world.catalogue.reads == 1
    world.catalogue.counts = Counts(ready=4, chunks=4)
    world.directory.forget("default", "kb")
    assert (await world.search()).ready_documents == 4


async def test_a_stale_entry_is_renewed_behind_the_search(world: World) -> None:
    await world.search()
    world.catalogue.counts = Counts(ready=4, chunks=4)
    world.clock.advance(timedelta(seconds=3))
    assert (await world.search()).ready_documents == 3
    await asyncio.sleep(0)
    assert (await world.search()).ready_documents == 4
    assert world.catalogue.reads == 2
    world.clock.advance(timedelta(minutes=1))  # too old to be used at all
    world.catalogue.error = Unavailable("away", reason="DEPENDENCY_UNAVAILABLE")
    with pytest.raises(Unavailable):
        await world.search()
