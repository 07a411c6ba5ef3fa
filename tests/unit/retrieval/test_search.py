"""How a search ends, for everything that can go wrong around it."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from retrieval.adapters.memory import MemoryStore
from retrieval.core.directory import Directory
from retrieval.core.index import CollectionSpec
from retrieval.core.model import (
    Chunking,
    ChunkRecord,
    Counts,
    Hit,
    KnowledgeBase,
    KnowledgeBaseSpec,
    Outcome,
    Place,
    ReasonCode,
    SearchMode,
    SearchQuery,
    SearchResult,
    Snapshot,
)
from retrieval.core.ports import Catalogue
from retrieval.core.search import Search
from servicekit.context import Caller, scope
from servicekit.errors import DeadlineExceeded, InvalidArgument, NotFound, ServiceError, Unavailable
from servicekit.testing import FakeClock
from tests.support.retrieval import DIMENSION, MODEL, HashEmbedder, hash_vectors

TEXTS = ["red foxes hunt at night", "cats sleep all day", "rain falls in spring"]


class OneKnowledgeBase:
    """The part of a catalogue that searches read."""

    def __init__(self) -> None:
        self.reads = 0
        self.error: ServiceError | None = None
        self.counts = Counts(ready=3, chunks=3)
        self.knowledge_base = KnowledgeBase(
            tenant="default",
            id="kb",
            spec=KnowledgeBaseSpec(embedding_model=MODEL, chunking=Chunking(), search_mode=SearchMode.HYBRID),
            dimension=DIMENSION,
            model_fingerprint="hash-1",
            revision=7,
            alias="alias",
            collection="collection",
            create_time=datetime(2026, 1, 1, tzinfo=UTC),
        )

    async def snapshot(self, tenant: str, knowledge_base: str) -> Snapshot | None:
        self.reads += 1
        if self.error is not None:
            raise self.error
        if (tenant, knowledge_base) != ("default", "kb"):
            return None
        return Snapshot(knowledge_base=self.knowledge_base, counts=self.counts)


class FlakyStore(MemoryStore):
    """Fails where told."""

    error: ServiceError | None = None

    async def search_dense(self, *args: Any, **kwargs: Any) -> list[list[Hit]]:
        if self.error is not None:
            raise self.error
        return await super().search_dense(*args, **kwargs)


class World:
    def __init__(self) -> None:
        self.catalogue = OneKnowledgeBase()
        self.clock = FakeClock()
        self.store = FlakyStore()
        self.embedder = HashEmbedder()
        self.directory = Directory(
            catalogue=cast(Catalogue, self.catalogue), clock=self.clock, time_to_live=timedelta(seconds=2)
        )

    async def search(self, text: str = "red foxes", *, embedder: Any = None, **fields: Any) -> SearchResult:
        search = Search(
            directory=self.directory,
            store=self.store,
            embedder=embedder or self.embedder,
            hybrid_budget=timedelta(milliseconds=100),
            embedding_timeout=timedelta(seconds=10),
        )
        return await search.run(SearchQuery(knowledge_base="kb", text=text, **fields))


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    await fill(world.store)
    with scope(caller=Caller("default", "test")):
        yield world


async def fill(store: MemoryStore) -> None:
    place = Place(collection="collection", alias="alias")
    await store.ensure_collection(CollectionSpec(place=place, dimension=DIMENSION))
    records = [
        ChunkRecord(id=f"c{n}", document="d", title="a.md", version="v", ordinal=n, text=text, location="")
        for n, text in enumerate(TEXTS)
    ]
    await store.upsert(place, records, hash_vectors(TEXTS))


def codes(result: SearchResult) -> list[ReasonCode]:
    return [reason.code for reason in result.reasons]


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
