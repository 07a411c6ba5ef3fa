"""What every vector store must do, run against each of them: writing, deleting, reading back."""

import pytest
from pymilvus.client.types import LoadState

from retrieval.core.index import DEFAULT_INDEX, BuiltIndex, CollectionSpec
from retrieval.core.model import IndexType, Place
from retrieval.core.ports import VectorStore
from servicekit.errors import NotFound
from tests.contract.conftest import Make
from tests.support.milvus import bare_client
from tests.support.stack import until
from tests.support.vector_stores import (
    DIMENSION,
    HOSTILE,
    axis,
    dense,
    put,
    record,
    rows,
    walked,
)


async def test_creating_again_keeps_what_is_there(store: VectorStore, make: Make) -> None:
    place = await make()
    await put(store, place, [record(0)])
    assert not await store.ensure_collection(CollectionSpec(place=place, dimension=DIMENSION))
    assert await store.count(place) == 1


async def test_the_alias_moves_to_another_collection(store: VectorStore, make: Make) -> None:
    place = await make()
    await put(store, place, [record(0)])
    other = await make(Place(collection=f"{place.alias}_2", alias=place.alias))
    assert await dense(store, place, axis(0), limit=3) == []
    assert await store.count(place) == 1
    await store.drop(Place(collection=place.collection))
    assert await dense(store, other, axis(0), limit=3) == []


async def test_without_an_alias_the_collection_itself_is_searched(
    store: VectorStore, place: Place, make: Make
) -> None:
    shadow = await make(Place(collection="shadow"))
    await put(store, shadow, [record(0)])
    assert len(await dense(store, shadow, axis(0), limit=3)) == 1
    assert await dense(store, place, axis(0), limit=3) == []


async def test_metadata_comes_back_as_it_was_given(store: VectorStore, place: Place) -> None:
    given = record(0, product='a "quoted" \\ é 𝒳', year=2**53 + 1, score=0.1, old=False)
    await put(store, place, [given, record(1)], axis(0), axis(1))
    hits = await dense(store, place, axis(0), limit=2)
    assert [dict(hit.metadata) for hit in hits] == [dict(given.metadata), {}]
    assert [chunk.record for chunk in await walked(store, place)] == [given, record(1)]


async def test_chunks_at_their_places(store: VectorStore, place: Place) -> None:
    await put(
        store, place, [record(n, document=document) for document in ("d1", HOSTILE[0]) for n in range(4)]
    )
    found = await store.chunks_at(place, [("d1", [2, 1, 9, 1]), (HOSTILE[0], [0]), ("nowhere", [0])])
    assert [(hit.document, hit.ordinal, hit.score) for hit in found] == [
        (HOSTILE[0], 0, 0.0),
        ("d1", 1, 0.0),
        ("d1", 2, 0.0),
    ]
    assert found[1].text == "some text"
    assert await store.chunks_at(place, []) == []
    assert await store.chunks_at(place, [("d1", [])]) == []


async def test_a_walk_meets_every_chunk_once(store: VectorStore, place: Place) -> None:
    records = [record(n, id_=f"c{n:03}", year=n) for n in range(25)]
    await put(store, place, records)
    batches = [chunks async for chunks in store.iterate(place, batch=10)]
    assert [len(batch) for batch in batches] == [10, 10, 5]
    assert [chunk.record for batch in batches for chunk in batch] == records
    assert [chunk.vector for batch in batches for chunk in batch] == [None] * 25
    (batch,) = [chunks async for chunks in store.iterate(place, batch=25, with_vectors=True)]
    assert batch[3].vector == pytest.approx(axis(3))
    await store.delete_document(place, "d1")
    assert await walked(store, place) == []


async def test_a_walk_over_hostile_ids_misses_none(store: VectorStore, place: Place) -> None:
    await put(store, place, [record(n, id_=id_) for n, id_ in enumerate(HOSTILE)])
    met = [chunk.record.id async for chunks in store.iterate(place, batch=1) for chunk in chunks]
    assert met == sorted(HOSTILE)


async def test_chunks_are_deleted_by_id(store: VectorStore, place: Place) -> None:
    await put(store, place, [record(0), record(1), record(2, id_=HOSTILE[0])])
    await store.delete_chunks(place, ["d1-0", HOSTILE[0], "never there"])
    assert await store.chunk_ids(place, "d1") == ["d1-1"]
    await store.delete_chunks(place, [])
    assert await store.count(place) == 1


async def test_an_empty_collection_finds_nothing(store: VectorStore, place: Place) -> None:
    assert await dense(store, place, axis(0), limit=3) == []
    assert await walked(store, place) == []
    assert await store.count(place) == 0


async def test_upsert_replaces_by_id(store: VectorStore, place: Place) -> None:
    await put(store, place, [record(0, text="before")], axis(0))
    await store.flush(place)
    await put(store, place, [record(0, text="after", version="v2")], axis(1))
    assert await store.count(place) == await store.findable(place) == 1
    hits = await dense(store, place, axis(1), limit=5)
    assert [(hit.text, round(hit.score, 3)) for hit in hits] == [("after", 1.0)]


async def test_delete_takes_a_document_or_its_former_versions(store: VectorStore, place: Place) -> None:
    await put(store, place, [record(0), record(1, version="v2"), record(0, document="d2")])
    await store.delete_document(place, "d1", keep_version="v2")
    assert await store.chunk_ids(place, "d1") == ["d1-1"]
    await store.delete_document(place, "d1")
    assert await store.chunk_ids(place, "d1") == []
    await store.settle(place)
    assert [hit.document for hit in await dense(store, place, axis(0), limit=5)] == ["d2"]
    await store.delete_document(place, "never there")


async def test_values_cannot_leave_their_quotes(store: VectorStore, place: Place) -> None:
    for hostile in HOSTILE:
        await put(
            store,
            place,
            [
                record(0, document="innocent"),
                record(0, document=hostile, id_="h0"),
                record(1, document=hostile, id_="h1", version=hostile),
            ],
        )
        assert await store.chunk_ids(place, hostile) == ["h0", "h1"]
        await store.delete_document(place, hostile, keep_version=hostile)
        assert await store.chunk_ids(place, hostile) == ["h1"]
        await store.delete_document(place, hostile)
        assert await store.chunk_ids(place, hostile) == []
        assert await store.chunk_ids(place, "innocent") == ["innocent-0"]


async def test_a_missing_collection_is_not_an_empty_one(store: VectorStore) -> None:
    await store.connect()
    nowhere = Place(collection="kb_nowhere", alias="kb_nowhere_alias")
    for call in (
        dense(store, nowhere, axis(0), limit=3),
        walked(store, nowhere),
        store.count(nowhere),
        store.chunks_at(nowhere, [("d", [0])]),
        store.index_of(nowhere),
        store.upsert(nowhere, [record(0)], rows(axis(0))),
    ):
        with pytest.raises(NotFound) as caught:
            await call
        assert caught.value.reason == "COLLECTION_NOT_FOUND"
    await store.drop(nowhere)


async def test_a_released_collection_is_loaded_again_by_itself(
    store: VectorStore, uri: str, place: Place
) -> None:
    if not uri:
        return  # memory releases nothing
    await put(store, place, [record(0)])
    client = bare_client(uri)
    try:
        client.release_collection(place.collection)
        # A server of several parts releases a moment later, and answers from what is left until then.
        await until(lambda: client.get_load_state(place.collection)["state"] == LoadState.NotLoad)
    finally:
        client.close()
    assert [hit.id for hit in await dense(store, place, axis(0), limit=1)] == ["d1-0"]


async def test_the_index_is_as_it_was_asked_for(store: VectorStore, place: Place, make: Make) -> None:
    index = BuiltIndex(type=IndexType.IVF_FLAT, build_params={"nlist": 4})
    assert await store.index_of(await make(index=index)) == index
    assert await store.index_of(place) == DEFAULT_INDEX


async def test_it_says_what_it_is_and_can(store: VectorStore, backend: str) -> None:
    capabilities = await store.connect()
    assert capabilities == await store.capabilities()
    expected = {
        "memory": ("Memory", True, False),
        "lite": ("Lite 3.2.2", True, True),
        "standalone": ("Standalone 2.3.5", False, False),
        "distributed": ("Distributed 2.3.5", False, False),
    }[backend]
    assert (capabilities.deployment, capabilities.sparse, capabilities.flush_after_ingest) == expected
    assert capabilities.databases
    assert (IndexType.HNSW_SQ in capabilities.index_types) == capabilities.sparse
