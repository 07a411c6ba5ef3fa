"""Scores of one ranked list of documents against judgments, as trec_eval defines them.

Forty lines of our own rather than a library in the service: the light one (pytrec_eval) is compiled
and takes whole runs as dictionaries, the others bring numba or pandas. The tests compare with it.
"""

import math
from collections.abc import Collection, Mapping, Sequence

Grades = Mapping[str, int]


def ndcg(ranked: Sequence[str], grades: Grades, *, depth: int) -> float:
    """Normalised discounted cumulative gain: 1 if the best documents come first, best grades before lesser.

    Args:
        ranked: Documents, best first, each once.
        grades: Of the relevant documents, 1 or more; at least one.
    """
    best = sorted(grades.values(), reverse=True)[:depth]
    return _gain([grades.get(document, 0) for document in ranked[:depth]]) / _gain(best)


def recall(ranked: Sequence[str], relevant: Collection[str], *, depth: int) -> float:
    """Part of the relevant documents that is among the first."""
    return sum(document in relevant for document in ranked[:depth]) / len(relevant)


def reciprocal_rank(ranked: Sequence[str], relevant: Collection[str], *, depth: int) -> float:
    """1 / rank of the first relevant document; 0 if none is among the first."""
    for rank, document in enumerate(ranked[:depth], start=1):
        if document in relevant:
            return 1 / rank
    return 0.0


def _gain(grades: Sequence[int]) -> float:
    return sum(grade / math.log2(rank + 1) for rank, grade in enumerate(grades, start=1))
