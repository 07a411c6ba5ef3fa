"""The calls that change knowledge bases or read all of one."""

from collections.abc import AsyncIterator
from contextlib import aclosing

import grpc
from agentteams.retrieval.v1 import knowledge_base_pb2 as kb_pb
from agentteams.retrieval.v1 import retrieval_service_pb2 as pb

from retrieval.convert_export import responses
from retrieval.convert_filter import filter_from_pb
from retrieval.convert_spec import updated
from retrieval.core.names import knowledge_base_id
from retrieval.servicer_index import IndexCalls

Context = grpc.aio.ServicerContext[object, object]


class KnowledgeBaseCalls(IndexCalls):
    """See the proto file; its comments are the specification."""

    async def UpdateKnowledgeBase(
        self, request: pb.UpdateKnowledgeBaseRequest, context: Context
    ) -> kb_pb.KnowledgeBase:
        """See the proto file."""
        asked = request.knowledge_base
        id_ = knowledge_base_id(asked.name, field="knowledge_base.name")
        snapshot = await self._knowledge_bases.update(
            id_, lambda current: updated(current, asked, request.update_mask)
        )
        return await self._message(snapshot)

    async def ExportChunks(
        self, request: pb.ExportChunksRequest, context: Context
    ) -> AsyncIterator[pb.ExportChunksResponse]:
        """See the proto file."""
        id_ = knowledge_base_id(request.name, field="name")
        filter_ = filter_from_pb(request.filter) if request.HasField("filter") else None
        walk = self._knowledge_bases.chunks(id_, filter_=filter_, with_vectors=request.include_vectors)
        async with aclosing(walk) as batches:  # type: ignore[type-var]
            async for batch in batches:
                for response in responses(id_, batch):
                    yield response
