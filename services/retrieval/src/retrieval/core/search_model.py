"""What a search is asked and what it answers."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from retrieval.core.filters import Filter
from retrieval.core.model import Hit, Outcome, ReasonCode, SearchMode, Vectors
from retrieval.core.search_options import Ranker, Rerank


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchQuery:
    """What to look for, where, and how. None: as the knowledge base says.

    Attributes:
        text: What to look for.
        more_texts: Other ways to say the same.
        vector: That of `text`, if the caller has it.
        model_fingerprint: Of the model that made the vector.
        min_similarity: Chunks below it are left out where vectors are compared.
        relevance_weight: Of maximal marginal relevance; None: off.
        max_per_document: 0: no bound.
        neighbours: On each side.
        owner_tenant: Whose knowledge base; empty: the caller's.
    """

    knowledge_base: str
    text: str
    more_texts: tuple[str, ...] = ()
    vector: Vectors | None = None
    model_fingerprint: str = ""
    top_k: int | None = None
    mode: SearchMode | None = None
    min_similarity: float | None = None
    filter: Filter | None = None
    ranker: Ranker | None = None
    rerank: Rerank | None = None
    rerank_off: bool = False
    relevance_weight: float | None = None
    max_per_document: int = 0
    neighbours: int = 0
    owner_tenant: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """Why a search was degraded or failed."""

    code: ReasonCode
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """What a search found, and how it went.

    Attributes:
        neighbours: Of hits that have any, by the hit's id.
        stages: Seconds by stage.
    """

    outcome: Outcome
    reasons: tuple[Reason, ...]
    hits: tuple[Hit, ...]
    revision: int
    ready_documents: int
    neighbours: Mapping[str, tuple[Hit, ...]] = field(default_factory=dict)
    stages: Mapping[str, float] = field(default_factory=dict)
