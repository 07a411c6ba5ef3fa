"""Collections that an earlier release made: read on, noticed, never written to."""

import uuid
from collections.abc import AsyncIterator

import pytest

from retrieval.adapters.milvus import MilvusStore
from retrieval.core.errors import OutdatedCollection
from retrieval.core.filters import PATH, Compare, Operator
from retrieval.core.index import CollectionSpec
from retrieval.core.model import Place
from retrieval.core.ports import VectorStore
from servicekit.errors import NotFound
from tests.support.old_collections import make_before_metadata, put_before_metadata
from tests.support.vector_stores import DIMENSION, axis, dense, put, record, rows, sparse, walked


@pytest.fixture
async def old(store: VectorStore, uri: str) -> AsyncIterator[Place]:
    """With two chunks."""
    if not isinstance(store, MilvusStore):
        pytest.skip("a store in memory is as old as its process")
    alias = f"kb_{uuid.uuid4().hex}"
    place = Place(collection=f"{alias}_1", alias=alias)
    has_words = (await store.capabilities()).sparse
    make_before_metadata(uri, place, dimension=DIMENSION, sparse=has_words)
    put_before_metadata(
        uri,
        place,
        [record(0, text="the red fox"), record(1, text="a grey wolf")],
        rows(axis(0), axis(1)),
    )
    await store.settle(place)
    yield place
    await store.drop(place)


async def test_it_is_read_on_and_refuses_writes(store: VectorStore, old: Place) -> None:
    has_words = (await store.capabilities()).sparse
    missing = {"metadata", "words"} if has_words else {"metadata"}
    loose = {"$meta"}  # Lite only
    assert await store.lacking(old) - loose == missing
    assert not await store.ensure_collection(CollectionSpec(place=old, dimension=DIMENSION))

    found = await dense(store, old, axis(0), limit=1)
    assert [(hit.id, hit.metadata) for hit in found] == [("d1-0", {})]
    by_path = Compare(PATH, Operator.EQUAL, "d1.md")
    assert len(await dense(store, old, axis(0), limit=5, filter=by_path)) == 2
    if has_words:
        assert [hit.id for hit in await sparse(store, old, "wolf", limit=5)] == ["d1-1"]
    assert [hit.id for hit in await store.chunks_at(old, [("d1", [1])])] == ["d1-1"]
    assert await store.chunk_ids(old, "d1") == ["d1-0", "d1-1"]
    assert [chunk.record.metadata for chunk in await walked(store, old)] == [{}, {}]

    with pytest.raises(OutdatedCollection, match="metadata"):
        await put(store, old, [record(2)])
    by_year = Compare("year", Operator.EQUAL, 2024)
    with pytest.raises(OutdatedCollection, match="meta"):
        await dense(store, old, axis(0), limit=5, filter=by_year)
    await store.delete_document(old, "d1")
    assert await store.count(old) == 0


async def test_without_keyword_search_it_can_still_be_opened(store: VectorStore, uri: str) -> None:
    """As a collection of Milvus 2.3 is after the server became one of 2.5."""
    if not uri or not (await store.capabilities()).sparse:
        pytest.skip("this store has no keyword search to lack")
    alias = f"kb_{uuid.uuid4().hex}"
    place = Place(collection=f"{alias}_1", alias=alias)
    make_before_metadata(uri, place, dimension=DIMENSION, sparse=False)
    assert await store.lacking(place) >= {"metadata", "words", "sparse"}
    assert not await store.ensure_collection(CollectionSpec(place=place, dimension=DIMENSION))
    assert await dense(store, place, axis(0), limit=1) == []
    await store.drop(place)


async def test_one_of_this_release_lacks_nothing(store: VectorStore, place: Place) -> None:
    assert await store.lacking(place) == frozenset()
    with pytest.raises(NotFound):
        await store.lacking(Place(collection="not_there"))
