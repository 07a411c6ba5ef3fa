"""The session service's scores as the core's ScoreSource."""

from datetime import timedelta

from agentteams.session.v1 import scores_pb2 as pb
from agentteams.session.v1.scores_pb2_grpc import ScoreServiceStub

from orchestrator.core.awaited import Scored
from servicekit.client import RpcClient
from servicekit.errors import NotFound

_TIMEOUT = timedelta(seconds=5)  # beside the wait


class ScoresClient:
    """Calls the session service as the current caller.

    Args:
        rpc: Where it is.
    """

    def __init__(self, rpc: RpcClient) -> None:
        self._rpc = rpc
        self._stub = ScoreServiceStub(rpc.channel)

    async def of_run(self, run: str, *, wait: timedelta) -> Scored:
        """See ScoreSource."""
        request = pb.GetRunScoresRequest(run=run)
        if wait:
            request.wait.FromTimedelta(wait)
        try:
            found = await self._rpc.unary(self._stub.GetRunScores, request, timeout=wait + _TIMEOUT)
        except NotFound as error:
            if error.reason != "SCORES_NOT_FOUND":
                raise
            return Scored(may_come=error.metadata.get("waits") == "true")
        return Scored(payload=found)
