"""A search gives the same chunks in the same order on every store."""

import uuid
from dataclasses import replace
from typing import Any

from retrieval.adapters.memory import MemoryStore
from retrieval.core.filters import Compare, Operator
from retrieval.core.index import CollectionSpec
from retrieval.core.model import ChunkRecord, Place, SearchMode
from retrieval.core.ports import VectorStore
from retrieval.core.search_model import SearchResult
from servicekit.context import Caller, scope
from tests.support.retrieval import DIMENSION, hash_vectors
from tests.support.searching import World

WORDS = ["fox", "owl", "elm", "den", "hill", "lake", "night", "root"]
# Every text is there three times: equal scores are what stores disagree about.
TEXTS = [f"{one} {other} {third}" for one in WORDS[:4] for other in WORDS[2:6] for third in WORDS[6:]] * 3
ASKED: list[dict[str, Any]] = [
    {},
    {"top_k": 30},
    {"more_texts": ("owl lake", "root")},
    {"min_similarity": 0.5, "more_texts": ("owl lake",)},
    {"relevance_weight": 0.4},
    {"max_per_document": 1},
    {"neighbours": 2, "max_per_document": 2},
    {"filter": Compare("$path", Operator.STARTS_WITH, "b/")},
]


async def filled(store: VectorStore, *, backwards: bool = False) -> Place:
    alias = f"kb_{uuid.uuid4().hex}"
    place = Place(collection=f"{alias}_1", alias=alias)
    await store.ensure_collection(CollectionSpec(place=place, dimension=DIMENSION))
    records = [
        ChunkRecord(
            id=f"{n * 37 % 97:03d}",  # not in the order in which they are stored
            document=f"d{n % 7}",
            title=f"{'ab'[n % 7 % 2]}/{n % 7}.md",
            version="v",
            ordinal=n // 7,
            text=text,
            location="",
        )
        for n, text in enumerate(TEXTS)
    ]
    if backwards:
        records.reverse()
    texts = [record.text for record in records]
    await store.upsert(place, records, hash_vectors(texts))
    await store.settle(place)
    return place


async def results(store: VectorStore, *, backwards: bool = False) -> list[SearchResult]:
    world = World()
    place = await filled(store, backwards=backwards)
    base = world.catalogue.knowledge_base
    world.catalogue.knowledge_base = replace(base, alias=place.alias, collection=place.collection)
    world.store = store  # type: ignore[assignment]
    try:
        with scope(caller=Caller("default", "test")):
            return [await world.search("fox den night", mode=SearchMode.DENSE, **asked) for asked in ASKED]
    finally:
        await store.drop(place)


def shown(result: SearchResult) -> Any:
    similarities = [round(hit.similarity or 0, 4) for hit in result.hits]
    beside = {id_: [n.id for n in chunks] for id_, chunks in result.neighbours.items()}
    return result.outcome.name, [hit.id for hit in result.hits], similarities, beside


async def test_the_same_chunks_in_the_same_order(store: VectorStore) -> None:
    expected = await results(MemoryStore())
    # Nor does it matter in which order they were stored.
    for asked, one, other in zip(ASKED, expected, await results(store, backwards=True), strict=True):
        assert shown(other) == shown(one), asked
