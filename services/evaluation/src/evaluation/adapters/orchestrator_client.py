"""Asks teams, through the orchestrator."""

import uuid
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from datetime import timedelta

from agentteams.orchestrator.v1 import orchestrator_service_pb2 as pb
from agentteams.orchestrator.v1 import orchestrator_service_pb2_grpc
from agentteams.session.v1 import run_pb2, session_pb2

from servicekit.client import RpcClient, open_channel
from servicekit.context import current_caller
from servicekit.errors import Internal, error_from_status
from servicekit.identity import TokenIssuer

_MAX_CHANNELS = 64
_LONGEST_RUN = timedelta(hours=1)
_NAMESPACE = "{namespace}"


class OrchestratorAsker:
    """`Asker` over the orchestrators that serve the caller's namespace.

    Args:
        target: `host:port`; `{namespace}` in it is filled in.
        issuer: Makes the tokens.
        stack: Closes what is open at the end.
    """

    def __init__(self, target: str, *, issuer: TokenIssuer, stack: AsyncExitStack) -> None:
        self._target = target
        self._issuer = issuer
        self._open: OrderedDict[str, RpcClient] = OrderedDict()
        stack.push_async_callback(self._close)

    async def ask(self, team: str, question: str) -> AsyncIterator[str]:
        """See Asker."""
        rpc = await self._rpc(self._target.replace(_NAMESPACE, current_caller().tenant))
        stub = orchestrator_service_pb2_grpc.OrchestratorServiceStub(rpc.channel)
        start = pb.StartRunRequest(
            team=f"teams/{team}",
            input=[session_pb2.Message(role=session_pb2.ROLE_USER, content=question)],
            request_id=str(uuid.uuid4()),
        )
        stream = rpc.server_stream(stub.RunTeam, pb.RunTeamRequest(start=start), timeout=_LONGEST_RUN)
        async with aclosing(stream):  # type: ignore[type-var]
            async for response in stream:
                if response.HasField("run"):
                    yield response.run.name
                for item in response.items:
                    if item.event.HasField("run_finished"):
                        _check(item.event.run_finished)
                        return
        raise Internal("the stream of the run ended before the run", reason="INTERNAL")

    async def _rpc(self, target: str) -> RpcClient:
        rpc = self._open.get(target)
        if rpc is None:
            rpc = self._open[target] = RpcClient(
                open_channel(target), issuer=self._issuer, default_timeout=timedelta(seconds=10)
            )
            if len(self._open) > _MAX_CHANNELS:
                _, oldest = self._open.popitem(last=False)
                await oldest.channel.close()
        self._open.move_to_end(target)
        return rpc

    async def _close(self) -> None:
        while self._open:
            _, rpc = self._open.popitem()
            await rpc.channel.close()


def _check(end: run_pb2.RunFinished) -> None:
    if end.HasField("status"):
        raise error_from_status(end.status)
    if end.state != run_pb2.RUN_STATE_SUCCEEDED:
        raise Internal("the run was cancelled", reason="RUN_CANCELLED")
