"""Protobuf to domain and back, and nothing else."""

from collections.abc import AsyncIterator, Sequence

import grpc
from agentteams.retrieval.v1 import knowledge_base_pb2 as kb_pb
from agentteams.retrieval.v1 import retrieval_service_pb2 as pb
from google.protobuf.empty_pb2 import Empty

from retrieval import convert, metrics
from retrieval.convert_filter import values_from_pb
from retrieval.convert_search import query_from_pb, result_to_pb
from retrieval.convert_spec import source_statuses_to_pb, spec_from_pb
from retrieval.core.documents import Documents
from retrieval.core.evaluation import Evaluations
from retrieval.core.knowledge_bases import KnowledgeBases
from retrieval.core.model import DocumentState, Snapshot
from retrieval.core.names import check_path, document_ids, knowledge_base_id
from retrieval.core.search import Search
from retrieval.core.sources import SourceStore
from retrieval.core.tuning.indexes import Indexes
from retrieval.core.upkeep import DocumentUpkeep
from retrieval.servicer_evaluation import EvaluationCalls
from retrieval.servicer_knowledge_bases import KnowledgeBaseCalls
from retrieval.servicer_upkeep import UpkeepCalls
from servicekit.context import current_caller
from servicekit.errors import InvalidArgument
from servicekit.paging import PageTokens, page_size
from servicekit.telemetry import observed

Context = grpc.aio.ServicerContext[object, object]

_MAX_CONTENT_BYTES = 1024 * 1024


class RetrievalServicer(EvaluationCalls, KnowledgeBaseCalls, UpkeepCalls):
    """See the proto file; its comments are the specification."""

    def __init__(
        self,
        *,
        knowledge_bases: KnowledgeBases,
        documents: Documents,
        search: Search,
        evaluations: Evaluations,
        upkeep: DocumentUpkeep,
        sources: SourceStore,
        indexes: Indexes,
        page_tokens: PageTokens,
    ) -> None:
        self._knowledge_bases = knowledge_bases
        self._documents = documents
        self._search = search
        self._evaluations = evaluations
        self._upkeep = upkeep
        self._sources = sources
        self._indexes = indexes
        self._page_tokens = page_tokens

    async def _messages(self, snapshots: Sequence[Snapshot]) -> list[kb_pb.KnowledgeBase]:
        messages = await super()._messages(snapshots)
        await self._add_quality(messages)
        return messages

    async def CreateKnowledgeBase(
        self, request: pb.CreateKnowledgeBaseRequest, context: Context
    ) -> kb_pb.KnowledgeBase:
        """See the proto file."""
        id_ = knowledge_base_id(request.knowledge_base.name, field="knowledge_base.name")
        snapshot = await self._knowledge_bases.create(id_, spec_from_pb(request.knowledge_base))
        return await self._message(snapshot)

    async def GetKnowledgeBase(
        self, request: pb.GetKnowledgeBaseRequest, context: Context
    ) -> kb_pb.KnowledgeBase:
        """See the proto file."""
        id_ = knowledge_base_id(request.name, field="name")
        if request.owner_tenant not in ("", current_caller().tenant):
            kb = (await self._knowledge_bases.readable(request.owner_tenant, id_)).knowledge_base
            return kb_pb.KnowledgeBase(name=kb.name, revision=kb.revision)
        snapshot = await self._knowledge_bases.get(id_)
        message = await self._message(snapshot)
        await self._add_ingest_status([message])
        if snapshot.knowledge_base.spec.sources:
            kb = snapshot.knowledge_base
            source_statuses_to_pb(kb, await self._sources.statuses(kb.tenant, kb.id), message)
        return message

    async def ListKnowledgeBases(
        self, request: pb.ListKnowledgeBasesRequest, context: Context
    ) -> pb.ListKnowledgeBasesResponse:
        """See the proto file."""
        size = page_size(request.page_size, default=50, maximum=200)
        bound = ("knowledge-bases", current_caller().tenant)
        after = self._page_tokens.decode(bound, request.page_token) if request.page_token else ""
        found = await self._knowledge_bases.list(after=after, limit=size + 1)
        response = pb.ListKnowledgeBasesResponse(knowledge_bases=await self._messages(found[:size]))
        await self._add_ingest_status(response.knowledge_bases)
        if len(found) > size:
            response.next_page_token = self._page_tokens.encode(bound, found[size - 1].knowledge_base.id)
        return response

    async def DeleteKnowledgeBase(self, request: pb.DeleteKnowledgeBaseRequest, context: Context) -> Empty:
        """See the proto file."""
        await self._knowledge_bases.delete(knowledge_base_id(request.name, field="name"))
        return Empty()

    async def UploadDocument(
        self, request_iterator: AsyncIterator[pb.UploadDocumentRequest], context: Context
    ) -> kb_pb.Document:
        """See the proto file."""
        first = await anext(aiter(request_iterator), None)
        if first is None or first.WhichOneof("part") != "header":
            raise InvalidArgument.field("header", "must be the first message of the upload")
        knowledge_base = knowledge_base_id(first.header.parent, field="header.parent")
        path = check_path(first.header.path, field="header.path")
        metadata = values_from_pb(first.header.metadata, field="header.metadata")
        document = await self._documents.upload(
            knowledge_base, path, _content(request_iterator), metadata=metadata
        )
        return convert.document_to_pb(document)

    async def GetDocument(self, request: pb.GetDocumentRequest, context: Context) -> kb_pb.Document:
        """See the proto file."""
        document = await self._documents.get(*document_ids(request.name, field="name"))
        return convert.document_to_pb(document)

    async def ListDocuments(
        self, request: pb.ListDocumentsRequest, context: Context
    ) -> pb.ListDocumentsResponse:
        """See the proto file."""
        knowledge_base = knowledge_base_id(request.parent, field="parent")
        size = page_size(request.page_size, default=100, maximum=1000)
        state = _state(request.state)
        bound = ("documents", current_caller().tenant, knowledge_base, str(request.state))
        after = self._page_tokens.decode(bound, request.page_token) if request.page_token else ""
        found = await self._documents.list(knowledge_base, state=state, after=after, limit=size + 1)
        response = pb.ListDocumentsResponse(documents=[convert.document_to_pb(d) for d in found[:size]])
        if len(found) > size:
            response.next_page_token = self._page_tokens.encode(bound, found[size - 1].path)
        return response

    async def DeleteDocument(self, request: pb.DeleteDocumentRequest, context: Context) -> Empty:
        """See the proto file."""
        await self._documents.delete(*document_ids(request.name, field="name"))
        return Empty()

    async def Search(self, request: pb.SearchRequest, context: Context) -> pb.SearchResponse:
        """See the proto file."""
        query = query_from_pb(request)
        with metrics.SEARCHING.track_inprogress(), observed(metrics.SEARCH_SECONDS):
            result = await self._search.run(query)
        metrics.searched(result)
        return result_to_pb(query.knowledge_base, result)


def _state(value: int) -> DocumentState | None:
    if value == kb_pb.DOCUMENT_STATE_UNSPECIFIED:
        return None
    try:
        return DocumentState(value)
    except ValueError:
        raise InvalidArgument.field("state", "must be a DocumentState", value) from None


async def _content(requests: AsyncIterator[pb.UploadDocumentRequest]) -> AsyncIterator[bytes]:
    async for request in requests:
        if request.WhichOneof("part") != "content":
            raise InvalidArgument.field("header", "must be the first message only")
        if len(request.content) > _MAX_CONTENT_BYTES:
            raise InvalidArgument.field(
                "content", f"must have at most {_MAX_CONTENT_BYTES} bytes a message", len(request.content)
            )
        yield request.content
