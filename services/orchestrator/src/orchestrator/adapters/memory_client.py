"""The session service's memories as the core's Memories."""

from collections.abc import Sequence
from datetime import timedelta

from agentteams.session.v1 import memory_pb2 as pb
from agentteams.session.v1 import memory_pb2_grpc

from orchestrator.core.model import Memory
from servicekit.client import RpcClient

_TIMEOUT = timedelta(seconds=3)  # an answer without memories beats one that comes late


class MemoryClient:
    """Calls the session service as the current caller, whose memories they are.

    Args:
        rpc: Where it is.
    """

    def __init__(self, rpc: RpcClient) -> None:
        self._rpc = rpc
        self._stub = memory_pb2_grpc.MemoryServiceStub(rpc.channel)

    async def search(self, query: str, *, team: str, limit: int) -> Sequence[Memory]:
        """See Memories."""
        request = pb.SearchMemoriesRequest(query=query, team=team, max_results=limit)
        answer = await self._rpc.unary(self._stub.SearchMemories, request, timeout=_TIMEOUT)
        return [_memory(memory) for memory in answer.memories]

    async def add(self, text: str, *, team: str, request_id: str) -> Memory:
        """See Memories."""
        request = pb.AddMemoryRequest(memory=pb.Memory(text=text, team=team), request_id=request_id)
        return _memory(await self._rpc.unary(self._stub.AddMemory, request, timeout=_TIMEOUT))

    async def forget(self, name: str) -> None:
        """See Memories."""
        request = pb.ForgetMemoryRequest(name=name)
        await self._rpc.unary(self._stub.ForgetMemory, request, timeout=_TIMEOUT)


def _memory(memory: pb.Memory) -> Memory:
    return Memory(name=memory.name, text=memory.text)
