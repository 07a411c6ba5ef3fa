"""One search: what was asked for, or the best that can be had, and an honest word about it.

queries -> vectors -> lists -> minimum similarity -> one list -> rerank -> what
differs -> so many of a document -> top_k -> neighbours
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from retrieval.core.candidates import SPARE, Candidate, Found, cut, differing, ranked, shortlist, whole
from retrieval.core.coverage import Coverage
from retrieval.core.directory import Directory
from retrieval.core.lookup import Lookup
from retrieval.core.model import Hit, KnowledgeBase, Outcome, ReasonCode, SearchMode, Snapshot, Vectors
from retrieval.core.neighbours import given_out, wanted
from retrieval.core.ports import VectorStore
from retrieval.core.reranking import Reranking
from retrieval.core.search_model import SearchQuery, SearchResult
from retrieval.core.search_plan import Plan
from retrieval.core.search_progress import CouldNotLookError, Progress
from retrieval.core.sharing import as_owner, readable
from servicekit.errors import ServiceError

# Where one document or equal scores fill the lists, they are made longer, up to this.
_MAX_PER_LIST = 1024


class Search:
    """Searches.

    Args:
        asked: Told of the vector of every query; must return at once.
    """

    def __init__(
        self,
        *,
        directory: Directory,
        store: VectorStore,
        lookup: Lookup,
        reranking: Reranking,
        coverage: Coverage,
        asked: Callable[[KnowledgeBase, Vectors], None] = lambda *_: None,
    ) -> None:
        self._directory = directory
        self._store = store
        self._lookup = lookup
        self._reranking = reranking
        self._coverage = coverage
        self._asked = asked

    async def run(self, query: SearchQuery) -> SearchResult:
        """Searches as the current caller, another tenant's knowledge base if that allows it.

        Raises:
            NotFound: There is no such knowledge base for the caller, or no such rerank model as the request
                names.
            InvalidArgument: The vector has another dimension, or the filter does not fit the metadata.
        """
        snapshot = await readable(self._directory, query.owner_tenant, query.knowledge_base)
        with as_owner(snapshot.knowledge_base):
            return await self._searched(snapshot, query)

    async def _searched(self, snapshot: Snapshot, query: SearchQuery) -> SearchResult:
        plan = Plan.of(snapshot, query)
        progress = Progress()
        try:
            hits = await self._hits(snapshot, plan, progress)
        except CouldNotLookError:
            return _result(snapshot, Outcome.FAILED, progress)
        neighbours = await self._neighbours(plan, hits, progress) if query.neighbours and hits else {}
        waiting = snapshot.counts.pending + snapshot.counts.indexing
        if waiting:
            progress.give_up(
                ReasonCode.INDEXING,
                f"{waiting} of the documents are still being indexed and cannot be found yet; "
                "ask again in a moment",
            )
        outcome = Outcome.OK if hits else Outcome.EMPTY
        return _result(
            snapshot, Outcome.DEGRADED if progress.degraded else outcome, progress, hits, neighbours
        )

    async def _hits(self, snapshot: Snapshot, plan: Plan, progress: Progress) -> list[Hit]:
        query = plan.query
        mode, queries = await self._lookup.prepare(plan, progress)
        if queries is not None:
            self._asked(plan.knowledge_base, queries[0])
        await self._coverage.look(snapshot, progress)
        candidates = await self._candidates(plan, mode, queries, progress)
        if plan.rerank is not None:
            best = shortlist(candidates, plan.rerank.candidates, max_per_document=query.max_per_document)
            candidates = await self._reranking.run(plan, plan.rerank, best, progress)
        if query.relevance_weight is not None:
            best = shortlist(candidates, SPARE * plan.top_k, max_per_document=query.max_per_document)
            candidates = differing(best, query.relevance_weight)
        kept = cut(candidates, plan.top_k, max_per_document=query.max_per_document)
        return [candidate.as_hit() for candidate in kept]

    async def _candidates(
        self, plan: Plan, mode: SearchMode, queries: Vectors | None, progress: Progress
    ) -> list[Candidate]:
        query = plan.query
        limit = plan.per_list(mode)
        candidates: list[Candidate] = []
        while True:
            try:
                found = await self._lookup.lists(plan, mode, queries, limit + 1, progress)
            except CouldNotLookError:
                if candidates:
                    return candidates  # of the shorter lists
                raise
            longest = limit >= _MAX_PER_LIST
            more = not longest and _more_there(found, limit + 1, query.min_similarity)
            if not longest:
                found = replace(
                    found,
                    dense=[whole(one, limit + 1) for one in found.dense],
                    sparse=[whole(one, limit + 1) for one in found.sparse],
                )
            candidates = ranked(found, plan.ranker, min_similarity=query.min_similarity)
            kept = cut(candidates, plan.top_k, max_per_document=query.max_per_document)
            if len(kept) == plan.top_k or not more:
                return candidates
            limit = min(SPARE * limit, _MAX_PER_LIST)

    async def _neighbours(
        self, plan: Plan, hits: Sequence[Hit], progress: Progress
    ) -> Mapping[str, tuple[Hit, ...]]:
        owners = wanted(hits, plan.query.neighbours)
        places = [(document, tuple(ordinals)) for document, ordinals in owners.items()]
        if not places:
            return {}
        try:
            with progress.stage("vector_search"):
                chunks = await self._store.chunks_at(plan.knowledge_base.place, places)
        except ServiceError as error:
            progress.store_failed(error, instead="the chunks come without their neighbours")
            return {}
        return {hits[position].id: beside for position, beside in given_out(owners, chunks).items()}


def _more_there(found: Found, limit: int, min_similarity: float | None) -> bool:
    """Whether longer lists could have more chunks that may be given back."""
    if min_similarity is None or not found.dense:
        return any(len(one) >= limit for one in (*found.dense, *found.sparse))
    # What is similar enough is in a list by meaning, whoever else finds it.
    return any(len(one) >= limit and one[-1].score >= min_similarity for one in found.dense)


def _result(
    snapshot: Snapshot,
    outcome: Outcome,
    progress: Progress,
    hits: Sequence[Hit] = (),
    neighbours: Mapping[str, tuple[Hit, ...]] | None = None,
) -> SearchResult:
    return SearchResult(
        outcome=outcome,
        reasons=progress.reasons(failed=outcome == Outcome.FAILED),
        hits=tuple(hits),
        revision=snapshot.knowledge_base.revision,
        ready_documents=snapshot.counts.ready,
        neighbours=neighbours or {},
        stages=progress.stages,
    )
