"""The retrieval service, as the tenant whose knowledge base it is."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from agentteams.retrieval.v1 import index_pb2 as index_pb
from agentteams.retrieval.v1 import knowledge_base_pb2 as kb_pb
from agentteams.retrieval.v1 import retrieval_service_pb2 as pb
from agentteams.retrieval.v1.retrieval_service_pb2_grpc import RetrievalServiceStub

from agentteams_operator.core.ports import KnowledgeRefused, KnowledgeState, KnowledgeUnavailable
from manifests import KnowledgeBase
from manifests.knowledge_pb import to_pb
from servicekit.client import RpcClient
from servicekit.context import Caller, scope
from servicekit.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ServiceError,
)

# Creating asks the model for its dimension, which may have to be loaded first.
_WRITE = timedelta(seconds=60)
_READ = timedelta(seconds=10)
_BUSY = (index_pb.Tuning.STATE_PENDING, index_pb.Tuning.STATE_RUNNING)


class RetrievalKnowledge:
    """See the port Knowledge."""

    def __init__(self, rpc: RpcClient) -> None:
        self._rpc = rpc
        self._stub = RetrievalServiceStub(rpc.channel)

    async def ensure(self, manifest: KnowledgeBase) -> KnowledgeState:
        """Creates it, or changes what can be changed."""
        with _as(manifest.metadata.namespace):
            create = pb.CreateKnowledgeBaseRequest(knowledge_base=to_pb(manifest))
            found = await self._rpc.unary(self._stub.CreateKnowledgeBase, create, timeout=_WRITE)
        return _state(found)

    async def get(self, namespace: str, name: str) -> KnowledgeState | None:
        """As it is; None: it is not there."""
        with _as(namespace):
            request = pb.GetKnowledgeBaseRequest(name=f"knowledgeBases/{name}")
            try:
                return _state(await self._rpc.unary(self._stub.GetKnowledgeBase, request, timeout=_READ))
            except NotFound:
                return None

    async def delete(self, namespace: str, name: str) -> None:
        """With all its documents."""
        with _as(namespace):
            request = pb.DeleteKnowledgeBaseRequest(name=f"knowledgeBases/{name}")
            try:
                await self._rpc.unary(self._stub.DeleteKnowledgeBase, request, timeout=_WRITE)
            except NotFound:
                return


def _state(found: kb_pb.KnowledgeBase) -> KnowledgeState:
    documents, tuning = found.documents, found.index_status.tuning
    return KnowledgeState(
        model=found.embedding_model.removeprefix("models/"),
        dimensions=found.dimension,
        fingerprint=found.model_fingerprint,
        deployment=found.deployment,
        documents=documents.ready,
        chunks=found.chunk_count,
        pending=documents.pending + documents.indexing,
        failed=documents.failed,
        last_error=found.ingest.last_error,
        tuning=tuning.state in _BUSY,
        tuning_failure=tuning.message if tuning.state == index_pb.Tuning.STATE_FAILED else "",
        capacity_advice=found.capacity.advice if found.capacity.at_risk else "",
    )


@contextmanager
def _as(tenant: str) -> Iterator[None]:
    """As the operator, in the tenant's name; errors as the port has them."""
    try:
        with scope(caller=Caller(tenant=tenant, user="", service="operator")):
            yield
    except (InvalidArgument, FailedPrecondition) as error:
        raise KnowledgeRefused(error.message) from error
    except ServiceError as error:
        raise KnowledgeUnavailable(error.message) from error
