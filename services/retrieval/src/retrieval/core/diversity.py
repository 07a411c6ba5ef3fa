"""Maximal marginal relevance: what says the same gives way. Pure."""

from collections.abc import Sequence

import numpy as np

from retrieval.core.model import Vectors


def diverse(relevance: Sequence[float], vectors: Vectors, weight: float, *, count: int) -> list[int]:
    """Positions in the order of choice: each time the one with the most of

        weight * relevance - (1 - weight) * likeness

    where relevance is brought to 0..1 over all candidates (a reranker's or BM25's
    score has no bounds of its own), and likeness is the highest cosine to one
    that was chosen before. Equal ones keep their order.

    Args:
        relevance: Of each candidate, in their present order; the first is always chosen first.
        vectors: Of each candidate, a row of length 1.
        weight: 1 keeps the order, 0 looks at likeness only.
        count: How many to choose; there are fewer if there are fewer candidates.
    """
    total = len(relevance)
    count = min(count, total)
    if not count:
        return []
    scores = np.asarray(relevance, dtype=np.float64)
    span = scores.max() - scores.min()
    scores = (scores - scores.min()) / span if span > 0 else np.ones(total)
    likeness = np.full(total, -1.0)
    open_ = np.ones(total, dtype=bool)
    chosen = [0]
    while len(chosen) < count:
        last = chosen[-1]
        open_[last] = False
        np.maximum(likeness, vectors @ vectors[last], out=likeness)
        # Rounded: the same text has the same vector but for noise.
        gain = np.round(weight * scores - (1 - weight) * likeness, 6)
        chosen.append(int(np.argmax(np.where(open_, gain, -np.inf))))
    return chosen
