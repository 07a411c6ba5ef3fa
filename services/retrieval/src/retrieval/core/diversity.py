"""Maximal marginal relevance: what says the same gives way. Pure."""

from collections.abc import Sequence

import numpy as np

from retrieval.core.fusion import NOISE
from retrieval.core.model import Vectors


def brought_to(scores: Sequence[float], low: float, high: float) -> list[float]:
    """The scores on another scale: the least becomes `low`, the best `high`; equal ones all `high`."""
    least, best = min(scores), max(scores)
    if best <= least:
        return [high] * len(scores)
    return [low + (high - low) * (score - least) / (best - least) for score in scores]


def diverse(relevance: Sequence[float], vectors: Vectors, weight: float) -> list[int]:
    """All positions in the order of choice: each time the one with the most of

        weight * relevance - (1 - weight) * likeness

    where likeness is the highest cosine to one that was chosen before. Equal
    ones keep their order.

    Args:
        relevance: Of each candidate, in their present order, on the scale of cosines; the first is
            always chosen first.
        vectors: Of each candidate, a row of length 1.
        weight: 1 keeps the order, 0 looks at likeness only.
    """
    scores = np.asarray(relevance, dtype=np.float64)
    likeness = np.full(len(scores), -1.0)
    open_ = np.ones(len(scores), dtype=bool)
    chosen = [0] if relevance else []
    for _ in range(1, len(scores)):
        last = chosen[-1]
        open_[last] = False
        np.maximum(likeness, vectors @ vectors[last], out=likeness)
        gain = np.where(open_, weight * scores - (1 - weight) * likeness, -np.inf)
        chosen.append(int(np.argmax(gain >= gain.max() - NOISE)))  # the first of the equal ones
    return chosen
