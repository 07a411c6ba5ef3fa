"""The session service as the core's SessionLog."""

from collections.abc import Sequence
from datetime import timedelta

from agentteams.session.v1 import run_pb2, session_service_pb2_grpc
from agentteams.session.v1 import session_service_pb2 as pb

from orchestrator.adapters.events_pb import (
    as_duration,
    event_to_pb,
    message_to_pb,
    stored_event,
)
from orchestrator.adapters.events_read import message_from_pb
from orchestrator.core.model import Event, Message, StoredEvent
from orchestrator.core.ports import LEASE, Acquired, Begun, RunRow
from servicekit.client import RpcClient
from servicekit.context import Caller

_PAGE = 500
_MAX_EVENTS = 256  # of one AppendRunEvents
_MAX_BYTES = 8 * 1024 * 1024  # of one AppendRunEvents; a message may have 16 MiB
_MAX_RUNS = 1000  # of one RenewRunLeases
_APPEND_TIMEOUT = timedelta(seconds=5)  # well below the lease: a hung call must leave time for another


class SessionClient:
    """Calls the session service as the current caller.

    Args:
        rpc: Where it is.
        owner: This process' name as an owner of leases, unlike any other's.
    """

    def __init__(self, rpc: RpcClient, *, owner: str) -> None:
        self._rpc = rpc
        self._owner = owner
        self._stub = session_service_pb2_grpc.SessionServiceStub(rpc.channel)

    async def begin(
        self,
        *,
        request_id: str,
        team: str,
        session: str,
        messages: Sequence[Message],
        history_messages: int,
        team_revision: str,
    ) -> Begun:
        """See SessionLog."""
        answer = await self._rpc.unary(
            self._stub.BeginRun,
            pb.BeginRunRequest(
                request_id=request_id,
                team=team,
                session=session,
                input=[message_to_pb(message) for message in messages],
                lease_owner=self._owner,
                lease_duration=as_duration(LEASE),
                history_messages=history_messages,
                team_revision=team_revision,
            ),
        )
        return Begun(
            run=_row(answer.run),
            created=answer.created,
            fencing_token=answer.fencing_token,
            history=tuple(message_from_pb(message) for message in answer.history),
            started=stored_event(answer.run_started) if answer.HasField("run_started") else None,
        )

    async def append(self, run: str, *, fencing_token: int, events: Sequence[Event]) -> None:
        """See SessionLog. More than fit into one call go in several, in order."""
        request = pb.AppendRunEventsRequest(run=run, fencing_token=fencing_token)
        size = 0
        for event in events:
            message = event_to_pb(event)
            size += message.ByteSize()
            if request.events and (len(request.events) == _MAX_EVENTS or size > _MAX_BYTES):
                await self._rpc.unary(self._stub.AppendRunEvents, request, timeout=_APPEND_TIMEOUT)
                del request.events[:]
                size = message.ByteSize()
            request.events.append(message)
        await self._rpc.unary(self._stub.AppendRunEvents, request, timeout=_APPEND_TIMEOUT)

    async def get(self, run: str) -> RunRow:
        """See SessionLog."""
        return _row(await self._rpc.unary(self._stub.GetRun, pb.GetRunRequest(name=run)))

    async def events(self, run: str, *, after: int) -> list[StoredEvent]:
        """See SessionLog."""
        answer = await self._rpc.unary(
            self._stub.ListRunEvents,
            pb.ListRunEventsRequest(run=run, after_sequence=after, page_size=_PAGE),
        )
        return [stored_event(event) for event in answer.events]

    async def renew(self, runs: Sequence[str]) -> list[str]:
        """See SessionLog."""
        lost: list[str] = []
        for start in range(0, len(runs), _MAX_RUNS):
            request = pb.RenewRunLeasesRequest(
                lease_owner=self._owner,
                runs=runs[start : start + _MAX_RUNS],
                lease_duration=as_duration(LEASE),
            )
            lost += (await self._rpc.unary(self._stub.RenewRunLeases, request)).lost_runs
        return lost

    async def acquire_expired(self) -> list[Acquired]:
        """See SessionLog."""
        answer = await self._rpc.unary(
            self._stub.AcquireExpiredRuns,
            pb.AcquireExpiredRunsRequest(lease_owner=self._owner, lease_duration=as_duration(LEASE)),
        )
        return [
            Acquired(
                run=_row(acquired.run),
                fencing_token=acquired.fencing_token,
                caller=Caller(acquired.tenant, acquired.run.user),
            )
            for acquired in answer.runs
        ]


def _row(run: run_pb2.Run) -> RunRow:
    return RunRow(
        name=run.name,
        team=run.team,
        session=run.session,
        state=run_pb2.RunState.Name(run.state).removeprefix("RUN_STATE_"),
        last_sequence=run.last_sequence,
        user=run.user,
    )
