"""What one search does: the request, and the knowledge base where the request says nothing. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from retrieval.core.candidates import SPARE
from retrieval.core.filters import Filter, checked
from retrieval.core.model import KnowledgeBase, SearchMode, Snapshot
from retrieval.core.search_model import SearchQuery
from retrieval.core.search_options import MAX_RERANK_CANDIDATES, Ranker, Rerank


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A search with every choice made.

    Attributes:
        texts: All queries, each once, the main one first.
        rerank: With the number of candidates.
        query: The request, with the knowledge base's minimum similarity if it has none of its own.
        search_params: Of the index: prescribed, else tuned; empty: the store's own.
    """

    knowledge_base: KnowledgeBase
    search_params: Mapping[str, int]
    query: SearchQuery
    texts: tuple[str, ...]
    mode: SearchMode
    top_k: int
    filter: Filter | None
    ranker: Ranker
    rerank: Rerank | None

    @classmethod
    def of(cls, snapshot: Snapshot, query: SearchQuery) -> "Plan":
        """The request's own words first.

        Raises:
            InvalidArgument: The filter does not fit the knowledge base's metadata.
        """
        knowledge_base = snapshot.knowledge_base
        defaults = knowledge_base.spec.search_defaults
        top_k = query.top_k or defaults.top_k
        if query.min_similarity is None:
            query = replace(query, min_similarity=defaults.min_similarity)
        rerank = None if query.rerank_off else query.rerank or defaults.rerank
        if rerank is not None:
            wanted = rerank.candidates or SPARE * top_k
            rerank = Rerank(model=rerank.model, candidates=min(max(wanted, top_k), MAX_RERANK_CANDIDATES))
        return cls(
            knowledge_base=knowledge_base,
            search_params=knowledge_base.spec.index.search_params or snapshot.search_params,
            query=query,
            texts=tuple(dict.fromkeys((query.text, *query.more_texts))),
            mode=query.mode or knowledge_base.spec.search_mode,
            top_k=top_k,
            filter=None
            if query.filter is None
            else checked(query.filter, knowledge_base.spec.metadata_fields),
            ranker=query.ranker or defaults.ranker,
            rerank=rerank,
        )

    def per_list(self, mode: SearchMode) -> int:
        """Chunks that each list should have: more than are given back if a later stage chooses."""
        query = self.query
        chosen = (
            mode == SearchMode.HYBRID
            or len(self.texts) > 1
            or query.max_per_document
            or query.relevance_weight is not None
        )
        least = SPARE * self.top_k if chosen else self.top_k
        return least if self.rerank is None else max(least, self.rerank.candidates)

    @property
    def vectors_by_meaning(self) -> bool:
        """Whether chunks found by vectors come with theirs."""
        query = self.query
        return query.relevance_weight is not None or (
            query.min_similarity is not None and len(self.texts) > 1
        )

    @property
    def vectors_by_words(self) -> bool:
        """Whether chunks found by words come with their vectors."""
        return self.query.relevance_weight is not None or self.query.min_similarity is not None
