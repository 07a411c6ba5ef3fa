"""The retrieval service as the operator sees it, in memory: for tests of the operator alone."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
from agentteams.retrieval.v1 import evaluation_pb2, quality_pb2
from agentteams.retrieval.v1 import knowledge_base_pb2 as kb_pb
from agentteams.retrieval.v1 import retrieval_service_pb2 as pb
from agentteams.retrieval.v1 import retrieval_service_pb2_grpc as rpc
from google.protobuf import empty_pb2

from servicekit.identity import IdentityKey
from tests.support.stub_server import Stub, serving


class RetrievalStub(Stub, rpc.RetrievalServiceServicer):
    """Knowledge bases by tenant.

    Attributes:
        there: (tenant, name) of those that exist.
        asked: How often GetKnowledgeBase was called, by (tenant, name).
        said: What it says of all of them, beside their names.
    """

    def __init__(self, key: IdentityKey) -> None:
        super().__init__(key)
        self.there: set[tuple[str, str]] = set()
        self.asked: Counter[tuple[str, str]] = Counter()
        self.said = kb_pb.KnowledgeBase(embedding_model="models/e", dimension=8, deployment="Stub")
        self._golden: dict[tuple[str, str], str] = {}

    def CreateKnowledgeBase(
        self, request: pb.CreateKnowledgeBaseRequest, context: grpc.ServicerContext
    ) -> kb_pb.KnowledgeBase:
        tenant = self.tenant(context)
        self.there.add((tenant, request.knowledge_base.name))
        return self._found(tenant, request.knowledge_base.name)

    def GetKnowledgeBase(
        self, request: pb.GetKnowledgeBaseRequest, context: grpc.ServicerContext
    ) -> kb_pb.KnowledgeBase:
        tenant = self.tenant(context)
        self.asked[tenant, request.name] += 1
        if (tenant, request.name) not in self.there:
            context.abort(grpc.StatusCode.NOT_FOUND, "no such knowledge base")
        return self._found(tenant, request.name)

    def SetGoldenSet(
        self, request: evaluation_pb2.SetGoldenSetRequest, context: grpc.ServicerContext
    ) -> evaluation_pb2.GoldenSet:
        self._golden[self.tenant(context), request.parent] = "a" * 64
        return evaluation_pb2.GoldenSet(sha256="a" * 64)

    def DeleteKnowledgeBase(
        self, request: pb.DeleteKnowledgeBaseRequest, context: grpc.ServicerContext
    ) -> empty_pb2.Empty:
        self.there.discard((self.tenant(context), request.name))
        return empty_pb2.Empty()

    def _found(self, tenant: str, name: str) -> kb_pb.KnowledgeBase:
        found = kb_pb.KnowledgeBase(name=name)
        found.MergeFrom(self.said)
        if (tenant, name) in self._golden:
            quality = quality_pb2.Quality(golden_set_sha256=self._golden[tenant, name])
            found.quality.MergeFrom(quality)
        return found


@contextmanager
def retrieval_stub(key: IdentityKey) -> Iterator[RetrievalStub]:
    """Serves on a free port of 127.0.0.1 for the block."""
    stub = RetrievalStub(key)  # type: ignore[abstract]  # the operator calls no other method
    with serving(stub, rpc.add_RetrievalServiceServicer_to_server):
        yield stub
