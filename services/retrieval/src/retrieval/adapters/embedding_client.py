"""The embedding service, as the core sees it."""

from collections.abc import Sequence
from datetime import timedelta

import numpy as np
from agentteams.embedding.v1 import embedding_service_pb2 as pb
from agentteams.embedding.v1.embedding_service_pb2_grpc import EmbeddingServiceStub

from retrieval.core.model import Embedded, ModelInfo
from servicekit.client import RpcClient
from servicekit.errors import Unavailable


class EmbeddingClient:
    """See `Embedder`.

    Args:
        rpc: Calls as the current caller.
        passages_timeout: Of one batch of passages.
    """

    def __init__(self, rpc: RpcClient, *, passages_timeout: timedelta = timedelta(seconds=120)) -> None:
        self._rpc = rpc
        self._stub = EmbeddingServiceStub(rpc.channel)
        self._passages_timeout = passages_timeout

    async def describe(self, model: str) -> ModelInfo:
        """What the model makes."""
        answer = await self._rpc.unary(self._stub.GetEmbeddingModel, pb.GetEmbeddingModelRequest(name=model))
        return ModelInfo(
            dimension=answer.dimension,
            fingerprint=answer.fingerprint,
            max_input_tokens=answer.max_input_tokens,
        )

    async def embed_queries(
        self, model: str, texts: Sequence[str], *, timeout: timedelta | None = None
    ) -> Embedded:
        """Questions, in one call."""
        return await self._embed(model, texts, pb.TEXT_KIND_QUERY, timeout)

    async def embed_passages(self, model: str, texts: Sequence[str]) -> Embedded:
        """Passages."""
        return await self._embed(model, texts, pb.TEXT_KIND_PASSAGE, self._passages_timeout)

    async def _embed(
        self, model: str, texts: Sequence[str], kind: pb.TextKind.ValueType, timeout: timedelta | None
    ) -> Embedded:
        request = pb.EmbedRequest(model=model, kind=kind, texts=texts)
        answer = await self._rpc.unary(self._stub.Embed, request, timeout=timeout)
        expected = 4 * answer.dimension * len(texts)
        if answer.dimension <= 0 or len(answer.vectors) != expected:
            raise Unavailable(
                f"the embedding service sent {len(answer.vectors)} bytes for {len(texts)} vectors "
                f"of {answer.dimension} elements, {expected} are right",
                reason="MODEL_BAD_RESPONSE",
                metadata={"model": model},
            )
        vectors = np.frombuffer(answer.vectors, dtype="<f4").reshape(len(texts), answer.dimension)
        return Embedded(
            vectors=vectors,
            fingerprint=answer.model_fingerprint,
            truncated=tuple(answer.truncated_indexes),
        )
