"""What every vector store must do, run against each of them."""

from typing import Any

import numpy as np
import pytest

from retrieval.adapters.milvus import MilvusStore
from retrieval.core.index import DEFAULT_INDEX, BuiltIndex, CollectionSpec
from retrieval.core.model import IndexType, Place
from retrieval.core.ports import VectorStore
from servicekit.errors import NotFound
from tests.support.vector_stores import (
    DIMENSION,
    HOSTILE,
    axis,
    dense,
    record,
    rows,
    sparse,
    walked,
)


async def test_creating_again_keeps_what_is_there(store: VectorStore, place: Place) -> None:
    await store.upsert(place, [record(0)], rows(axis(0)))
    assert not await store.ensure_collection(CollectionSpec(place=place, dimension=DIMENSION))
    assert await store.count(place) == 1


async def test_the_alias_moves_to_another_collection(store: VectorStore, place: Place) -> None:
    await store.upsert(place, [record(0)], rows(axis(0)))
    other = Place(collection=f"{place.alias}_2", alias=place.alias)
    assert await store.ensure_collection(CollectionSpec(place=other, dimension=DIMENSION))
    try:
        assert await dense(store, place, axis(0), limit=3) == []
        assert await store.count(place) == 1
        await store.drop(Place(collection=place.collection))
        assert await dense(store, other, axis(0), limit=3) == []
    finally:
        await store.drop(other)


async def test_without_an_alias_the_collection_itself_is_searched(store: VectorStore, place: Place) -> None:
    shadow = Place(collection=f"{place.alias}_shadow")
    await store.ensure_collection(CollectionSpec(place=shadow, dimension=DIMENSION))
    try:
        await store.upsert(shadow, [record(0)], rows(axis(0)))
        assert len(await dense(store, shadow, axis(0), limit=3)) == 1
        assert await dense(store, place, axis(0), limit=3) == []
    finally:
        await store.drop(shadow)


async def test_dense_search_ranks_by_cosine_and_returns_all_fields(store: VectorStore, place: Place) -> None:
    await store.upsert(
        place,
        [record(0, text="zero"), record(1, text="one é 𝒳"), record(2, text="two")],
        rows(axis(0), axis(0, towards=1, by=1.0), axis(2)),
    )
    hits = await dense(store, place, axis(0), limit=2)
    assert [hit.id for hit in hits] == ["d1-0", "d1-1"]
    assert [hit.score for hit in hits] == pytest.approx([1.0, 2**-0.5], abs=1e-4)
    second = hits[1]
    assert (second.document, second.title, second.ordinal) == ("d1", "d1.md", 1)
    assert (second.text, second.location) == ("one é 𝒳", "Top > Sub")


async def test_many_queries_in_one_call(store: VectorStore, place: Place) -> None:
    await store.upsert(place, [record(0, text="fox"), record(1, text="dog")], rows(axis(0), axis(1)))
    answers = await store.search_dense(place, rows(axis(1), axis(0), axis(1)), limit=1)
    assert [[hit.id for hit in hits] for hits in answers] == [["d1-1"], ["d1-0"], ["d1-1"]]
    answers = await store.search_sparse(place, ["dog", "zebra", "fox"], limit=2)
    assert [[hit.id for hit in hits] for hits in answers] == [["d1-1"], [], ["d1-0"]]
    assert await store.search_dense(place, np.empty((0, DIMENSION), dtype=np.float32), limit=1) == []
    assert await store.search_sparse(place, [], limit=1) == []


async def test_vectors_come_only_when_asked_for(store: VectorStore, place: Place) -> None:
    await store.upsert(place, [record(0, text="fox")], rows(axis(0)))
    for options, vector in (({}, None), ({"with_vectors": True}, pytest.approx(axis(0)))):
        for hits in (
            await dense(store, place, axis(0), limit=1, **options),
            await sparse(store, place, "fox", limit=1, **options),
        ):
            assert [hit.vector for hit in hits] == [vector]
    (chunk,) = await walked(store, place)
    assert chunk.vector is None
    (chunk,) = await walked(store, place, with_vectors=True)
    assert chunk.vector == pytest.approx(axis(0))


async def test_metadata_comes_back_as_it_was_given(store: VectorStore, place: Place) -> None:
    metadata: dict[str, Any] = {"product": 'a "quoted" \\ é 𝒳', "year": 2**53 + 1, "score": 0.1, "old": False}
    await store.upsert(place, [record(0, **metadata), record(1)], rows(axis(0), axis(1)))
    hits = await dense(store, place, axis(0), limit=2)
    assert [dict(hit.metadata) for hit in hits] == [metadata, {}]
    assert [dict(chunk.record.metadata) for chunk in await walked(store, place)] == [metadata, {}]


async def test_chunks_at_their_places(store: VectorStore, place: Place) -> None:
    records = [record(n, document=document) for document in ("d1", HOSTILE[0]) for n in range(4)]
    await store.upsert(place, records, rows(*[axis(n % 8) for n in range(8)]))
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
    await store.upsert(place, records, rows(*[axis(n % 8) for n in range(25)]))
    batches = [chunks async for chunks in store.iterate(place, batch=10)]
    assert [len(batch) for batch in batches] == [10, 10, 5]
    assert [chunk.record for batch in batches for chunk in batch] == records
    assert [len(batch) async for batch in store.iterate(place, batch=25)] == [25]


async def test_a_walk_through_nothing_ends_at_once(store: VectorStore, place: Place) -> None:
    assert await walked(store, place) == []


async def test_chunks_are_deleted_by_id(store: VectorStore, place: Place) -> None:
    await store.upsert(
        place, [record(0), record(1), record(2, id_=HOSTILE[0])], rows(axis(0), axis(1), axis(2))
    )
    await store.delete_chunks(place, ["d1-0", HOSTILE[0], "never there"])
    assert await store.chunk_ids(place, "d1") == ["d1-1"]
    await store.delete_chunks(place, [])
    assert await store.count(place) == 1


async def test_the_index_is_as_it_was_asked_for(store: VectorStore, place: Place) -> None:
    other = Place(collection=f"{place.alias}_ivf")
    index = BuiltIndex(type=IndexType.IVF_FLAT, build_params={"nlist": 4})
    await store.ensure_collection(CollectionSpec(place=other, dimension=DIMENSION, index=index))
    try:
        assert await store.index_of(other) == index
        assert await store.index_of(place) == DEFAULT_INDEX
    finally:
        await store.drop(other)


async def test_sparse_search_finds_words_with_positive_scores(store: VectorStore, place: Place) -> None:
    texts = ["the fox jumps over the dog", "a dog sleeps", "rain in spring"]
    await store.upsert(
        place, [record(i, text=text) for i, text in enumerate(texts)], rows(axis(0), axis(1), axis(2))
    )
    hits = await sparse(store, place, "Fox dog", limit=5)
    assert [hit.id for hit in hits] == ["d1-0", "d1-1"]
    assert hits[0].score > hits[1].score > 0
    assert await sparse(store, place, "zebra", limit=5) == []
    assert await sparse(store, place, "?!…", limit=5) == []


async def test_an_empty_collection_finds_nothing(store: VectorStore, place: Place) -> None:
    assert await dense(store, place, axis(0), limit=3) == []
    assert await sparse(store, place, "word", limit=3) == []
    assert await store.count(place) == 0


async def test_upsert_replaces_by_id_and_is_found_at_once(store: VectorStore, place: Place) -> None:
    await store.upsert(place, [record(0, text="before")], rows(axis(0)))
    await store.flush(place)
    await store.upsert(place, [record(0, text="after", version="v2")], rows(axis(1)))
    assert await store.count(place) == 1
    hits = await dense(store, place, axis(1), limit=5)
    assert [(hit.text, round(hit.score, 3)) for hit in hits] == [("after", 1.0)]
    assert await sparse(store, place, "before", limit=5) == []


async def test_delete_takes_a_document_or_its_former_versions(store: VectorStore, place: Place) -> None:
    await store.upsert(
        place,
        [record(0), record(1, version="v2"), record(0, document="d2")],
        rows(axis(0), axis(1), axis(2)),
    )
    await store.flush(place)
    await store.delete_document(place, "d1", keep_version="v2")
    assert await store.chunk_ids(place, "d1") == ["d1-1"]
    await store.delete_document(place, "d1")
    assert await store.chunk_ids(place, "d1") == []
    assert await store.chunk_ids(place, "d2") == ["d2-0"]
    await store.delete_document(place, "never there")


@pytest.mark.parametrize("hostile", HOSTILE)
async def test_values_cannot_leave_their_quotes(store: VectorStore, place: Place, hostile: str) -> None:
    await store.upsert(
        place,
        [
            record(0, document="innocent"),
            record(0, document=hostile, id_="h0"),
            record(1, document=hostile, id_="h1", version=hostile),
        ],
        rows(axis(0), axis(1), axis(2)),
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
        sparse(store, nowhere, "word", limit=3),
        walked(store, nowhere),
        store.count(nowhere),
        store.chunks_at(nowhere, [("d", [0])]),
        store.index_of(nowhere),
    ):
        with pytest.raises(NotFound) as caught:
            await call
        assert caught.value.reason == "COLLECTION_NOT_FOUND"
    await store.drop(nowhere)


async def test_it_says_what_it_is_and_can(store: VectorStore) -> None:
    capabilities = await store.connect()
    assert capabilities.sparse
    assert capabilities == await store.capabilities()
    if isinstance(store, MilvusStore):
        assert capabilities.deployment.startswith("Lite ")
        assert capabilities.flush_after_ingest
