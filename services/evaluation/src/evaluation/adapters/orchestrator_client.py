"""Asks teams, through the orchestrators.

Any pod of a namespace answers for all of its teams, but a team's runs begin in its own pool only
(docs/operator.md, Runtime): one that is asked for another's refuses and says which pool it is.
"""

import uuid
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing
from datetime import timedelta

from agentteams.orchestrator.v1 import orchestrator_service_pb2 as pb
from agentteams.orchestrator.v1 import orchestrator_service_pb2_grpc
from agentteams.session.v1 import run_pb2, session_pb2

from manifests import FRONT_SERVICE, SHARED_POOL, pool_name
from servicekit.client import RpcClient
from servicekit.context import current_caller
from servicekit.errors import FailedPrecondition, Internal, error_from_status

_MAX_CHANNELS = 64
_LONGEST_RUN = timedelta(hours=1)
_NAMESPACE, _SERVICE = "{namespace}", "{service}"
_ELSEWHERE = "TEAM_SERVED_ELSEWHERE"


class OrchestratorAsker:
    """`Asker` over the orchestrators that serve the caller's namespace.

    Args:
        target: `host:port`; `{service}` and `{namespace}` in it are filled in.
        connect: Opens a client of a target, which is closed here.
        stack: Closes what is open at the end.
    """

    def __init__(self, target: str, *, connect: Callable[[str], RpcClient], stack: AsyncExitStack) -> None:
        self._target = target
        self._connect = connect
        self._open: OrderedDict[str, RpcClient] = OrderedDict()
        stack.push_async_callback(self._close)

    async def ask(self, team: str, question: str) -> AsyncIterator[str]:
        """See Asker."""
        request_id, service = str(uuid.uuid4()), FRONT_SERVICE
        while True:
            try:
                async with aclosing(self._ask(service, team, question, request_id)) as names:
                    async for name in names:
                        yield name
                return
            except FailedPrecondition as error:
                # Only names that the operator gives: the caller's rights are not taken anywhere else.
                pool = str(error.metadata.get("pool", ""))
                if error.reason != _ELSEWHERE or service != FRONT_SERVICE:
                    raise
                if pool not in (SHARED_POOL, pool_name(team)):
                    raise
                service = pool

    async def _ask(
        self, service: str, team: str, question: str, request_id: str
    ) -> AsyncGenerator[str, None]:
        target = self._target.replace(_NAMESPACE, current_caller().tenant).replace(_SERVICE, service)
        rpc = await self._rpc(target)
        stub = orchestrator_service_pb2_grpc.OrchestratorServiceStub(rpc.channel)
        start = pb.StartRunRequest(
            team=f"teams/{team}",
            input=[session_pb2.Message(role=session_pb2.ROLE_USER, content=question)],
            request_id=request_id,
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
            rpc = self._open[target] = self._connect(target)
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
