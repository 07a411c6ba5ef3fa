"""Chunks that were found, on their way to a result. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from retrieval.core.diversity import brought_to, diverse
from retrieval.core.fusion import Ranking, equal, fuse, in_order
from retrieval.core.grouping import at_most
from retrieval.core.model import Hit, Vectors
from retrieval.core.search_options import Ranker

# A later stage chooses among this many times what it keeps.
SPARE = 4


@dataclass(slots=True)
class Candidate:
    """A chunk with what is known of it. `score` is that of the last stage that gave one."""

    hit: Hit
    score: float
    similarity: float | None

    def as_hit(self) -> Hit:
        """For the result."""
        hit = self.hit
        if hit.vector is None and hit.score == self.score and hit.similarity == self.similarity:
            return hit
        return replace(hit, score=self.score, similarity=self.similarity, vector=None)


@dataclass(slots=True)
class Found:
    """What the store found: a list for each query, of each kind. An empty kind was not looked for.

    Attributes:
        queries: The vectors of the queries, a row of length 1 each, if there are any.
    """

    dense: Sequence[Sequence[Hit]]
    sparse: Sequence[Sequence[Hit]]
    queries: Vectors | None


def whole(hits: Sequence[Hit], limit: int) -> Sequence[Hit]:
    """The list without the equal scores that it ends with, if there may be more of them in the store.

    Which of several equal ones come within the limit is the store's whim; without
    them every store gives the same list.
    """
    if len(hits) < limit:
        return hits
    end = len(hits) - 1
    while end and equal(hits[end - 1].score, hits[end].score):
        end -= 1
    return hits[:end]


def ranked(found: Found, ranker: Ranker, *, min_similarity: float | None = None) -> list[Candidate]:
    """One list, the best first, each chunk once.

    A single list keeps its scores. Minimum similarity counts only where vectors
    were compared, and what is below it takes no rank from others.
    """
    similarity = _similarities(found)
    hits: dict[str, Hit] = {}
    rankings = []
    for by_words, lists in ((False, found.dense), (True, found.sparse)):
        for one in lists:
            scored = []
            for hit in one:
                if _near_enough(similarity.get(hit.id), min_similarity, found.queries is not None):
                    hits.setdefault(hit.id, hit)
                    scored.append((hit.id, hit.score))
            rankings.append(Ranking(scored, by_words))
    scored = in_order(rankings[0].scored) if len(rankings) == 1 else fuse(rankings, ranker)
    return [Candidate(hits[id_], score, similarity.get(id_)) for id_, score in scored]


def _near_enough(similarity: float | None, least: float | None, compared: bool) -> bool:
    return least is None or not compared or (similarity is not None and similarity >= least)


def _similarities(found: Found) -> dict[str, float]:
    """Of each chunk the highest cosine to one of the queries, where it is known."""
    if found.queries is None:
        return {}
    known: dict[str, float] = {}
    for one in found.dense:
        for hit in one:
            known[hit.id] = max(hit.score, known.get(hit.id, -1.0))
    # A dense list of one query says all; with several, a chunk may be nearer to a query whose list it missed.
    lists = found.sparse if len(found.queries) == 1 else [*found.dense, *found.sparse]
    vectors = {
        hit.id: hit.vector
        for one in lists
        for hit in one
        if hit.vector is not None and (len(found.queries) > 1 or hit.id not in known)
    }
    if vectors:
        nearest = (np.stack(list(vectors.values())) @ found.queries.T).max(axis=1)
        known.update(zip(vectors, nearest.tolist(), strict=True))
    return known


def shortlist(candidates: Iterable[Candidate], count: int, *, max_per_document: int) -> list[Candidate]:
    """The best, for a stage that orders them anew.

    Of one document there are at most SPARE times what may stay of it, so that
    enough documents are among them.
    """
    kept = at_most(candidates, SPARE * max_per_document, document=_document)
    return [candidate for candidate, _ in zip(kept, range(count), strict=False)]


def differing(candidates: Sequence[Candidate], relevance_weight: float) -> list[Candidate]:
    """In the order of maximal marginal relevance. Their hits have vectors.

    Their scores may be ranks' sums, BM25 or a reranker's: they are brought to the
    span of the candidates' cosines to the query, so that they weigh up with the
    cosines between chunks. Without a query's vector the span is 0 to 1.
    """
    if not candidates:
        return []
    known = [c.similarity for c in candidates if c.similarity is not None]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    relevance = brought_to([candidate.score for candidate in candidates], low, high)
    vectors = np.stack([candidate.hit.vector for candidate in candidates if candidate.hit.vector is not None])
    return [candidates[position] for position in diverse(relevance, vectors, relevance_weight)]


def cut(candidates: Iterable[Candidate], top_k: int, *, max_per_document: int) -> list[Candidate]:
    """The first of them, with at most so many of each document."""
    kept = at_most(candidates, max_per_document, document=_document)
    return [candidate for candidate, _ in zip(kept, range(top_k), strict=False)]


def _document(candidate: Candidate) -> str:
    return candidate.hit.document
