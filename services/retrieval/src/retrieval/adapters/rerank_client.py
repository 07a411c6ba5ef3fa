"""The embedding service's rerank models, as the core sees them."""

import math
from collections.abc import Sequence
from datetime import timedelta

from agentteams.embedding.v1 import rerank_service_pb2 as pb
from agentteams.embedding.v1.rerank_service_pb2_grpc import RerankServiceStub

from servicekit.client import RpcClient
from servicekit.errors import Unavailable


class RerankClient:
    """See `Reranker`. `rpc` calls as the current caller."""

    def __init__(self, rpc: RpcClient) -> None:
        self._rpc = rpc
        self._stub = RerankServiceStub(rpc.channel)

    async def rerank(
        self, model: str, query: str, passages: Sequence[str], *, timeout: timedelta
    ) -> Sequence[float]:
        """One call."""
        request = pb.RerankRequest(model=model, query=query, passages=passages)
        answer = await self._rpc.unary(self._stub.Rerank, request, timeout=timeout)
        scores = answer.scores
        if len(scores) != len(passages) or not all(map(math.isfinite, scores)):
            raise Unavailable(
                f"{model} gave {len(scores)} scores for {len(passages)} passages; each needs a finite one",
                reason="MODEL_BAD_RESPONSE",
                metadata={"model": model},
            )
        return scores
