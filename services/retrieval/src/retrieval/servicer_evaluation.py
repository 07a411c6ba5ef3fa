"""The calls about golden sets and evaluations."""

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing

import grpc
from agentteams.retrieval.v1 import evaluation_pb2 as pb
from agentteams.retrieval.v1 import knowledge_base_pb2 as kb_pb
from agentteams.retrieval.v1 import retrieval_service_pb2_grpc as pb_grpc

from retrieval import convert_evaluation as convert
from retrieval.convert_quality import quality_to_pb
from retrieval.core.evaluation import Evaluations
from retrieval.core.names import knowledge_base_id
from servicekit.context import current_caller
from servicekit.paging import PageTokens, page_size

Context = grpc.aio.ServicerContext[object, object]


class EvaluationCalls(pb_grpc.RetrievalServiceServicer):
    """See the proto file; its comments are the specification."""

    _evaluations: Evaluations
    _page_tokens: PageTokens

    async def SetGoldenSet(self, request: pb.SetGoldenSetRequest, context: Context) -> pb.GoldenSet:
        """See the proto file."""
        wanted = convert.golden_set_from_pb(request.golden_set)
        await self._evaluations.put_golden_set(knowledge_base_id(request.parent, field="parent"), wanted)
        return convert.golden_set_to_pb(wanted)

    async def GetGoldenSet(self, request: pb.GetGoldenSetRequest, context: Context) -> pb.GoldenSet:
        """See the proto file."""
        found = await self._evaluations.golden_set(knowledge_base_id(request.parent, field="parent"))
        return convert.golden_set_to_pb(found)

    async def EvaluateKnowledgeBase(
        self, request: pb.EvaluateKnowledgeBaseRequest, context: Context
    ) -> AsyncIterator[pb.EvaluateKnowledgeBaseResponse]:
        """See the proto file."""
        run = self._evaluations.run(
            knowledge_base_id(request.name, field="name"), convert.modes_from_pb(request.modes)
        )
        async with aclosing(run) as steps:  # type: ignore[type-var]
            async for progress in steps:
                yield convert.progress_to_pb(progress)

    async def ListEvaluations(
        self, request: pb.ListEvaluationsRequest, context: Context
    ) -> pb.ListEvaluationsResponse:
        """See the proto file."""
        knowledge_base = knowledge_base_id(request.parent, field="parent")
        size = page_size(request.page_size, default=20, maximum=100)
        bound = ("evaluations", current_caller().tenant, knowledge_base)
        before = self._page_tokens.decode(bound, request.page_token) if request.page_token else ""
        found = await self._evaluations.newest(knowledge_base, before=before, limit=size + 1)
        response = pb.ListEvaluationsResponse(
            evaluations=[convert.evaluation_to_pb(one) for _, one in found[:size]]
        )
        if len(found) > size:
            response.next_page_token = self._page_tokens.encode(bound, found[size - 1][0])
        return response

    async def _add_quality(self, messages: Sequence[kb_pb.KnowledgeBase]) -> None:
        watched = {
            knowledge_base_id(message.name, field="name"): message
            for message in messages
            if message.HasField("evaluation")
        }
        for id_, quality in (await self._evaluations.qualities(list(watched))).items():
            watched[id_].quality.CopyFrom(quality_to_pb(quality))
