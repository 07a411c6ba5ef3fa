"""proto <-> core, nothing else."""

from __future__ import annotations

from typing import Any

import grpc
from agentteams.embedding.v1 import embedding_service_pb2 as pb
from agentteams.embedding.v1 import embedding_service_pb2_grpc as pb_grpc

from embedding.core.embedding import Embedding
from embedding.core.ports import TextKind
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
