"""The first stages of a search: the queries' vectors, and the lists that the store finds."""

import asyncio
from collections.abc import Awaitable, Sequence
from datetime import timedelta

import numpy as np

from retrieval.core.candidates import Found
from retrieval.core.index import for_limit
from retrieval.core.model import Hit, KnowledgeBase, ReasonCode, SearchMode, Vectors
from retrieval.core.ports import Embedder, VectorStore
from retrieval.core.search_plan import Plan
from retrieval.core.search_progress import CouldNotLookError, Progress
from servicekit.context import remaining_s
from servicekit.errors import DeadlineExceeded, InvalidArgument, ServiceError

# The embedding may take this part of the time that is left; the rest is the store's.
_EMBEDDING_SHARE = 0.6
_ONLY_VECTORS = "only vectors were compared"

Lists = Sequence[Sequence[Hit]]


class Lookup:
    """Embeds once and asks the store once for each kind of list.

    Args:
        hybrid_budget: With less time than this, only vectors are compared.
        embedding_timeout: Of the queries, when the deadline is not shorter.
    """

    def __init__(
        self,
        *,
        store: VectorStore,
        embedder: Embedder,
        hybrid_budget: timedelta,
        embedding_timeout: timedelta,
    ) -> None:
        self._store = store
        self._embedder = embedder
        self._hybrid_budget_s = hybrid_budget.total_seconds()
        self._embedding_timeout_s = embedding_timeout.total_seconds()

    async def prepare(self, plan: Plan, progress: Progress) -> tuple[SearchMode, Vectors | None]:
        """The mode that can be had now, and the queries' vectors if it compares vectors.

        Raises:
            CouldNotLookError: None can.
            InvalidArgument: The request's vector has another dimension.
        """
        try:
            sparse = (await self._store.capabilities()).sparse
        except ServiceError as error:
            progress.store_failed(error)
            raise CouldNotLookError from error
        mode = plan.mode
        if mode != SearchMode.DENSE and not sparse:
            progress.give_up(
                ReasonCode.SPARSE_UNSUPPORTED,
                "the deployed Milvus has no keyword search (BM25 needs Milvus 2.5 or Lite 3)",
                instead=_ONLY_VECTORS,
            )
            mode = SearchMode.DENSE
        if mode == SearchMode.SPARSE:
            return mode, None
        queries = await self._vectors(plan, progress)
        if queries is None:
            if not sparse:
                raise CouldNotLookError
            return SearchMode.SPARSE, None
        left_s = remaining_s()
        if mode == SearchMode.HYBRID and left_s is not None and left_s < self._hybrid_budget_s:
            progress.give_up(
                ReasonCode.DEADLINE,
                f"only {max(0, round(left_s * 1000))} ms were left, too few for keyword search",
                instead=_ONLY_VECTORS,
            )
            mode = SearchMode.DENSE
        return mode, queries

    async def lists(
        self, plan: Plan, mode: SearchMode, queries: Vectors | None, limit: int, progress: Progress
    ) -> Found:
        """What the store finds, both kinds side by side. One kind that fails is given up.

        Raises:
            CouldNotLookError: Nothing came back.
        """
        place = plan.knowledge_base.place
        dense: Lists | ServiceError = ()
        sparse: Lists | ServiceError = ()
        with progress.stage("vector_search"):
            by_meaning = by_words = None
            if queries is not None:
                by_meaning = self._store.search_dense(
                    place,
                    queries,
                    limit=limit,
                    filter=plan.filter,
                    search_params=for_limit(plan.search_params, limit),
                    with_vectors=plan.vectors_by_meaning,
                )
            if mode != SearchMode.DENSE:
                by_words = self._store.search_sparse(
                    place, plan.texts, limit=limit, filter=plan.filter, with_vectors=plan.vectors_by_words
                )
            if by_meaning is None or by_words is None:  # a task costs more than nothing
                dense = () if by_meaning is None else await _or_error(by_meaning)
                sparse = () if by_words is None else await _or_error(by_words)
            else:
                async with asyncio.TaskGroup() as group:
                    other = group.create_task(_or_error(by_words))
                    dense = await _or_error(by_meaning)
                sparse = other.result()
        if isinstance(dense, ServiceError):
            if by_words is None or isinstance(sparse, ServiceError):
                progress.store_failed(dense)
                raise CouldNotLookError from dense
            progress.store_failed(dense, instead=only_words(plan))
            return Found(dense=(), sparse=sparse, queries=None)
        if isinstance(sparse, ServiceError):
            if by_meaning is None:
                progress.store_failed(sparse)
                raise CouldNotLookError from sparse
            progress.store_failed(sparse, instead=_ONLY_VECTORS)
            sparse = ()
        return Found(dense=dense, sparse=sparse, queries=queries)

    async def _vectors(self, plan: Plan, progress: Progress) -> Vectors | None:
        """Vectors of the knowledge base's own model, of length 1, or None and the reason."""
        kb, query = plan.knowledge_base, plan.query
        given: Vectors | None = None
        texts = plan.texts
        # One of another model is not looked at: comparing it would be silently wrong.
        if query.vector is not None and query.model_fingerprint == kb.model_fingerprint:
            _check_dimension(query.vector, kb)
            given = (query.vector / np.linalg.norm(query.vector))[np.newaxis]
            texts = texts[1:]
            if not texts:
                return given
        instead = only_words(plan) if given is None else "the other queries were compared by words only"
        try:
            with progress.stage("embedding"):
                embedded = await self._embedder.embed_queries(
                    kb.spec.embedding_model, texts, timeout=self._embedding_timeout()
                )
        except (TimeoutError, DeadlineExceeded):
            progress.give_up(
                ReasonCode.DEADLINE,
                "the query could not be embedded in the time that was left",
                instead=instead,
            )
            return given
        except ServiceError as error:
            progress.give_up(
                ReasonCode.EMBEDDING_UNAVAILABLE,
                f"the query could not be embedded ({error.message})",
                instead=instead,
            )
            return given
        if embedded.fingerprint != kb.model_fingerprint:
            progress.give_up(
                ReasonCode.MODEL_CHANGED,
                f"{kb.spec.embedding_model} makes other vectors than when the documents were indexed: create "
                f"{kb.name} again with the same fields to index them anew",
                instead=instead,
            )
            return given
        return embedded.vectors if given is None else np.concatenate([given, embedded.vectors])

    def _embedding_timeout(self) -> timedelta:
        left_s = remaining_s()
        if left_s is None:
            return timedelta(seconds=self._embedding_timeout_s)
        return timedelta(seconds=min(self._embedding_timeout_s, max(0.0, left_s) * _EMBEDDING_SHARE))


def only_words(plan: Plan) -> str:
    """What is done without vectors."""
    without = " and min_similarity could not count" if plan.query.min_similarity is not None else ""
    return f"only words were compared{without}"


async def _or_error(lists: Awaitable[list[list[Hit]]]) -> Lists | ServiceError:
    try:
        return await lists
    except ServiceError as error:
        return error


def _check_dimension(vector: Vectors, kb: KnowledgeBase) -> None:
    if len(vector) != kb.dimension:
        raise InvalidArgument(
            f"query_vector has {len(vector)} elements, {kb.name} has vectors of {kb.dimension}",
            reason="DIMENSION_MISMATCH",
            metadata={"actual": str(len(vector)), "expected": str(kb.dimension), "knowledge_base": kb.name},
        )
