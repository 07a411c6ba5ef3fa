"""The calls that change knowledge bases or read all of one."""

import grpc
from agentteams.retrieval.v1 import knowledge_base_pb2 as kb_pb
from agentteams.retrieval.v1 import retrieval_service_pb2 as pb
from agentteams.retrieval.v1 import retrieval_service_pb2_grpc as pb_grpc

from retrieval.convert_spec import knowledge_base_to_pb, updated
from retrieval.core.knowledge_bases import KnowledgeBases
from retrieval.core.names import knowledge_base_id

Context = grpc.aio.ServicerContext[object, object]


class KnowledgeBaseCalls(pb_grpc.RetrievalServiceServicer):
    """See the proto file; its comments are the specification."""

    _knowledge_bases: KnowledgeBases

    async def UpdateKnowledgeBase(
        self, request: pb.UpdateKnowledgeBaseRequest, context: Context
    ) -> kb_pb.KnowledgeBase:
        """See the proto file."""
        asked = request.knowledge_base
        id_ = knowledge_base_id(asked.name, field="knowledge_base.name")
        snapshot = await self._knowledge_bases.update(
            id_, lambda current: updated(current, asked, request.update_mask)
        )
        return knowledge_base_to_pb(snapshot, deployment=await self._knowledge_bases.deployment())
