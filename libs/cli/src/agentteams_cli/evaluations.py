"""Golden sets and evaluations, as the commands see them."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta

from agentteams.retrieval.v1 import evaluation_pb2 as pb
from agentteams.retrieval.v1 import knowledge_base_pb2 as kb_pb
from agentteams.retrieval.v1.retrieval_service_pb2_grpc import RetrievalServiceStub

from agentteams_cli.paging import pages
from servicekit.client import RpcClient

EVALUATE_TIMEOUT = timedelta(hours=2)


class Evaluations:
    """Typed calls to the retrieval service; raises ServiceError as `servicekit.client` does."""

    def __init__(self, rpc: RpcClient) -> None:
        self._rpc = rpc
        self._stub = RetrievalServiceStub(rpc.channel)

    async def set_golden_set(self, knowledge_base: str, golden_set: pb.GoldenSet) -> pb.GoldenSet:
        """In place of the former one."""
        request = pb.SetGoldenSetRequest(parent=_name(knowledge_base), golden_set=golden_set)
        return await self._rpc.unary(self._stub.SetGoldenSet, request)

    async def golden_set(self, knowledge_base: str) -> pb.GoldenSet:
        """As it was set last."""
        request = pb.GetGoldenSetRequest(parent=_name(knowledge_base))
        return await self._rpc.unary(self._stub.GetGoldenSet, request)

    async def run(
        self, knowledge_base: str, modes: Sequence[str]
    ) -> AsyncIterator[pb.EvaluateKnowledgeBaseResponse]:
        """Progress, then the scores. `modes` as in `Client.search`."""
        request = pb.EvaluateKnowledgeBaseRequest(
            name=_name(knowledge_base),
            modes=[kb_pb.SearchMode.Value(f"SEARCH_MODE_{mode.upper()}") for mode in modes],
        )
        stream = self._rpc.server_stream(self._stub.EvaluateKnowledgeBase, request, timeout=EVALUATE_TIMEOUT)
        async with contextlib.aclosing(stream):  # type: ignore[type-var]
            async for response in stream:
                yield response

    async def newest(self, knowledge_base: str, limit: int) -> list[pb.Evaluation]:
        """Newest first."""
        request = pb.ListEvaluationsRequest(parent=_name(knowledge_base), page_size=limit)
        return list((await self._rpc.unary(self._stub.ListEvaluations, request)).evaluations)

    async def former(self, knowledge_base: str) -> AsyncIterator[pb.Evaluation]:
        """Newest first."""

        async def page(token: str) -> tuple[Sequence[pb.Evaluation], str]:
            request = pb.ListEvaluationsRequest(parent=_name(knowledge_base), page_size=100, page_token=token)
            response = await self._rpc.unary(self._stub.ListEvaluations, request)
            return response.evaluations, response.next_page_token

        async for evaluation in pages(page):
            yield evaluation


def _name(knowledge_base: str) -> str:
    return f"knowledgeBases/{knowledge_base}"
