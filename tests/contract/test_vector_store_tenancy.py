"""Rows of others are never read, counted, replaced or deleted, on each vector store."""

import uuid
from collections.abc import AsyncIterator

import pytest

from retrieval.adapters.milvus_rows import key
from retrieval.core.filters import Compare, Filter, Has, Not, Operator, Or
from retrieval.core.index import CollectionSpec
from retrieval.core.model import Place
from retrieval.core.ports import VectorStore
from servicekit.errors import NotFound
from tests.support.milvus import bare_client
from tests.support.vector_stores import DIMENSION, HOSTILE, axis, dense, put, record, sparse, walked

EVERYTHING: Filter = Or((Has("year"), Not(Has("year"))))


def _scope(text: str) -> Place:
    return Place(collection="scopes_1", alias="scopes", scope=f"{uuid.uuid4().hex} {text}")


@pytest.fixture
async def mine(store: VectorStore) -> Place:
    place = _scope('mine" or scope != "')
    await store.ensure_collection(CollectionSpec(place=place, dimension=DIMENSION))
    return place


@pytest.fixture
async def theirs(store: VectorStore, mine: Place) -> AsyncIterator[Place]:
    """Has the ids, documents and texts that the tests use."""
    place = _scope("theirs")
    await put(store, place, [record(n, text="fox", year=n) for n in range(3)])
    yield place
    await store.drop(place)


async def test_what_others_have_is_not_there(store: VectorStore, mine: Place, theirs: Place) -> None:
    assert await store.count(mine) == 0
    assert await store.chunk_ids(mine, "d1") == []
    assert await store.chunks_at(mine, [("d1", [0, 1, 2])]) == []
    for filter_ in (None, EVERYTHING, Compare("$document", Operator.EQUAL, "d1")):
        assert await walked(store, mine, filter=filter_) == []
        assert await dense(store, mine, axis(0), limit=5, filter=filter_) == []
        if (await store.capabilities()).sparse:
            assert await sparse(store, mine, "fox", limit=5, filter=filter_) == []


async def test_the_same_ids_are_kept_apart(store: VectorStore, mine: Place, theirs: Place) -> None:
    await put(store, mine, [record(0, text="dog")], axis(5))
    assert [(hit.id, hit.text) for hit in await dense(store, mine, axis(5), limit=5)] == [("d1-0", "dog")]
    assert [hit.text for hit in await store.chunks_at(mine, [("d1", [0])])] == ["dog"]
    assert [hit.text for hit in await store.chunks_at(theirs, [("d1", [0])])] == ["fox"]
    assert (await store.count(mine), await store.count(theirs)) == (1, 3)
    await put(store, mine, [record(0, text="cat")], axis(6))
    assert [hit.text for hit in await dense(store, mine, axis(6), limit=5)] == ["cat"]
    assert await store.count(mine) == 1


async def test_nothing_of_others_is_deleted(store: VectorStore, mine: Place, theirs: Place) -> None:
    await put(store, mine, [record(0), record(1)])
    await store.delete_chunks(mine, ["d1-0", "d1-2", key(theirs, "d1-1"), *HOSTILE, '"] or id in ["'])
    assert await store.chunk_ids(mine, "d1") == ["d1-1"]
    await store.delete_document(mine, "d1", keep_version='x" or version != "')
    await store.delete_document(mine, 'd1" or document != "')
    assert await store.count(mine) == 0
    await put(store, mine, [record(0)])
    await store.drop(mine)
    await store.drop(_scope("never written"))
    assert await store.count(mine) == 0
    assert await store.chunk_ids(theirs, "d1") == ["d1-0", "d1-1", "d1-2"]


async def test_databases_are_apart_and_go_with_their_last_collection(store: VectorStore, uri: str) -> None:
    names = [f"t_{uuid.uuid4().hex[:8]}" for _ in range(2)]
    mine, theirs = (Place(collection="kb_1", alias="kb", database=name) for name in names)
    for place in (mine, theirs):
        assert await store.ensure_collection(CollectionSpec(place=place, dimension=DIMENSION))
    await put(store, theirs, [record(0), record(1)])
    await put(store, mine, [record(0)])
    assert [hit.id for hit in await dense(store, mine, axis(1), limit=5)] == ["d1-0"]
    await store.drop(mine)
    with pytest.raises(NotFound) as caught:
        await store.count(mine)
    assert caught.value.reason == "COLLECTION_NOT_FOUND"
    assert _databases(uri).isdisjoint({mine.database})
    assert await store.count(theirs) == 2
    assert await store.ensure_collection(CollectionSpec(place=mine, dimension=DIMENSION))
    assert await store.count(mine) == 0
    for place in (mine, theirs, mine):  # the last time it is not there
        await store.drop(place)
    assert _databases(uri).isdisjoint(names)


def _databases(uri: str) -> set[str]:
    if not uri:
        return set()
    client = bare_client(uri)
    try:
        return set(client.list_databases())
    finally:
        client.close()
