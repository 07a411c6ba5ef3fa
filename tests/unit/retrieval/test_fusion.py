"""Properties of the pure stages: fusing, choosing what differs, grouping, neighbours."""

import itertools
import math
import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.core.candidates import whole
from retrieval.core.diversity import brought_to, diverse
from retrieval.core.fusion import Ranking, fuse, in_order, normalised
from retrieval.core.grouping import at_most
from retrieval.core.model import Hit
from retrieval.core.neighbours import given_out, wanted
from retrieval.core.search_options import Ranker, ReciprocalRank, Weighted

IDS = st.text("abcdefgh", min_size=1, max_size=2)
COSINES = st.integers(-100, 100).map(lambda n: n / 100)
BM25 = st.integers(1, 4000).map(lambda n: n / 100)


@st.composite
def rankings(draw: st.DrawFn) -> list[Ranking]:
    made = []
    for by_words in draw(st.lists(st.booleans(), min_size=1, max_size=5)):
        scores = draw(st.dictionaries(IDS, BM25 if by_words else COSINES, max_size=8))
        made.append(Ranking(in_order(scores.items()), by_words))
    return made


RANKERS: st.SearchStrategy[Ranker] = st.one_of(
    st.integers(1, 1000).map(lambda k: ReciprocalRank(k=k)),
    st.integers(0, 10).map(lambda n: Weighted(dense_weight=n / 10)),
)


def hit(document: str, ordinal: int) -> Hit:
    return Hit(
        id=f"{document}-{ordinal}",
        document=document,
        title=document,
        ordinal=ordinal,
        text="t",
        location="",
        score=0.0,
    )


@given(rankings(), RANKERS)
def test_each_id_once_and_the_best_first(lists: list[Ranking], ranker: Ranker) -> None:
    fused = fuse(lists, ranker)
    assert {id_ for id_, _ in fused} == {id_ for ranking in lists for id_, _ in ranking.scored}
    assert len(fused) == len(dict(fused))
    assert fused == sorted(fused, key=lambda item: (-item[1], item[0]))


@given(rankings(), RANKERS, st.randoms(use_true_random=False))
def test_neither_the_order_of_lists_nor_of_equal_scores_matters(
    lists: list[Ranking], ranker: Ranker, rng: random.Random
) -> None:
    shuffled = [Ranking(rng.sample(list(r.scored), len(r.scored)), r.by_words) for r in lists]
    rng.shuffle(shuffled)
    assert fuse(shuffled, ranker) == fuse(lists, ranker)


@given(rankings(), RANKERS)
def test_what_is_better_in_every_list_is_better(lists: list[Ranking], ranker: Ranker) -> None:
    scores = [dict(ranking.scored) for ranking in lists]
    fused = dict(fuse(lists, ranker))
    for (one, better), (other, worse) in itertools.permutations(fused.items(), 2):
        if all(one in s and s[one] > s.get(other, -math.inf) for s in scores):
            assert better >= worse


def test_reciprocal_rank_by_hand() -> None:
    dense = Ranking([("a", 0.9), ("b", 0.8)], by_words=False)
    words = Ranking([("b", 12.0), ("c", 3.0)], by_words=True)
    assert fuse([dense, words], ReciprocalRank(k=60)) == [
        ("b", 1 / 62 + 1 / 61),
        ("a", 1 / 61),
        ("c", 1 / 62),
    ]
    assert [id_ for id_, _ in fuse([dense, words], ReciprocalRank(k=1))] == ["b", "a", "c"]


def test_weighted_by_hand() -> None:
    dense = Ranking([("a", 0.9), ("b", 0.8), ("c", 0.7)], by_words=False)
    words = Ranking([("b", 12.0), ("d", 3.0)], by_words=True)
    fused = dict(fuse([dense, words], Weighted(dense_weight=0.6)))
    assert fused == pytest.approx({"a": 0.6, "b": 0.6 * 0.5 + 0.4, "c": 0.0, "d": 0.4 * 0.25})
    assert fuse([dense, words], Weighted(dense_weight=1))[0][0] == "a"
    assert fuse([dense, words], Weighted(dense_weight=0))[0][0] == "b"
    # Three queries by meaning weigh together what one does.
    more = [dense, dense, dense, words]
    assert dict(fuse(more, Weighted(dense_weight=0.6))) == pytest.approx(fused)


@given(rankings())
def test_normalised_scores_are_0_to_1_and_keep_the_order(lists: list[Ranking]) -> None:
    for ranking in lists:
        scores = [score for _, score in normalised(ranking)]
        assert scores == sorted(scores, reverse=True)
        assert all(0 <= score <= 1 for score in scores)
        assert not scores or scores[0] == 1


def test_noise_in_the_last_digits_does_not_order() -> None:
    assert in_order([("b", 0.7000001), ("a", 0.7), ("c", 0.71)]) == [
        ("c", 0.71),
        ("a", 0.7),
        ("b", 0.7000001),
    ]


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 3)), max_size=30), st.integers(1, 30))
def test_a_list_that_is_cut_is_the_same_whichever_of_equal_scores_came(
    scores: list[tuple[int, int]], limit: int
) -> None:
    """Two stores with other noise and another order of equal scores."""
    rows = [(f"{n:02d}", score / 9) for n, (score, _) in enumerate(scores)]
    noise = [other * 2e-7 for _, other in scores]
    one = [(id_, score + more) for (id_, score), more in zip(rows, noise, strict=True)]
    other = [(id_, score - more) for (id_, score), more in zip(reversed(rows), noise, strict=True)]
    lists = []
    for store in (one, other):
        hits = [replace(hit(id_, 0), id=id_, score=score) for id_, score in store]
        hits.sort(key=lambda found: -found.score)
        kept = whole(hits[:limit], limit)
        lists.append([id_ for id_, _ in in_order((found.id, found.score) for found in kept)])
    assert lists[0] == lists[1]


UNIT = st.integers(0, 2**32 - 1).map(np.random.default_rng)


@given(UNIT, st.integers(0, 12), st.integers(0, 10))
def test_diverse_chooses_each_once(rng: np.random.Generator, total: int, tenths: int) -> None:
    drawn = rng.normal(size=(total, 4))
    vectors = (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)
    relevance = sorted(rng.random(total), reverse=True)
    chosen = diverse(relevance, vectors, tenths / 10)
    assert sorted(chosen) == list(range(total))
    assert chosen[:1] == [0][:total]
    assert diverse(relevance, vectors, 1.0) == list(range(total))


def test_diverse_lets_copies_give_way() -> None:
    vectors = np.array([[1, 0], [1, 0], [0.6, 0.8], [0, -1]], dtype=np.float32)
    scores = [0.9, 0.89, 0.8, 0.1]
    assert diverse(scores, vectors, 0.5) == [0, 2, 3, 1]
    assert diverse(scores, vectors, 0.9) == [0, 1, 2, 3]
    assert diverse(scores, vectors, 0.0) == [0, 3, 2, 1]
    assert diverse([0.5] * 4, vectors, 0.5) == [0, 3, 2, 1]


@given(st.lists(st.integers(-99, 99).map(float), min_size=1))
def test_brought_to_keeps_the_order_within_its_span(scores: list[float]) -> None:
    brought = brought_to(scores, 0.2, 0.7)
    assert max(brought) == pytest.approx(0.7)
    assert len(set(scores)) == 1 or min(brought) == pytest.approx(0.2)
    for (one, now), (other, later) in itertools.combinations(zip(scores, brought, strict=True), 2):
        assert (one < other) == (now < later)


@given(st.lists(st.sampled_from("abc")), st.integers(0, 4))
def test_at_most_keeps_the_first_of_each_document(documents: list[str], maximum: int) -> None:
    kept = list(at_most(enumerate(documents), maximum, document=lambda item: item[1]))
    most = maximum or len(documents)
    assert Counter(d for _, d in kept) == {d: min(n, most) for d, n in Counter(documents).items() if n}
    assert kept == sorted(kept)
    for document in set(documents):
        places = [n for n, d in enumerate(documents) if d == document]
        assert [n for n, d in kept if d == document] == places[:most]


HITS = st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 9)), unique=True, max_size=6)


@given(HITS, st.integers(0, 5))
def test_neighbours_come_once_beside_the_nearest_hit(places: list[tuple[str, int]], distance: int) -> None:
    hits = [hit(*place) for place in places]
    owners = wanted(hits, distance)
    stored = [hit(document, ordinal) for document in "ab" for ordinal in range(8)]
    got = given_out(owners, stored)
    flat = [(chunk.document, chunk.ordinal) for chunks in got.values() for chunk in chunks]
    assert len(flat) == len(set(flat))
    assert not set(flat) & set(places)
    for position, chunks in got.items():
        assert [chunk.ordinal for chunk in chunks] == sorted(chunk.ordinal for chunk in chunks)
        for chunk in chunks:
            near = [abs(chunk.ordinal - o) for d, o in places if d == chunk.document]
            assert abs(chunk.ordinal - hits[position].ordinal) == min(near) <= distance
    around = {
        (d, o + step) for d, o in places for step in range(-distance, distance + 1) if 0 <= o + step < 8
    } - set(places)
    assert set(flat) == around
