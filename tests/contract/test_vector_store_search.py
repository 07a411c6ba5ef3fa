"""What every vector store must do, run against each of them: searching."""

import numpy as np
import pytest

from retrieval.core.model import Place
from retrieval.core.ports import VectorStore
from servicekit.errors import FailedPrecondition, NotFound
from tests.support.vector_stores import DIMENSION, axis, dense, put, record, rows, sparse


async def test_dense_search_ranks_by_cosine_and_returns_all_fields(store: VectorStore, place: Place) -> None:
    await put(
        store,
        place,
        [record(0, text="zero"), record(1, text="one é 𝒳"), record(2, text="two")],
        axis(0),
        axis(0, towards=1, by=1.0),
        axis(2),
    )
    hits = await dense(store, place, axis(0), limit=2)
    assert [hit.id for hit in hits] == ["d1-0", "d1-1"]
    assert [hit.score for hit in hits] == pytest.approx([1.0, 2**-0.5], abs=1e-4)
    assert [hit.similarity for hit in hits] == [hit.score for hit in hits]
    second = hits[1]
    assert (second.document, second.title, second.ordinal) == ("d1", "d1.md", 1)
    assert (second.text, second.location) == ("one é 𝒳", "Top > Sub")


async def test_many_vectors_in_one_call(store: VectorStore, place: Place) -> None:
    await put(store, place, [record(0), record(1)], axis(0), axis(1))
    answers = await store.search_dense(place, rows(axis(1), axis(0), axis(1)), limit=1)
    assert [[hit.id for hit in hits] for hits in answers] == [["d1-1"], ["d1-0"], ["d1-1"]]
    assert await store.search_dense(place, np.empty((0, DIMENSION), dtype=np.float32), limit=1) == []


async def test_vectors_come_only_when_asked_for(store: VectorStore, place: Place) -> None:
    await put(store, place, [record(0)], axis(0))
    (hit,) = await dense(store, place, axis(0), limit=1)
    assert hit.vector is None
    (hit,) = await dense(store, place, axis(0), limit=1, with_vectors=True)
    assert hit.vector == pytest.approx(axis(0))


async def test_a_store_without_keyword_search_says_so(store: VectorStore, place: Place) -> None:
    if not (await store.capabilities()).sparse:
        await put(store, place, [record(0, text="fox")])
        with pytest.raises(FailedPrecondition, match="keyword search"):
            await sparse(store, place, "fox", limit=3)


@pytest.mark.usefixtures("keyword_search")
async def test_words_are_found_with_positive_scores(store: VectorStore, place: Place) -> None:
    texts = ["the fox jumps over the dog", "a dog sleeps", "rain in spring"]
    await put(store, place, [record(i, text=text) for i, text in enumerate(texts)])
    hits = await sparse(store, place, "Fox dog", limit=5)
    assert [hit.id for hit in hits] == ["d1-0", "d1-1"]
    assert hits[0].score > hits[1].score > 0
    assert [hit.similarity for hit in hits] == [None, None]
    assert await sparse(store, place, "zebra", limit=5) == []
    assert await sparse(store, place, "?!…", limit=5) == []
    answers = await store.search_sparse(place, ["sleeps", "zebra", "rain"], limit=2)
    assert [[hit.id for hit in hits] for hits in answers] == [["d1-1"], [], ["d1-2"]]
    assert await store.search_sparse(place, [], limit=1) == []


@pytest.mark.usefixtures("keyword_search")
async def test_words_come_with_vectors_when_asked_for(store: VectorStore, place: Place) -> None:
    await put(store, place, [record(0, text="fox")], axis(3))
    (hit,) = await sparse(store, place, "fox", limit=1, with_vectors=True)
    assert hit.vector == pytest.approx(axis(3))
    (hit,) = await sparse(store, place, "fox", limit=1)
    assert hit.vector is None


@pytest.mark.usefixtures("keyword_search")
async def test_words_of_a_former_text_are_not_found(store: VectorStore, place: Place) -> None:
    await put(store, place, [record(0, text="before")])
    await store.flush(place)
    await put(store, place, [record(0, text="after", version="v2")])
    assert await sparse(store, place, "before", limit=5) == []
    assert [hit.id for hit in await sparse(store, place, "after", limit=5)] == ["d1-0"]


@pytest.mark.usefixtures("keyword_search")
async def test_words_in_a_missing_collection_are_not_just_not_found(store: VectorStore, place: Place) -> None:
    with pytest.raises(NotFound):
        await sparse(store, Place(collection="kb_nowhere"), "word", limit=3)
