"""Other orchestrators as the core's Peers."""

from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from datetime import timedelta
from typing import Any

from agentteams.orchestrator.v1 import orchestrator_service_pb2 as pb
from agentteams.orchestrator.v1.orchestrator_service_pb2_grpc import OrchestratorServiceStub

from orchestrator.adapters.events_pb import item_from_pb
from orchestrator.adapters.events_write import input_to_pb
from orchestrator.core.model import RunInput
from orchestrator.core.ports import Followed
from servicekit.client import RpcClient, open_channel
from servicekit.identity import TokenIssuer

FORWARDED = "agentteams-forwarded"  # metadata of a call that must not be passed on again
_MAX_CHANNELS = 64
_CALL = timedelta(seconds=2)
_FOLLOW = timedelta(hours=1)  # the caller's deadline is shorter, or it asks again


class PeerClient:
    """Calls orchestrators by address, with one channel for each of the last used."""

    def __init__(self, issuer: TokenIssuer) -> None:
        self._issuer = issuer
        self._open: OrderedDict[str, RpcClient] = OrderedDict()
        self._users: dict[str, int] = {}

    async def follow(self, address: str, run: str, *, after: int) -> AsyncIterator[Followed]:
        """See Peers."""
        rpc = await self._take(address)
        stub: Any = OrchestratorServiceStub(rpc.channel)
        request = pb.StreamRunEventsRequest(run=run, after_sequence=after)
        try:
            stream: Any = rpc.server_stream(
                stub.StreamRunEvents, request, timeout=_FOLLOW, metadata=[(FORWARDED, "1")]
            )
            async with aclosing(stream):
                async for response in stream:
                    yield [item_from_pb(item) for item in response.items]
        finally:
            self._users[address] -= 1

    async def cancel(self, address: str, run: str) -> None:
        """See Peers."""
        await self._tell(address, lambda stub: stub.CancelRun, pb.CancelRunRequest(name=run))

    async def provide(self, address: str, run: str, said: RunInput) -> None:
        """See Peers."""
        if said.answer is not None:
            answer = pb.AnswerQuestionRequest(run=run, call_id=said.call_id, answer=said.answer)
            await self._tell(address, lambda stub: stub.AnswerQuestion, answer)
            return
        decision = pb.ApproveToolCallRequest(run=run, call_id=said.call_id)
        decision.decision.CopyFrom(input_to_pb(said).decision)
        await self._tell(address, lambda stub: stub.ApproveToolCall, decision)

    async def _tell(self, address: str, method: Callable[[Any], Any], request: Any) -> None:
        rpc = await self._take(address)
        stub: Any = OrchestratorServiceStub(rpc.channel)
        try:
            await rpc.unary(method(stub), request, timeout=_CALL, metadata=[(FORWARDED, "1")])
        finally:
            self._users[address] -= 1

    async def close(self) -> None:
        """Closes all connections."""
        while self._open:
            _, rpc = self._open.popitem()
            await rpc.channel.close()

    async def _take(self, address: str) -> RpcClient:
        rpc = self._open.get(address)
        if rpc is None:
            rpc = self._open[address] = RpcClient(
                # No retries: the store knows better where the run is by now.
                open_channel(address, retries=False),
                issuer=self._issuer,
                default_timeout=_CALL,
            )
        self._open.move_to_end(address)
        self._users[address] = self._users.get(address, 0) + 1
        idle = [known for known in self._open if not self._users[known]]
        for known in idle[: max(0, len(self._open) - _MAX_CHANNELS)]:
            del self._users[known]
            await self._open.pop(known).channel.close()
        return rpc
