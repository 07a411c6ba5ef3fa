"""The Rerank call, without gRPC."""

from __future__ import annotations

from collections.abc import Sequence

from embedding.core.checks import check_texts, model_name
from embedding.core.models import Rerankers
from embedding.core.ports import RerankResult
from embedding.metrics import RERANK_SECONDS
from servicekit.errors import InvalidArgument


class Reranking:
    """Checks requests and finds the model."""

    def __init__(self, *, models: Rerankers) -> None:
        self._models = models

    async def rerank(self, namespace: str, model: str, query: str, passages: Sequence[str]) -> RerankResult:
        """Scores passages with `models/{model}` of the namespace.

        Raises:
            InvalidArgument: A field is wrong; its violations name it.
            NotFound: MODEL_NOT_FOUND.
            ServiceError: As `Reranker.rerank`.
        """
        name = model_name("model", model)
        if not query or query.isspace():
            raise InvalidArgument.field("query", "must not be empty or only white space", query)
        check_texts(passages, "passages")
        async with self._models.lease(namespace, name) as reranker:
            with RERANK_SECONDS.time():
                return await reranker.rerank(query, passages)
