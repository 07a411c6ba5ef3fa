"""The retrieval service as the operator sees it, in memory: for tests of the operator alone."""

from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager

import grpc
from agentteams.retrieval.v1 import knowledge_base_pb2 as kb_pb
from agentteams.retrieval.v1 import retrieval_service_pb2 as pb
from agentteams.retrieval.v1 import retrieval_service_pb2_grpc as rpc
from google.protobuf import empty_pb2

from servicekit.identity import IdentityKey, TokenVerifier


class RetrievalStub(rpc.RetrievalServiceServicer):
    """Knowledge bases by tenant.

    Attributes:
        there: (tenant, name) of those that exist.
        target: host:port.
    """

    def __init__(self, key: IdentityKey) -> None:
        self.there: set[tuple[str, str]] = set()
        self.target = ""
        self._verifier = TokenVerifier(key)

    def CreateKnowledgeBase(
        self, request: pb.CreateKnowledgeBaseRequest, context: grpc.ServicerContext
    ) -> kb_pb.KnowledgeBase:
        self.there.add((self._tenant(context), request.knowledge_base.name))
        return self._found(request.knowledge_base.name)

    def GetKnowledgeBase(
        self, request: pb.GetKnowledgeBaseRequest, context: grpc.ServicerContext
    ) -> kb_pb.KnowledgeBase:
        if (self._tenant(context), request.name) not in self.there:
            context.abort(grpc.StatusCode.NOT_FOUND, "no such knowledge base")
        return self._found(request.name)

    def DeleteKnowledgeBase(
        self, request: pb.DeleteKnowledgeBaseRequest, context: grpc.ServicerContext
    ) -> empty_pb2.Empty:
        self.there.discard((self._tenant(context), request.name))
        return empty_pb2.Empty()

    def _tenant(self, context: grpc.ServicerContext) -> str:
        metadata = dict(context.invocation_metadata())
        return self._verifier.verify(str(metadata["authorization"]).removeprefix("Bearer ")).tenant

    def _found(self, name: str) -> kb_pb.KnowledgeBase:
        return kb_pb.KnowledgeBase(name=name, embedding_model="models/e", dimension=8, deployment="Stub")


@contextmanager
def retrieval_stub(key: IdentityKey) -> Iterator[RetrievalStub]:
    """Serves on a free port of 127.0.0.1 for the block."""
    stub = RetrievalStub(key)  # type: ignore[abstract]  # the operator calls no other method
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
    rpc.add_RetrievalServiceServicer_to_server(stub, server)
    stub.target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield stub
    finally:
        server.stop(0).wait()
