"""One search: what was asked for, or the best that can be had, and an honest word about it."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta

import numpy as np

from retrieval.core.directory import Directory
from retrieval.core.fusion import Ranking, fuse
from retrieval.core.model import (
    Hit,
    KnowledgeBase,
    Outcome,
    Reason,
    ReasonCode,
    SearchMode,
    SearchQuery,
    SearchResult,
    Snapshot,
    Vectors,
)
from retrieval.core.ports import Embedder, VectorStore
from retrieval.core.search_options import ReciprocalRank
from servicekit.context import current_caller, remaining_s
from servicekit.errors import DeadlineExceeded, InvalidArgument, NotFound, ServiceError
from servicekit.telemetry import stage_seconds

# The embedding may take this part of the time that is left; the rest is the store's.
_EMBEDDING_SHARE = 0.6
_HYBRID_CANDIDATES = 2  # of each kind, times the limit


@dataclass(slots=True)
class _Progress:
    """What a search has learnt so far."""

    reasons: list[Reason] = field(default_factory=list)
    stages: dict[str, float] = field(default_factory=dict)

    def give_up(self, code: ReasonCode, message: str) -> None:
        self.reasons.append(Reason(code=code, message=message))

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            with stage_seconds(name):
                yield
        finally:
            self.stages[name] = self.stages.get(name, 0.0) + time.perf_counter() - started


class _CouldNotLook(Exception):
    """The reasons say why."""


class Search:
    """Searches.

    Args:
        hybrid_budget: With less time than this, only vectors are compared.
        embedding_timeout: Of one query, when the deadline is not shorter.
    """

    def __init__(
        self,
        *,
        directory: Directory,
        store: VectorStore,
        embedder: Embedder,
        hybrid_budget: timedelta,
        embedding_timeout: timedelta,
    ) -> None:
        self._directory = directory
        self._store = store
        self._embedder = embedder
        self._hybrid_budget_s = hybrid_budget.total_seconds()
        self._embedding_timeout_s = embedding_timeout.total_seconds()

    async def run(self, query: SearchQuery) -> SearchResult:
        """Searches as the current caller.

        Raises:
            NotFound: There is no such knowledge base.
            InvalidArgument: The vector has another dimension.
        """
        snapshot = await self._directory.get(current_caller().tenant, query.knowledge_base)
        progress = _Progress()
        try:
            hits = await self._look(snapshot.knowledge_base, query, progress)
        except _CouldNotLook:
            return _result(snapshot, Outcome.FAILED, progress, [])
        waiting = snapshot.counts.pending + snapshot.counts.indexing
        if waiting:
            progress.give_up(
                ReasonCode.INDEXING,
                f"{waiting} of the documents are still being indexed and cannot be found yet; "
                "ask again in a moment",
            )
        if progress.reasons:
            return _result(snapshot, Outcome.DEGRADED, progress, hits)
        return _result(snapshot, Outcome.OK if hits else Outcome.EMPTY, progress, hits)

    async def _look(self, kb: KnowledgeBase, query: SearchQuery, progress: _Progress) -> list[Hit]:
        try:
            sparse = (await self._store.capabilities()).sparse
        except ServiceError as error:
            raise _store_failed(error, progress) from error
        mode = query.mode or kb.spec.search_mode
        if mode != SearchMode.DENSE and not sparse:
            progress.give_up(
                ReasonCode.SPARSE_UNSUPPORTED,
                "the deployed Milvus has no keyword search (BM25 needs Milvus 2.5 or Lite 3); "
                "only vectors were compared",
            )
            mode = SearchMode.DENSE
        vector = None
        if mode != SearchMode.SPARSE:
            vector = await self._vector(kb, query, progress)
            if vector is None:
                if not sparse:
                    raise _CouldNotLook
                mode = SearchMode.SPARSE
        left_s = remaining_s()
        if mode == SearchMode.HYBRID and left_s is not None and left_s < self._hybrid_budget_s:
            progress.give_up(
                ReasonCode.DEADLINE,
                f"only {max(0, round(left_s * 1000))} ms were left, too few for keyword search; "
                "only vectors were compared",
            )
            mode = SearchMode.DENSE
        try:
            with progress.stage("vector_search"):
                return await self._ask_store(kb, query, mode, vector)
        except ServiceError as error:
            raise _store_failed(error, progress) from error

    async def _ask_store(
        self, kb: KnowledgeBase, query: SearchQuery, mode: SearchMode, vector: Vectors | None
    ) -> list[Hit]:
        limit, minimum = query.top_k, query.min_similarity
        if mode == SearchMode.SPARSE or vector is None:
            return (await self._store.search_sparse(kb.place, [query.text], limit=limit))[0]
        vectors = vector.reshape(1, -1)
        if mode == SearchMode.DENSE:
            hits = (await self._store.search_dense(kb.place, vectors, limit=limit))[0]
            return [hit for hit in hits if minimum is None or _similarity(hit, vector) >= minimum]
        candidates = limit * _HYBRID_CANDIDATES
        try:
            async with asyncio.TaskGroup() as both:
                dense = both.create_task(self._store.search_dense(kb.place, vectors, limit=candidates))
                # With a minimum, vectors come along to tell the cosine of each hit.
                sparse = both.create_task(
                    self._store.search_sparse(
                        kb.place, [query.text], limit=candidates, with_vectors=minimum is not None
                    )
                )
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return _fused(dense.result()[0], sparse.result()[0], vector, minimum)[:limit]

    async def _vector(self, kb: KnowledgeBase, query: SearchQuery, progress: _Progress) -> Vectors | None:
        """A vector of the knowledge base's own model, or None and the reason."""
        if query.vector is not None and query.model_fingerprint == kb.model_fingerprint:
            _check_dimension(query.vector, kb)
            return query.vector
        # Without a vector, or with one of another model: comparing it would be silently wrong.
        try:
            with progress.stage("embedding"):
                embedded = await self._embedder.embed_queries(
                    kb.spec.embedding_model, [query.text], timeout=self._embedding_timeout()
                )
        except (TimeoutError, DeadlineExceeded):
            progress.give_up(
                ReasonCode.DEADLINE,
                "the query could not be embedded in the time that was left; only words were compared",
            )
            return None
        except ServiceError as error:
            progress.give_up(
                ReasonCode.EMBEDDING_UNAVAILABLE,
                f"the query could not be embedded ({error.message}); only words were compared",
            )
            return None
        if embedded.fingerprint != kb.model_fingerprint:
            progress.give_up(
                ReasonCode.MODEL_CHANGED,
                f"{kb.spec.embedding_model} makes other vectors than when the documents were indexed; only "
                f"words were compared. Create {kb.name} again with the same fields to index them anew.",
            )
            return None
        vector: Vectors = embedded.vectors[0]
        return vector

    def _embedding_timeout(self) -> timedelta:
        left_s = remaining_s()
        if left_s is None:
            return timedelta(seconds=self._embedding_timeout_s)
        return timedelta(seconds=min(self._embedding_timeout_s, max(0.0, left_s) * _EMBEDDING_SHARE))


def _fused(dense: list[Hit], sparse: list[Hit], vector: Vectors, minimum: float | None) -> list[Hit]:
    found = {hit.id: hit for hit in (*sparse, *dense)}
    rankings = [
        Ranking(scored=[(hit.id, hit.score) for hit in hits], by_words=by_words)
        for hits, by_words in ((dense, False), (sparse, True))
    ]
    return [
        replace(found[id_], score=score)
        for id_, score in fuse(rankings, ReciprocalRank())
        if minimum is None or _similarity(found[id_], vector) >= minimum
    ]


def _similarity(hit: Hit, query: Vectors) -> float:
    if hit.similarity is not None:
        return hit.similarity
    assert hit.vector is not None  # it was asked for
    norm = float(np.linalg.norm(query) * np.linalg.norm(hit.vector))
    return float(query @ hit.vector) / norm if norm else 0.0


def _check_dimension(vector: Vectors, kb: KnowledgeBase) -> None:
    if len(vector) != kb.dimension:
        raise InvalidArgument(
            f"query_vector has {len(vector)} elements, {kb.name} has vectors of {kb.dimension}",
            reason="DIMENSION_MISMATCH",
            metadata={"actual": str(len(vector)), "expected": str(kb.dimension), "knowledge_base": kb.name},
        )


def _store_failed(error: ServiceError, progress: _Progress) -> _CouldNotLook:
    if isinstance(error, DeadlineExceeded):
        progress.give_up(ReasonCode.DEADLINE, "the deadline came before the store answered; allow more time")
    elif isinstance(error, NotFound):
        progress.give_up(
            ReasonCode.STORE_UNAVAILABLE,
            "the collection is missing in Milvus: its data was lost or is another server's. Create the "
            "knowledge base again with the same fields to index its documents anew.",
        )
    else:
        progress.give_up(ReasonCode.STORE_UNAVAILABLE, error.message)
    return _CouldNotLook()


def _result(snapshot: Snapshot, outcome: Outcome, progress: _Progress, hits: list[Hit]) -> SearchResult:
    reasons = progress.reasons
    if outcome == Outcome.FAILED:
        reasons = [
            Reason(code=r.code, message=r.message.replace("; only words were compared", "")) for r in reasons
        ]
    return SearchResult(
        outcome=outcome,
        reasons=tuple(reasons),
        hits=tuple(hits),
        revision=snapshot.knowledge_base.revision,
        ready_documents=snapshot.counts.ready,
        stages=progress.stages,
    )
