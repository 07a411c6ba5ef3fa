"""The session service over gRPC: what is stored of runs and conversations."""

from agentteams.session.v1 import run_pb2, session_pb2
from agentteams.session.v1 import session_service_pb2 as pb
from agentteams.session.v1.session_service_pb2_grpc import SessionServiceStub
from google.protobuf.timestamp_pb2 import Timestamp

from gateway.adapters.read import citation_from_pb, scores_from_pb, stages_from_pb, usage_from_pb
from gateway.core.model import NoScores, Scores, StoredMessage, StoredRun
from servicekit.client import RpcClient
from servicekit.errors import error_from_status


class SessionClient:
    """Calls as the current caller.

    Args:
        rpc: The connection.
    """

    def __init__(self, rpc: RpcClient) -> None:
        self._rpc = rpc
        self._stub = SessionServiceStub(rpc.channel)

    async def run(self, name: str) -> StoredRun:
        """See Conversations."""
        request = pb.GetRunRequest(name=name, view=run_pb2.RUN_VIEW_FULL)
        run = await self._rpc.unary(self._stub.GetRun, request)
        return StoredRun(
            name=run.name,
            session=run.session,
            team=run.team.removeprefix("teams/"),
            state=run_pb2.RunState.Name(run.state).removeprefix("RUN_STATE_").lower(),
            create_time=_time(run.create_time),
            end_time=_time(run.end_time) if run.HasField("end_time") else "",
            error=error_from_status(run.status) if run.HasField("status") else None,
            usage=usage_from_pb(run.summary.usage),
            stages=stages_from_pb(run.summary),
            scores=_scores(run),
        )

    async def messages(
        self, session: str, *, page_size: int, page_token: str
    ) -> tuple[list[StoredMessage], str]:
        """See Conversations."""
        request = pb.ListMessagesRequest(parent=session, page_size=page_size, page_token=page_token)
        page = await self._rpc.unary(self._stub.ListMessages, request)
        return [_message(message) for message in page.messages], page.next_page_token


def _scores(run: run_pb2.Run) -> Scores | NoScores:
    if run.HasField("scores"):
        return scores_from_pb(run.scores)
    may_come = run.summary.HasField("scoring") or not run.HasField("end_time")
    return NoScores(missing="not_yet" if may_come else "not_chosen")


def _message(message: session_pb2.Message) -> StoredMessage:
    return StoredMessage(
        name=message.name,
        role=session_pb2.Role.Name(message.role).removeprefix("ROLE_").lower(),
        content=message.content,
        run=message.run,
        create_time=_time(message.create_time),
        citations=tuple(citation_from_pb(one) for one in message.citations),
        scores=scores_from_pb(message.scores) if message.HasField("scores") else None,
    )


def _time(stamp: Timestamp) -> str:
    return stamp.ToJsonString()
