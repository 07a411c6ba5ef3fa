"""Several ranked lists to one. Pure.

Stable: equal scores are ordered by id, so that the same rows give the same
order whichever store found them.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from retrieval.core.search_options import Ranker, ReciprocalRank, Weighted

# Stores compute the same score with other noise in its last digits (float32).
NOISE = 1e-6


@dataclass(frozen=True, slots=True)
class Ranking:
    """One list of a store: ids and scores, the best first.

    Attributes:
        by_words: BM25; else cosine similarity.
    """

    scored: Sequence[tuple[str, float]]
    by_words: bool


def equal(better: float, worse: float) -> bool:
    """Whether a store's scores are the same but for noise."""
    return better - worse <= NOISE * max(1.0, abs(better))


def in_order(scored: Iterable[tuple[str, float]]) -> list[tuple[str, float]]:
    """The highest score first; equal ones, each to the next, by id."""
    ordered = sorted(scored, key=lambda item: -item[1])
    begin = 0
    for end in range(1, len(ordered) + 1):
        if end == len(ordered) or not equal(ordered[end - 1][1], ordered[end][1]):
            if end - begin > 1:
                ordered[begin:end] = sorted(ordered[begin:end])
            begin = end
    return ordered


def fuse(rankings: Sequence[Ranking], ranker: Ranker) -> list[tuple[str, float]]:
    """Ids and fused scores, the best first.

    What is in one list only counts as 0 in the others.
    """
    match ranker:
        case ReciprocalRank(k=k):
            return _reciprocal_rank(rankings, k)
        case Weighted(dense_weight=dense_weight):
            return _weighted(rankings, dense_weight)


def _reciprocal_rank(rankings: Sequence[Ranking], k: int) -> list[tuple[str, float]]:
    parts: defaultdict[str, list[float]] = defaultdict(list)
    for ranking in rankings:
        for rank, (id_, _) in enumerate(in_order(ranking.scored), start=1):
            parts[id_].append(1 / (k + rank))
    return _summed(parts)


def _weighted(rankings: Sequence[Ranking], dense_weight: float) -> list[tuple[str, float]]:
    """Lists of the same kind share their kind's weight."""
    kinds = [ranking.by_words for ranking in rankings]
    parts: defaultdict[str, list[float]] = defaultdict(list)
    for ranking in rankings:
        weight = (1 - dense_weight if ranking.by_words else dense_weight) / kinds.count(ranking.by_words)
        for id_, score in normalised(ranking):
            parts[id_].append(weight * score)
    return _summed(parts)


def normalised(ranking: Ranking) -> list[tuple[str, float]]:
    """The list's scores brought to 0..1, the best of them to 1.

    BM25 is divided by the best score: 0 is what a chunk without the words has.
    Cosines of one model lie close together and never near their bound of -1, so
    the last of the list is 0: as little as those count that did not make it.
    """
    scores = [score for _, score in ranking.scored]
    if not scores:
        return []
    best = max(scores)
    least = 0.0 if ranking.by_words else min(scores)
    if best <= least:
        return [(id_, 1.0) for id_, _ in ranking.scored]
    return [(id_, max(0.0, (score - least) / (best - least))) for id_, score in ranking.scored]


def _summed(parts: dict[str, list[float]]) -> list[tuple[str, float]]:
    # fsum: the sum must not depend on the order of the lists.
    # Full precision: ranks of 1,000 and 1,001 differ in the seventh digit.
    return sorted(
        ((id_, math.fsum(scores)) for id_, scores in parts.items()), key=lambda item: (-item[1], item[0])
    )
