"""The calls that change knowledge bases or read all of one."""

import grpc
from agentteams.retrieval.v1 import knowledge_base_pb2 as kb_pb
from agentteams.retrieval.v1 import retrieval_service_pb2 as pb

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
