"""Vectors from the embedding service."""

from collections.abc import Sequence

import numpy as np
from agentteams.embedding.v1 import embedding_service_pb2 as pb
from agentteams.embedding.v1 import embedding_service_pb2_grpc

from evaluation.core.ports import Embed, Vectors
from manifests.base import model_resource
from servicekit.client import RpcClient
from servicekit.errors import Internal

_FLOAT32 = np.dtype("<f4")
_MOST_TEXTS = 128  # of one call
_MOST_CHARS = 8_000  # of one text: models read less, and cut it


class EmbeddingClient:
    """Embeds with models of the caller's namespace."""

    def __init__(self, rpc: RpcClient) -> None:
        self._rpc = rpc
        self._stub = embedding_service_pb2_grpc.EmbeddingServiceStub(rpc.channel)

    def of(self, model: str) -> Embed:
        """With the model of that name."""

        async def embed(texts: Sequence[str], *, query: bool = False) -> Vectors:
            kind = pb.TEXT_KIND_QUERY if query else pb.TEXT_KIND_PASSAGE
            parts = [
                await self._embed(model, texts[start : start + _MOST_TEXTS], kind)
                for start in range(0, len(texts), _MOST_TEXTS)
            ]
            return np.concatenate(parts)

        return embed

    async def _embed(self, model: str, texts: Sequence[str], kind: "pb.TextKind.ValueType") -> Vectors:
        request = pb.EmbedRequest(
            # An empty text has no vector; a full stop is about nothing.
            model=model_resource(model),
            kind=kind,
            texts=[text[:_MOST_CHARS].strip() or "." for text in texts],
        )
        answer = await self._rpc.unary(self._stub.Embed, request)
        vectors = np.frombuffer(answer.vectors, dtype=_FLOAT32)
        if vectors.size != answer.dimension * len(texts):
            raise Internal(
                f"model {model} returned {vectors.size} numbers for {len(texts)} vectors of "
                f"{answer.dimension}",
                reason="MODEL_BAD_RESPONSE",
                metadata={"model": model},
            )
        return vectors.reshape(len(texts), answer.dimension)
