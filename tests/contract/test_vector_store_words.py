"""Which words find which chunks, on each vector store alike."""

import pytest

from retrieval.core.model import Place
from retrieval.core.ports import VectorStore
from tests.support.vector_stores import axis, record, rows, sparse

pytestmark = pytest.mark.usefixtures("keyword_search")

TEXTS = [
    "Evaluations are run nightly",
    "set AGENTTEAMS_MILVUS_URI to it",
    "数据库的索引",
    "to be or not to be",
    "x",
]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("evaluating", ["d1-0"]),  # stems
        ("milvus uri", ["d1-1"]),  # parts of names
        ("索引", ["d1-2"]),  # pairs of characters
        ("To be", ["d1-3", "d1-1"]),  # the commonest words, if there are no others ("to" is in d1-1)
        ("what is the nightly", ["d1-0"]),  # not by "the" and "is"
        ("guides", ["d2-0"]),  # the path
        ("Top sub", ["d1-0", "d1-1", "d1-2", "d1-3", "d1-4", "d2-0"]),  # the headings
    ],
)
async def test_words(store: VectorStore, place: Place, query: str, found: list[str]) -> None:
    records = [record(number, text=text) for number, text in enumerate(TEXTS)]
    records.append(record(0, document="d2/guide", text="y"))
    await store.upsert(place, records, rows(*(axis(0) for _ in records)))
    hits = await sparse(store, place, query, limit=10)
    ids = [hit.id.replace("d2/guide", "d2") for hit in hits]
    assert sorted(ids) == sorted(found)


async def test_a_query_without_words_keeps_its_place_among_others(store: VectorStore, place: Place) -> None:
    await store.upsert(place, [record(0, text="fox"), record(1, text="dog")], rows(axis(0), axis(1)))
    answers = await store.search_sparse(place, ["dog", "…", "fox"], limit=2)
    assert [[hit.id for hit in hits] for hits in answers] == [["d1-1"], [], ["d1-0"]]


async def test_more_words_than_fit_are_stored_without_the_last(store: VectorStore, place: Place) -> None:
    longest = "索引" * 8_000  # 16,000 characters give 48 kB of text and 112 kB of pairs
    await store.upsert(place, [record(0, text=longest)], rows(axis(0)))
    assert [hit.id for hit in await sparse(store, place, "索引", limit=2)] == ["d1-0"]
