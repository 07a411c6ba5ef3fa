"""proto <-> core, nothing else."""

from __future__ import annotations

from typing import Any

import grpc
from agentteams.embedding.v1 import embedding_service_pb2 as pb
from agentteams.embedding.v1 import embedding_service_pb2_grpc as pb_grpc
from agentteams.embedding.v1 import rerank_service_pb2 as rerank_pb
from agentteams.embedding.v1 import rerank_service_pb2_grpc as rerank_grpc

from embedding.core.embedding import Embedding
from embedding.core.ports import TextKind
from embedding.core.reranking import Reranking
from servicekit.context import current_caller
from servicekit.errors import InvalidArgument
from servicekit.server import Service

_KINDS = {
    pb.TEXT_KIND_UNSPECIFIED: TextKind.PASSAGE,
    pb.TEXT_KIND_QUERY: TextKind.QUERY,
    pb.TEXT_KIND_PASSAGE: TextKind.PASSAGE,
}


class EmbeddingServicer(pb_grpc.EmbeddingServiceServicer):
    """Serves `agentteams.embedding.v1.EmbeddingService`."""

    def __init__(self, embedding: Embedding) -> None:
        self._embedding = embedding

    async def Embed(self, request: pb.EmbedRequest, context: Any) -> pb.EmbedResponse:
        kind = _KINDS.get(request.kind)
        if kind is None:
            raise InvalidArgument.field("kind", "must be TEXT_KIND_QUERY or TEXT_KIND_PASSAGE", request.kind)
        done = await self._embedding.embed(current_caller().tenant, request.model, request.texts, kind)
        return pb.EmbedResponse(
            dimension=done.info.dimension,
            vectors=done.result.vectors.astype("<f4", copy=False).tobytes(),
            truncated_indexes=done.result.truncated,
            input_tokens=done.result.input_tokens,
            model_fingerprint=done.info.fingerprint,
        )

    async def GetEmbeddingModel(
        self, request: pb.GetEmbeddingModelRequest, context: Any
    ) -> pb.EmbeddingModel:
        info = await self._embedding.describe(current_caller().tenant, request.name)
        return pb.EmbeddingModel(
            name=request.name,
            dimension=info.dimension,
            max_input_tokens=info.max_input_tokens,
            fingerprint=info.fingerprint,
        )


def service(embedding: Embedding) -> Service:
    """The service as a server takes it."""

    def register(server: grpc.aio.Server) -> None:
        pb_grpc.add_EmbeddingServiceServicer_to_server(EmbeddingServicer(embedding), server)

    return Service(name=pb.DESCRIPTOR.services_by_name["EmbeddingService"].full_name, register=register)


class RerankServicer(rerank_grpc.RerankServiceServicer):
    """Serves `agentteams.embedding.v1.RerankService`."""

    def __init__(self, reranking: Reranking) -> None:
        self._reranking = reranking

    async def Rerank(self, request: rerank_pb.RerankRequest, context: Any) -> rerank_pb.RerankResponse:
        tenant = current_caller().tenant
        done = await self._reranking.rerank(tenant, request.model, request.query, request.passages)
        return rerank_pb.RerankResponse(scores=done.scores, truncated_indexes=done.truncated)


def rerank_service(reranking: Reranking) -> Service:
    """The service that reranks, as a server takes it."""

    def register(server: grpc.aio.Server) -> None:
        rerank_grpc.add_RerankServiceServicer_to_server(RerankServicer(reranking), server)

    return Service(name=rerank_pb.DESCRIPTOR.services_by_name["RerankService"].full_name, register=register)
