"""What every vector store must do, run against each of them."""

import uuid
from collections.abc import AsyncIterator

import numpy as np
import pytest

from retrieval.adapters.memory import MemoryStore
from retrieval.adapters.milvus import MilvusStore
from retrieval.core.model import ChunkRecord, Vectors
from retrieval.core.ports import VectorStore
from servicekit.errors import NotFound
from tests.support.milvus import milvus_server  # noqa: F401

DIMENSION = 8
HOSTILE = [
    'a" or document != "',
    'x" || 1 == 1 || document == "x',
    "back\\slash",
    'both \\" of them',
    "quote ' and new\nline and\ttab",
    "{x} %s $1 \u2028 𝒳 é",
    "\\u0041",
]


@pytest.fixture(params=["memory", "milvus_lite"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[VectorStore]:
    if request.param == "memory":
        yield MemoryStore()
        return
    server = request.getfixturevalue("milvus_server")
    milvus = MilvusStore(uri=server.uri)
    try:
        yield milvus
    finally:
        await milvus.close()


@pytest.fixture
async def names(store: VectorStore) -> AsyncIterator[tuple[str, str]]:
    """An alias and its empty collection."""
    alias = f"kb_{uuid.uuid4().hex}"
    collection = f"{alias}_1"
    assert await store.ensure_collection(alias=alias, collection=collection, dimension=DIMENSION)
    yield alias, collection
    await store.drop_collection(collection, alias=alias)


def record(
    ordinal: int, *, document: str = "d1", version: str = "v1", text: str = "some text", id_: str = ""
) -> ChunkRecord:
    return ChunkRecord(
        id=id_ or f"{document}-{ordinal}",
        document=document,
        title=f"{document}.md",
        version=version,
        ordinal=ordinal,
        text=text,
        location="Top > Sub",
    )


def axis(number: int, *, towards: int | None = None, by: float = 0.0) -> Vectors:
    vector = np.zeros(DIMENSION, dtype=np.float32)
    vector[number] = 1
    if towards is not None:
        vector[towards] = by
    normed: Vectors = (vector / np.linalg.norm(vector)).astype(np.float32)
    return normed


def rows(*vectors: Vectors) -> Vectors:
    return np.stack(vectors)


async def test_creating_again_keeps_what_is_there(store: VectorStore, names: tuple[str, str]) -> None:
    alias, collection = names
    await store.upsert(collection, [record(0)], rows(axis(0)))
    assert not await store.ensure_collection(alias=alias, collection=collection, dimension=DIMENSION)
    assert await store.count(collection) == 1


async def test_the_alias_moves_to_another_collection(store: VectorStore, names: tuple[str, str]) -> None:
    alias, collection = names
    await store.upsert(collection, [record(0)], rows(axis(0)))
    other = f"{alias}_2"
    assert await store.ensure_collection(alias=alias, collection=other, dimension=4)
    try:
        assert await store.search_dense(alias, np.ones(4, dtype=np.float32), limit=3) == []
        await store.drop_collection(collection)
        assert await store.search_dense(alias, np.ones(4, dtype=np.float32), limit=3) == []
    finally:
        await store.drop_collection(other, alias=alias)


async def test_dense_search_ranks_by_cosine_and_returns_all_fields(
    store: VectorStore, names: tuple[str, str]
) -> None:
    alias, collection = names
    await store.upsert(
        collection,
        [record(0, text="zero"), record(1, text="one é 𝒳"), record(2, text="two")],
        rows(axis(0), axis(0, towards=1, by=1.0), axis(2)),
    )
    hits = await store.search_dense(alias, axis(0), limit=2)
    assert [hit.id for hit in hits] == ["d1-0", "d1-1"]
    assert [hit.score for hit in hits] == pytest.approx([1.0, 2**-0.5], abs=1e-4)
    second = hits[1]
    assert (second.document, second.title, second.ordinal) == ("d1", "d1.md", 1)
    assert (second.text, second.location) == ("one é 𝒳", "Top > Sub")


async def test_a_minimum_similarity_leaves_out_the_rest(store: VectorStore, names: tuple[str, str]) -> None:
    alias, collection = names
    await store.upsert(
        collection,
        [record(0, text="apple"), record(1, text="apple pie"), record(2, text="apple tart")],
        rows(axis(0), axis(0, towards=1, by=1.0), axis(2)),
    )
    dense = await store.search_dense(alias, axis(0), limit=3, min_similarity=0.6)
    assert [hit.id for hit in dense] == ["d1-0", "d1-1"]
    # Every chunk has the word; only the vectors tell them apart.
    hybrid = await store.search_hybrid(alias, axis(0), "apple", limit=3, min_similarity=0.6)
    assert sorted(hit.id for hit in hybrid) == ["d1-0", "d1-1"]


async def test_sparse_search_finds_words_with_positive_scores(
    store: VectorStore, names: tuple[str, str]
) -> None:
    alias, collection = names
    texts = ["the fox jumps over the dog", "a dog sleeps", "rain in spring"]
    await store.upsert(
        collection, [record(i, text=text) for i, text in enumerate(texts)], rows(axis(0), axis(1), axis(2))
    )
    hits = await store.search_sparse(alias, "Fox dog", limit=5)
    assert [hit.id for hit in hits] == ["d1-0", "d1-1"]
    assert hits[0].score > hits[1].score > 0
    assert await store.search_sparse(alias, "zebra", limit=5) == []
    assert await store.search_sparse(alias, "?!…", limit=5) == []


async def test_hybrid_search_fuses_both_ranks(store: VectorStore, names: tuple[str, str]) -> None:
    alias, collection = names
    await store.upsert(
        collection,
        [record(0, text="nothing here"), record(1, text="zebra crossing"), record(2, text="zebra")],
        rows(axis(0), axis(0, towards=1, by=0.5), axis(3)),
    )
    hits = await store.search_hybrid(alias, axis(0), "zebra crossing", limit=3)
    # 1 is second by vector and first by words, 0 is first by vector only.
    assert hits[0].id == "d1-1"
    assert hits[0].score == pytest.approx(1 / 62 + 1 / 61, abs=1e-5)
    assert {hit.id for hit in hits} == {"d1-0", "d1-1", "d1-2"}


async def test_an_empty_collection_finds_nothing(store: VectorStore, names: tuple[str, str]) -> None:
    alias, collection = names
    assert await store.search_dense(alias, axis(0), limit=3) == []
    assert await store.search_sparse(alias, "word", limit=3) == []
    assert await store.search_hybrid(alias, axis(0), "word", limit=3) == []
    assert await store.count(collection) == 0


async def test_upsert_replaces_by_id_and_is_found_at_once(store: VectorStore, names: tuple[str, str]) -> None:
    alias, collection = names
    await store.upsert(collection, [record(0, text="before")], rows(axis(0)))
    await store.flush(collection)
    await store.upsert(collection, [record(0, text="after", version="v2")], rows(axis(1)))
    assert await store.count(collection) == 1
    hits = await store.search_dense(alias, axis(1), limit=5)
    assert [(hit.text, round(hit.score, 3)) for hit in hits] == [("after", 1.0)]
    assert await store.search_sparse(alias, "before", limit=5) == []


async def test_delete_takes_a_document_or_its_former_versions(
    store: VectorStore, names: tuple[str, str]
) -> None:
    _, collection = names
    await store.upsert(
        collection,
        [record(0), record(1, version="v2"), record(0, document="d2")],
        rows(axis(0), axis(1), axis(2)),
    )
    await store.flush(collection)
    await store.delete_document(collection, "d1", keep_version="v2")
    assert await store.chunk_ids(collection, "d1") == ["d1-1"]
    await store.delete_document(collection, "d1")
    assert await store.chunk_ids(collection, "d1") == []
    assert await store.chunk_ids(collection, "d2") == ["d2-0"]
    await store.delete_document(collection, "never there")


@pytest.mark.parametrize("hostile", HOSTILE)
async def test_values_cannot_leave_their_quotes(
    store: VectorStore, names: tuple[str, str], hostile: str
) -> None:
    _, collection = names
    await store.upsert(
        collection,
        [
            record(0, document="innocent"),
            record(0, document=hostile, id_="h0"),
            record(1, document=hostile, id_="h1", version=hostile),
        ],
        rows(axis(0), axis(1), axis(2)),
    )
    assert await store.chunk_ids(collection, hostile) == ["h0", "h1"]
    await store.delete_document(collection, hostile, keep_version=hostile)
    assert await store.chunk_ids(collection, hostile) == ["h1"]
    await store.delete_document(collection, hostile)
    assert await store.chunk_ids(collection, hostile) == []
    assert await store.chunk_ids(collection, "innocent") == ["innocent-0"]


async def test_a_missing_collection_is_not_an_empty_one(store: VectorStore) -> None:
    await store.connect()
    for search in (
        store.search_dense("kb_nowhere", axis(0), limit=3),
        store.search_sparse("kb_nowhere", "word", limit=3),
        store.search_hybrid("kb_nowhere", axis(0), "word", limit=3),
    ):
        with pytest.raises(NotFound) as caught:
            await search
        assert caught.value.reason == "COLLECTION_NOT_FOUND"
    await store.drop_collection("kb_nowhere", alias="kb_nowhere_alias")


async def test_it_says_what_it_is_and_can(store: VectorStore) -> None:
    capabilities = await store.connect()
    assert capabilities.sparse
    assert capabilities == await store.capabilities()
    if isinstance(store, MilvusStore):
        assert capabilities.deployment.startswith("Lite ")
        assert capabilities.flush_after_ingest
