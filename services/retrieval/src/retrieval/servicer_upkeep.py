"""Retries, moves and comparisons: protobuf to domain and back."""

from collections.abc import Sequence

import grpc
from agentteams.retrieval.v1 import knowledge_base_pb2 as kb_pb
from agentteams.retrieval.v1 import retrieval_service_pb2 as pb
from agentteams.retrieval.v1 import retrieval_service_pb2_grpc as pb_grpc

from retrieval import convert
from retrieval.core.ingest_model import IngestStatus
from retrieval.core.names import check_path, document_ids, knowledge_base_id
from retrieval.core.upkeep import DocumentUpkeep
from servicekit.errors import InvalidArgument

Context = grpc.aio.ServicerContext[object, object]

_MAX_NAMES = 1000


class UpkeepCalls(pb_grpc.RetrievalServiceServicer):
    """See the proto file; its comments are the specification."""

    _upkeep: DocumentUpkeep

    async def MoveDocument(self, request: pb.MoveDocumentRequest, context: Context) -> kb_pb.Document:
        """See the proto file."""
        knowledge_base, document = document_ids(request.name, field="name")
        path = check_path(request.new_path, field="new_path")
        return convert.document_to_pb(await self._upkeep.move(knowledge_base, document, path))

    async def RetryDocuments(
        self, request: pb.RetryDocumentsRequest, context: Context
    ) -> pb.RetryDocumentsResponse:
        """See the proto file."""
        knowledge_base = knowledge_base_id(request.parent, field="parent")
        if len(request.names) > _MAX_NAMES:
            raise InvalidArgument.field(
                "names", f"must be at most {_MAX_NAMES}; none for all that failed", len(request.names)
            )
        documents = []
        for number, name in enumerate(request.names):
            field = f"names[{number}]"
            parent, document = document_ids(name, field=field)
            if parent != knowledge_base:
                raise InvalidArgument.field(field, f"must be below {request.parent}, as parent says", name)
            documents.append(document)
        return pb.RetryDocumentsResponse(queued=await self._upkeep.retry(knowledge_base, documents))

    async def ReconcileKnowledgeBase(
        self, request: pb.ReconcileKnowledgeBaseRequest, context: Context
    ) -> pb.ReconcileKnowledgeBaseResponse:
        """See the proto file."""
        outcome = await self._upkeep.reconcile(knowledge_base_id(request.name, field="name"))
        return pb.ReconcileKnowledgeBaseResponse(
            stray_chunks_removed=outcome.stray_chunks_removed, documents_requeued=outcome.documents_requeued
        )

    async def _add_ingest_status(self, messages: Sequence[kb_pb.KnowledgeBase]) -> None:
        ids = {knowledge_base_id(message.name, field="name"): message for message in messages}
        statuses = await self._upkeep.statuses(list(ids))
        for id_, message in ids.items():
            message.ingest.CopyFrom(_status_to_pb(statuses[id_]))


def _status_to_pb(status: IngestStatus) -> kb_pb.IngestStatus:
    message = kb_pb.IngestStatus(
        chunks_per_second=status.chunks_per_second,
        documents_per_second=status.documents_per_second,
        last_error=status.last_error,
        stray_chunks_removed=status.stray_chunks_removed,
        documents_requeued=status.documents_requeued,
    )
    if status.oldest_pending is not None:
        message.oldest_pending_time.FromDatetime(status.oldest_pending)
    if status.reconcile_time is not None:
        message.reconcile_time.FromDatetime(status.reconcile_time)
    return message
