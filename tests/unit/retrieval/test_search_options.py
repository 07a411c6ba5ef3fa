"""What a search may ask for besides a query."""

from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Any

import pytest

from retrieval.core.filters import Compare, Operator
from retrieval.core.model import Embedded, Outcome, ReasonCode, SearchMode
from retrieval.core.search_model import SearchResult
from retrieval.core.search_options import ReciprocalRank, Rerank, Weighted
from servicekit.context import Caller, scope
from servicekit.errors import DeadlineExceeded, InvalidArgument, NotFound, Unavailable
from tests.support.retrieval import HashEmbedder, hash_vectors
from tests.support.searching import FlakyStore, World, codes, ids, put

CALLER = Caller("default", "test")
DOWN = Unavailable("away", reason="DEPENDENCY_UNAVAILABLE")
RERANK = Rerank(model="models/r")


class Counting(HashEmbedder):
    def __init__(self) -> None:
        super().__init__()
        self.asked: list[list[str]] = []

    async def embed_queries(self, model: str, texts: Sequence[str], *, timeout: Any = None) -> Embedded:
        self.asked.append(list(texts))
        return await super().embed_queries(model, texts)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    with scope(caller=CALLER):
        yield World()


async def put_many(world: World, count: int, *, document: str = "d") -> None:
    """The lower the ordinal, the more of the text is about foxes."""
    rows = [(document, n, "fox " * (count - n) + f"word{n} " * n) for n in range(count)]
    await put(world.store, *rows)


def calls(world: World, name: str) -> list[dict[str, Any]]:
    return [asked for called, asked in world.store.calls if called == name]


async def test_several_queries_are_one_call_of_each_kind(world: World) -> None:
    await put(world.store, ("a", 0, "red foxes hunt"), ("b", 0, "vixen and cubs"), ("c", 0, "cats sleep"))
    embedder = Counting()
    result = await world.search("foxes", more_texts=("vixen", "foxes", "cubs"), top_k=2, embedder=embedder)
    assert (result.outcome, sorted(ids(result))) == (Outcome.OK, ["a0", "b0"])
    assert embedder.asked == [["foxes", "vixen", "cubs"]]  # each once
    assert [asked["queries"] for asked in calls(world, "search_dense")] == [3]
    assert [asked["queries"] for asked in calls(world, "search_sparse")] == [3]
    only = await world.search("foxes", mode=SearchMode.SPARSE)
    assert ids(only) == ["a0"]


async def test_a_given_vector_leaves_only_the_other_queries_to_embed(world: World) -> None:
    await put(world.store, ("a", 0, "red foxes hunt"), ("b", 0, "vixen and cubs"))
    embedder = Counting()
    fields: dict[str, Any] = {
        "vector": hash_vectors(["foxes"])[0] * 3,
        "model_fingerprint": "hash-1",
        "more_texts": ("vixen",),
        "mode": SearchMode.DENSE,
    }
    found = await world.search("foxes", embedder=embedder, **fields)
    assert embedder.asked == [["vixen"]]
    assert (found.outcome, sorted(ids(found))) == (Outcome.OK, ["a0", "b0"])
    assert all(hit.similarity is not None and hit.similarity <= 1.0001 for hit in found.hits)
    embedder.error = Unavailable("away", reason="MODEL_UNAVAILABLE")
    found = await world.search("foxes", embedder=embedder, **fields)
    assert (found.outcome, codes(found)) == (Outcome.DEGRADED, [ReasonCode.EMBEDDING_UNAVAILABLE])
    assert ids(found)[0] == "a0"


async def test_ranker_of_the_request_then_of_the_knowledge_base(world: World) -> None:
    # By meaning the one word alone is nearest, by words the one that says it often.
    await put(world.store, ("a", 0, "foxes"), ("b", 0, "foxes foxes foxes foxes hills"), ("c", 0, "cats"))
    by_meaning = await world.search("foxes", ranker=Weighted(dense_weight=1))
    by_words = await world.search("foxes", ranker=Weighted(dense_weight=0))
    assert (ids(by_meaning)[0], ids(by_words)[0]) == ("a0", "b0")
    assert (by_meaning.hits[0].score, by_words.hits[0].score) == (1, 1)
    for k in (1, 60):
        by_rank = await world.search("foxes", ranker=ReciprocalRank(k=k))
        assert by_rank.hits[0].score == pytest.approx(1 / (k + 1) + 1 / (k + 2))
    world.catalogue.defaults(ranker=Weighted(dense_weight=0), top_k=1)
    world.directory.forget("default", "kb")
    assert ids(await world.search("foxes")) == ["b0"]
    assert ids(await world.search("foxes", top_k=2, ranker=Weighted(dense_weight=1))) == ["a0", "b0"]


async def test_equal_scores_are_ordered_by_id(world: World) -> None:
    await put(world.store, *[(d, 0, "the very same text") for d in "hbdagcfe"])
    for mode in SearchMode:
        for top_k in (1, 3, 8):
            assert ids(await world.search("same text", mode=mode, top_k=top_k)) == [
                f"{d}0" for d in "abcdefgh"[:top_k]
            ]


async def test_few_similar_chunks_need_no_longer_lists(world: World) -> None:
    await put_many(world, 40)
    for mode in (SearchMode.DENSE, SearchMode.HYBRID):
        world.store.calls.clear()
        result = await world.search("nothing like it", top_k=4, mode=mode, min_similarity=0.95)
        assert (result.outcome, len(result.hits)) == (Outcome.EMPTY, 0)
        assert len(calls(world, "search_dense")) == 1


async def test_minimum_similarity_holds_for_what_words_found(world: World) -> None:
    long = "zebra " + " ".join(f"filler{n}" for n in range(30))
    await put(world.store, ("near", 0, "zebra"), ("far", 0, long))
    loose = await world.search("zebra", top_k=2)
    assert sorted(ids(loose)) == ["far0", "near0"]
    strict = await world.search("zebra", top_k=2, min_similarity=0.9)
    assert (strict.outcome, ids(strict)) == (Outcome.OK, ["near0"])
    assert strict.hits[0].similarity == pytest.approx(1)
    # Found by words alone: its similarity comes from its vector.
    await put(world.store, *[("z", n, "zebra") for n in range(8)])
    kept = await world.search("filler3", top_k=1, min_similarity=-1)
    assert kept.hits[0].id == "far0"
    assert kept.hits[0].similarity is not None
    assert kept.hits[0].vector is None  # not carried further than it is needed
    none = await world.search("zebra", mode=SearchMode.DENSE, min_similarity=0.9999, filter=None, top_k=1)
    assert none.hits[0].similarity == pytest.approx(1)


async def test_minimum_similarity_of_the_request_then_of_the_knowledge_base(world: World) -> None:
    await put(world.store, ("near", 0, "zebra"), ("far", 0, "zebra " + " ".join("abcdefghijklmnop")))
    world.catalogue.defaults(min_similarity=0.9)
    for mode in (SearchMode.DENSE, SearchMode.HYBRID):
        assert ids(await world.search("zebra", mode=mode)) == ["near0"]
        assert sorted(ids(await world.search("zebra", mode=mode, min_similarity=-1))) == ["far0", "near0"]


async def test_minimum_similarity_that_cannot_count_is_said(world: World) -> None:
    await put(world.store, ("a", 0, "zebra"))
    world.embedder.error = DOWN
    result = await world.search("zebra", min_similarity=0.9)
    assert (ids(result), codes(result)) == (["a0"], [ReasonCode.EMBEDDING_UNAVAILABLE])
    assert "min_similarity could not count" in result.reasons[0].message


async def test_copies_give_way(world: World) -> None:
    await put(
        world.store,
        *[("copy", n, "red foxes hunt at night") for n in range(4)],
        ("other", 0, "red foxes sleep by day"),
    )
    assert ids(await world.search("red foxes hunt", top_k=2)) == ["copy0", "copy1"]
    assert ids(await world.search("red foxes hunt", top_k=2, relevance_weight=0.5)) == ["copy0", "other0"]
    assert ids(await world.search("red foxes hunt", top_k=2, relevance_weight=1.0)) == ["copy0", "copy1"]


async def test_a_document_that_fills_the_lists_leaves_room_for_others(world: World) -> None:
    await put_many(world, 60, document="long")
    await put(world.store, ("b", 0, "fox " + "lake " * 60), ("c", 0, "fox " + "hill " * 60))
    every = await world.search("fox", top_k=3)
    assert {hit.document for hit in every.hits} == {"long"}
    result = await world.search("fox", top_k=3, max_per_document=1)
    assert {hit.document for hit in result.hits} == {"long", "b", "c"}
    limits = [asked["limit"] for asked in calls(world, "search_dense")]
    assert limits == [13, 13, 49, 193]  # one more than is needed tells whether it ends with equal scores
    world.store.fails_after = 1
    short = await world.search("fox", top_k=3, max_per_document=1)
    assert (short.outcome, codes(short)) == (Outcome.DEGRADED, [ReasonCode.STORE_UNAVAILABLE])
    assert {hit.document for hit in short.hits} == {"long"}
    world.store.fails_after = None
    reranked = await world.search("lake", top_k=2, max_per_document=1, rerank=RERANK)
    assert {hit.document for hit in reranked.hits} > {"b"}


async def test_neighbours_come_in_one_call(world: World) -> None:
    rows = [("d", n, "zebra" if n in (4, 5, 9) else f"word{n}") for n in range(10)]
    await put(world.store, *rows)
    fields: dict[str, Any] = {"neighbours": 2, "mode": SearchMode.SPARSE}
    result = await world.search("zebra", **fields)
    assert ids(result) == ["d4", "d5", "d9"]
    assert {id_: [n.id for n in beside] for id_, beside in result.neighbours.items()} == {
        "d4": ["d2", "d3"],
        "d5": ["d6", "d7"],
        "d9": ["d8"],
    }
    assert len(calls(world, "chunks_at")) == 1
    assert not (await world.search("zebra")).neighbours
    world.store.errors["chunks_at"] = DOWN
    without = await world.search("zebra", **fields)
    assert (ids(without), without.neighbours) == (ids(result), {})
    assert (without.outcome, codes(without)) == (Outcome.DEGRADED, [ReasonCode.STORE_UNAVAILABLE])
    assert "without their neighbours" in without.reasons[0].message


async def test_filter(world: World) -> None:
    await put(world.store, ("old", 0, "foxes"), year=1990)
    await put(world.store, ("new", 0, "foxes"), year=2020)
    for mode in SearchMode:
        result = await world.search("foxes", mode=mode, filter=Compare("year", Operator.GREATER, 2000))
        assert (ids(result), dict(result.hits[0].metadata)) == (["new0"], {"year": 2020})
    with pytest.raises(InvalidArgument) as caught:
        await world.search("foxes", filter=Compare("colour", Operator.EQUAL, "red"))
    assert "colour" in str(caught.value)


@pytest.mark.parametrize(
    ("failing", "left"), [("search_dense", SearchMode.SPARSE), ("search_sparse", SearchMode.DENSE)]
)
async def test_one_kind_of_list_that_fails_is_given_up(world: World, failing: str, left: SearchMode) -> None:
    await put_many(world, 5)
    world.store.errors[failing] = DOWN
    result = await world.search("fox word4")
    assert (result.outcome, codes(result)) == (Outcome.DEGRADED, [ReasonCode.STORE_UNAVAILABLE])
    assert ids(result) == ids(await world.search("fox word4", mode=left))
    world.store.errors[failing] = DeadlineExceeded("late", reason="DEADLINE_TOO_SHORT")
    assert codes(await world.search("fox word4")) == [ReasonCode.DEADLINE]
    alone = SearchMode.DENSE if failing == "search_dense" else SearchMode.SPARSE
    failed = await world.search("fox word4", mode=alone)
    assert (failed.outcome, failed.hits) == (Outcome.FAILED, ())


async def test_rerank_orders_the_best(world: World) -> None:
    await put_many(world, 40)
    plain = await world.search("fox word35 word20", top_k=2)
    result = await world.search("fox word35 word20", top_k=2, rerank=RERANK)
    model, query, passages = world.reranker.asked[0]
    assert (model, query, len(passages)) == ("models/r", "fox word35 word20", 8)
    assert (result.outcome, ids(result) != ids(plain)) == (Outcome.OK, True)
    assert [hit.score for hit in result.hits] == sorted((hit.score for hit in result.hits), reverse=True)
    assert result.hits[0].score > 1  # the model's own
    assert "rerank" in result.stages
    assert "rerank" not in plain.stages
    await world.search("fox", top_k=2, rerank=Rerank(model="models/r", candidates=30))
    assert len(world.reranker.asked[-1][2]) == 30
    await world.search("fox", top_k=20, rerank=Rerank(model="models/r", candidates=3))
    assert len(world.reranker.asked[-1][2]) == 20  # as many as are given back


async def test_rerank_of_the_knowledge_base_can_be_left_out(world: World) -> None:
    await put_many(world, 4)
    world.catalogue.defaults(rerank=RERANK)
    await world.search("fox", rerank_off=True)
    assert not world.reranker.asked
    await world.search("fox")
    await world.search("fox", rerank=Rerank(model="models/other"))
    assert [model for model, _, _ in world.reranker.asked] == ["models/r", "models/other"]
    assert ids(await world.search("zebra", mode=SearchMode.SPARSE)) == []  # nothing to rerank
    assert len(world.reranker.asked) == 2


async def test_without_its_model_the_order_is_that_of_the_search(world: World) -> None:
    await put_many(world, 40)
    plain = await world.search("fox word9", top_k=3)
    world.reranker.error = Unavailable("away", reason="MODEL_UNAVAILABLE")
    result = await world.search("fox word9", top_k=3, rerank=RERANK)
    assert (result.outcome, codes(result)) == (Outcome.DEGRADED, [ReasonCode.RERANK_UNAVAILABLE])
    assert (ids(result), result.hits[0].score) == (ids(plain), plain.hits[0].score)
    assert "away" in result.reasons[0].message
    assert "order is that of the search" in result.reasons[0].message


async def test_a_rerank_model_that_is_not_there(world: World) -> None:
    await put_many(world, 3)
    world.reranker.error = NotFound("models/r does not exist", reason="MODEL_NOT_FOUND")
    with pytest.raises(NotFound):  # the request's own mistake
        await world.search("fox", rerank=RERANK)
    world.catalogue.defaults(rerank=RERANK)
    world.directory.forget("default", "kb")
    result = await world.search("fox")
    assert (result.outcome, codes(result)) == (Outcome.DEGRADED, [ReasonCode.RERANK_UNAVAILABLE])


async def within(world: World, seconds: float, **fields: Any) -> SearchResult:
    with scope(caller=CALLER, timeout=timedelta(seconds=seconds)):
        return await world.search("fox word9", rerank=RERANK, **fields)


async def test_little_time_halves_what_is_reranked_and_then_gives_it_up(world: World) -> None:
    await put_many(world, 40)
    plain = await world.search("fox word9", top_k=4)
    world.reranker.takes = 0.1
    assert codes(await within(world, 60, top_k=4)) == []  # 16 passages: now the pace is known
    halved = await within(world, 1.5, top_k=4)
    assert (halved.outcome, codes(halved)) == (Outcome.DEGRADED, [ReasonCode.DEADLINE])
    assert len(world.reranker.asked[-1][2]) == 8
    assert "the best 8 were" in halved.reasons[0].message
    asked = len(world.reranker.asked)
    given_up = await within(world, 0.3, top_k=4)
    assert (codes(given_up), len(world.reranker.asked)) == ([ReasonCode.DEADLINE], asked)
    assert ids(given_up) == ids(plain)
    # It may be quicker by now.
    world.reranker.takes = 0.0
    world.clock.advance(timedelta(seconds=31))
    assert codes(await within(world, 0.9, top_k=4)) == []


async def test_rerank_has_its_part_of_the_time(world: World) -> None:
    await put_many(world, 10)
    world.reranker.error = DeadlineExceeded("late", reason="DEADLINE_TOO_SHORT")
    result = await within(world, 2)
    assert timedelta(seconds=1) < world.reranker.timeouts[-1] <= timedelta(seconds=1.6)
    assert (result.outcome, codes(result)) == (Outcome.DEGRADED, [ReasonCode.DEADLINE])
    assert len(result.hits) == 8
    result = await within(world, 100)  # then it is the model that is too slow
    assert world.reranker.timeouts[-1] == timedelta(seconds=10)
    assert codes(result) == [ReasonCode.RERANK_UNAVAILABLE]


async def test_all_of_it_without_keyword_search(world: World) -> None:
    world.store = FlakyStore(sparse=False)
    await put_many(world, 40)
    result = await world.search(
        "fox",
        more_texts=("word9",),
        top_k=3,
        min_similarity=-0.5,
        rerank=RERANK,
        relevance_weight=0.7,
        max_per_document=2,
        neighbours=1,
    )
    assert (result.outcome, codes(result)) == (Outcome.DEGRADED, [ReasonCode.SPARSE_UNSUPPORTED])
    assert len(result.hits) == 2
    assert "rerank" in result.stages
