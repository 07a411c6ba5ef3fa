"""The retrieval service in the test's own process, with a stand-in embedding service."""

import hashlib
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from agentteams.embedding.v1 import embedding_service_pb2 as embedding_pb
from agentteams.embedding.v1.embedding_service_pb2_grpc import (
    EmbeddingServiceServicer,
    add_EmbeddingServiceServicer_to_server,
)
from agentteams.retrieval.v1 import knowledge_base_pb2 as kb_pb
from agentteams.retrieval.v1 import retrieval_service_pb2 as pb
from agentteams.retrieval.v1.retrieval_service_pb2_grpc import RetrievalServiceStub

from retrieval.assembly import assemble
from retrieval.convert_filter import values_to_pb
from retrieval.core.model import Embedded, ModelInfo, Scalar, Vectors
from retrieval.settings import Settings
from servicekit.client import RpcClient
from servicekit.errors import NotFound, Unavailable
from servicekit.server import Assembly, Service
from servicekit.testing import TEST_KEY, rpc_as, serve_in_process

DIMENSION = 64
MODEL = "models/hash"


def hash_vectors(texts: Sequence[str], dimension: int = DIMENSION) -> Vectors:
    """Texts that share words have near vectors; the same text always has the same."""
    vectors = np.full((len(texts), dimension), 1e-6, dtype=np.float32)
    for row, text in enumerate(texts):
        for word in re.findall(r"\w+", text.lower()):
            digest = hashlib.sha256(word.encode()).digest()
            vectors[row, int.from_bytes(digest[:4]) % dimension] += 1 if digest[4] % 2 else -1
    normed: Vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return normed


class HashEmbedder:
    """An `Embedder` without a network."""

    def __init__(self) -> None:
        self.fingerprint = "hash-1"
        self.dimension = DIMENSION
        self.error: Exception | None = None

    async def describe(self, model: str) -> ModelInfo:
        self._check(model)
        return ModelInfo(dimension=self.dimension, fingerprint=self.fingerprint, max_input_tokens=256)

    async def embed_queries(self, model: str, texts: Sequence[str], *, timeout: Any = None) -> Embedded:
        return await self.embed_passages(model, texts)

    async def embed_passages(self, model: str, texts: Sequence[str]) -> Embedded:
        self._check(model)
        return Embedded(vectors=hash_vectors(texts, self.dimension), fingerprint=self.fingerprint)

    def _check(self, model: str) -> None:
        if self.error is not None:
            raise self.error
        if model != MODEL:
            raise NotFound(f"{model} does not exist", reason="MODEL_NOT_FOUND")


class HashEmbeddingServicer(EmbeddingServiceServicer):
    """The same over gRPC."""

    def __init__(self) -> None:
        self.embedder = HashEmbedder()
        self.calls: list[embedding_pb.EmbedRequest] = []

    def go_down(self) -> None:
        """From now on it refuses every call."""
        self.embedder.error = Unavailable("the model is away", reason="MODEL_UNAVAILABLE")

    def come_back(self) -> None:
        self.embedder.error = None

    async def Embed(self, request: embedding_pb.EmbedRequest, context: object) -> embedding_pb.EmbedResponse:
        self.calls.append(request)
        embedded = await self.embedder.embed_passages(request.model, request.texts)
        return embedding_pb.EmbedResponse(
            dimension=embedded.vectors.shape[1],
            vectors=embedded.vectors.tobytes(),
            model_fingerprint=embedded.fingerprint,
        )

    async def GetEmbeddingModel(
        self, request: embedding_pb.GetEmbeddingModelRequest, context: object
    ) -> embedding_pb.EmbeddingModel:
        info = await self.embedder.describe(request.name)
        return embedding_pb.EmbeddingModel(
            name=request.name,
            dimension=info.dimension,
            max_input_tokens=info.max_input_tokens,
            fingerprint=info.fingerprint,
        )

    def service(self) -> Service:
        """For `serve_in_process`."""

        def register(server: grpc.aio.Server) -> None:
            add_EmbeddingServiceServicer_to_server(self, server)

        return Service(name="agentteams.embedding.v1.EmbeddingService", register=register)


class RetrievalClient:
    """Short forms of the calls that tests make."""

    def __init__(self, rpc: RpcClient) -> None:
        self.rpc = rpc
        self.stub = RetrievalServiceStub(rpc.channel)
        self.target = ""  # host:port, where `running` serves it

    async def create(self, id_: str, **fields: Any) -> kb_pb.KnowledgeBase:
        fields = {"name": f"knowledgeBases/{id_}", "embedding_model": MODEL} | fields
        request = pb.CreateKnowledgeBaseRequest(knowledge_base=kb_pb.KnowledgeBase(**fields))
        return await self.rpc.unary(self.stub.CreateKnowledgeBase, request)

    async def upload(
        self, id_: str, path: str, data: bytes, *, message_bytes: int = 65536, **metadata: Scalar
    ) -> kb_pb.Document:
        header = pb.UploadHeader(parent=f"knowledgeBases/{id_}", path=path, metadata=values_to_pb(metadata))

        async def messages() -> AsyncIterator[pb.UploadDocumentRequest]:
            yield pb.UploadDocumentRequest(header=header)
            for start in range(0, len(data), message_bytes):
                yield pb.UploadDocumentRequest(content=data[start : start + message_bytes])

        return await self.rpc.client_stream(self.stub.UploadDocument, messages())

    async def document(self, name: str) -> kb_pb.Document:
        return await self.rpc.unary(self.stub.GetDocument, pb.GetDocumentRequest(name=name))

    async def search(self, id_: str, query: str, **fields: Any) -> pb.SearchResponse:
        request = pb.SearchRequest(knowledge_base=f"knowledgeBases/{id_}", query=query, **fields)
        return await self.rpc.unary(self.stub.Search, request)


def settings(folder: Path, *, milvus_uri: str, embedding_target: str, **more: Any) -> Settings:
    """Settings of a service whose data is in the folder."""
    key_file = folder / "key"
    key_file.write_bytes(TEST_KEY.to_file())
    values: dict[str, Any] = {
        "identity_key_file": key_file,
        "milvus_uri": milvus_uri,
        "embedding_target": embedding_target,
        "database_url": f"sqlite:///{folder / 'retrieval.db'}",
        "auto_migrate": True,
        "blob_dir": folder / "originals",
    }
    return Settings(**(values | more))


@asynccontextmanager
async def running(settings: Settings, *, tenant: str = "default") -> AsyncIterator[RetrievalClient]:
    """The whole service, its worker too, and a client of it."""
    import asyncio  # noqa: PLC0415

    async with AsyncExitStack() as stack:
        assembly: Assembly = await assemble(settings, stack)
        assert assembly.ready is not None
        await assembly.ready()
        tasks = [asyncio.ensure_future(task()) for task in assembly.tasks]
        try:
            async with serve_in_process(assembly.services) as target, rpc_as(target, tenant=tenant) as rpc:
                client = RetrievalClient(rpc)
                client.target = target
                yield client
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
