"""Calls about the index of a knowledge base, and what every knowledge base shows of it."""

from collections.abc import Mapping, Sequence

import grpc
from agentteams.retrieval.v1 import index_pb2 as index_pb
from agentteams.retrieval.v1 import knowledge_base_pb2 as kb_pb
from agentteams.retrieval.v1 import retrieval_service_pb2 as pb
from agentteams.retrieval.v1 import retrieval_service_pb2_grpc as pb_grpc

from retrieval.convert_spec import knowledge_base_to_pb
from retrieval.core.index import BuiltIndex
from retrieval.core.knowledge_bases import KnowledgeBases
from retrieval.core.model import Snapshot
from retrieval.core.names import knowledge_base_id
from retrieval.core.tuning.indexes import Indexes, IndexView
from retrieval.core.tuning.model import CurvePoint, Tuning

Context = grpc.aio.ServicerContext[object, object]


class IndexCalls(pb_grpc.RetrievalServiceServicer):
    """See the proto file."""

    _indexes: Indexes
    _knowledge_bases: KnowledgeBases

    async def TuneKnowledgeBase(
        self, request: pb.TuneKnowledgeBaseRequest, context: Context
    ) -> index_pb.Tuning:
        """See the proto file."""
        return tuning_to_pb(await self._indexes.tune(knowledge_base_id(request.name, field="name")))

    async def _message(self, snapshot: Snapshot) -> kb_pb.KnowledgeBase:
        """A knowledge base with all that it shows."""
        (message,) = await self._messages([snapshot])
        return message

    async def _messages(self, snapshots: Sequence[Snapshot]) -> list[kb_pb.KnowledgeBase]:
        """Several of them, of one tenant."""
        deployment = await self._knowledge_bases.deployment()
        messages = [knowledge_base_to_pb(snapshot, deployment=deployment) for snapshot in snapshots]
        views = await self._indexes.views(snapshots)
        for view, message in zip(views, messages, strict=True):
            message.index_status.CopyFrom(_status(view))
            message.capacity.CopyFrom(
                index_pb.Capacity(
                    memory_bytes=view.memory_bytes,
                    segments=view.segments,
                    at_risk=view.advice.at_risk,
                    advice=view.advice.text,
                    milvus_memory_bytes=view.store.total_bytes,
                    milvus_used_bytes=view.store.used_bytes,
                )
            )
        return messages


def tuning_to_pb(tuning: Tuning) -> index_pb.Tuning:
    """With its whole curve."""
    message = index_pb.Tuning(state=int(tuning.state), message=tuning.message)  # type: ignore[arg-type]
    if tuning.finish_time is not None:
        message.finish_time.FromDatetime(tuning.finish_time)
    measured = tuning.measured
    if measured is not None:
        message.chunk_count = measured.chunk_count
        message.queries = measured.queries
        message.real_queries = measured.real_queries
        message.recall_percent = 100 * measured.recall
        message.p50_milliseconds = 1000 * measured.p50_s
        message.p99_milliseconds = 1000 * measured.p99_s
        message.curve.extend(_point(point) for point in measured.curve)
    return message


def _status(view: IndexView) -> index_pb.IndexStatus:
    status = index_pb.IndexStatus(search_params=_params(view.search_params))
    if view.built is not None:
        status.type = _type(view.built)
        status.build_params.update(view.built.build_params)
    if view.tuning is not None:
        status.tuning.CopyFrom(tuning_to_pb(view.tuning))
    return status


def _point(point: CurvePoint) -> index_pb.CurvePoint:
    return index_pb.CurvePoint(
        type=_type(point.index),
        build_params=_params(point.index.build_params),
        search_params=_params(point.search_params),
        recall_percent=100 * point.recall,
        p50_milliseconds=1000 * point.p50_s,
        p99_milliseconds=1000 * point.p99_s,
    )


def _type(index: BuiltIndex) -> "index_pb.IndexType.ValueType":
    return index_pb.IndexType.Value(f"INDEX_TYPE_{index.type.name}")


def _params(params: Mapping[str, int]) -> dict[str, int]:
    return dict(params)
