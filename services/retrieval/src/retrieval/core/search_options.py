"""How a search is made: what a request or a knowledge base may say about it."""

from dataclasses import dataclass

DEFAULT_TOP_K = 8
MAX_TOP_K = 100
DEFAULT_RRF_K = 60
MAX_RRF_K = 1000
MAX_RERANK_CANDIDATES = 256  # passages of one call of the rerank service
MAX_MORE_QUERIES = 7
MAX_PER_DOCUMENT = 100
MAX_NEIGHBOURS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class ReciprocalRank:
    """Fuses by the sum of 1 / (k + rank)."""

    k: int = DEFAULT_RRF_K


@dataclass(frozen=True, slots=True, kw_only=True)
class Weighted:
    """Fuses by the weighted sum of scores: `dense_weight` for vectors, the rest for words."""

    dense_weight: float


Ranker = ReciprocalRank | Weighted


@dataclass(frozen=True, slots=True, kw_only=True)
class Rerank:
    """A second look at the best.

    Attributes:
        model: Such as models/rerank.
        candidates: How many are looked at; 0: 4 times top_k.
    """

    model: str
    candidates: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchDefaults:
    """How a knowledge base is searched unless a search says otherwise."""

    top_k: int = DEFAULT_TOP_K
    ranker: Ranker = ReciprocalRank()
    rerank: Rerank | None = None
    min_similarity: float | None = None
