"""The retrieval service, as the tenant whose knowledge base it is."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, timedelta
from typing import Literal

from agentteams.retrieval.v1 import evaluation_pb2 as evaluation_pb
from agentteams.retrieval.v1 import index_pb2 as index_pb
from agentteams.retrieval.v1 import knowledge_base_pb2 as kb_pb
from agentteams.retrieval.v1 import quality_pb2 as quality_pb
from agentteams.retrieval.v1 import retrieval_service_pb2 as pb
from agentteams.retrieval.v1.retrieval_service_pb2_grpc import RetrievalServiceStub

from agentteams_operator.core.ports import (
    IndexState,
    KnowledgeRefused,
    KnowledgeState,
    KnowledgeUnavailable,
    QualityState,
)
from manifests import KnowledgeBase
from manifests.base import model_said
from manifests.golden import GoldenQuery
from manifests.knowledge_pb import golden_set_to_pb, to_pb
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

    async def ensure(self, manifest: KnowledgeBase, allowed: Sequence[str] = ()) -> KnowledgeState:
        """Creates it, or changes what can be changed."""
        with _as(manifest.metadata.namespace):
            create = pb.CreateKnowledgeBaseRequest(knowledge_base=to_pb(manifest, allowed_tenants=allowed))
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

    async def set_golden_set(
        self, namespace: str, name: str, *, queries: Sequence[GoldenQuery], called: str
    ) -> str:
        """Its hash, as GetKnowledgeBase has it too."""
        with _as(namespace):
            request = evaluation_pb.SetGoldenSetRequest(
                parent=f"knowledgeBases/{name}", golden_set=golden_set_to_pb(queries, name=called)
            )
            found = await self._rpc.unary(self._stub.SetGoldenSet, request, timeout=_WRITE)
        return found.sha256

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
        model=model_said(found.embedding_model),
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
        index=_index(found.index_status) if found.index_status.type else None,
        segments=found.capacity.segments,
        memory_bytes=found.capacity.memory_bytes,
        milvus_memory_bytes=found.capacity.milvus_memory_bytes,
        quality=_quality(found.quality) if found.HasField("quality") else None,
    )


def _index(status: index_pb.IndexStatus) -> IndexState:
    tuning = status.tuning
    measured = tuning.queries > 0 and tuning.HasField("finish_time")
    return IndexState(
        type=index_pb.IndexType.Name(status.type).removeprefix("INDEX_TYPE_"),
        build_params=dict(status.build_params),
        search_params=dict(status.search_params),
        recall_percent=tuning.recall_percent,
        p50_milliseconds=tuning.p50_milliseconds,
        p99_milliseconds=tuning.p99_milliseconds,
        tuned_at=tuning.finish_time.ToDatetime(tzinfo=UTC) if measured else None,
        tuned_at_rows=tuning.chunk_count,
    )


def _quality(found: quality_pb.Quality) -> QualityState:
    scores = found.scores
    return QualityState(
        verdict=_VERDICTS.get(found.state, "Unknown"),
        reason=_camel(quality_pb.Quality.Reason.Name(found.reason).removeprefix("REASON_")),
        message=found.message,
        golden_set=found.golden_set,
        golden_set_sha256=found.golden_set_sha256,
        evaluated_at=scores.finish_time.ToDatetime(tzinfo=UTC) if found.HasField("scores") else None,
        scores={"ndcgAt10": scores.ndcg_at_10, "recallAt10": scores.recall_at_10, "mrr": scores.mrr_at_10},
        queries=scores.queries,
        missing_documents=scores.missing_documents,
    )


_VERDICTS: Mapping[int, Literal["Good", "Degraded"]] = {
    quality_pb.Quality.STATE_GOOD: "Good",
    quality_pb.Quality.STATE_DEGRADED: "Degraded",
}


def _camel(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("_"))


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
