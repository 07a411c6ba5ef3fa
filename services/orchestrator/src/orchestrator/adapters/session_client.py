"""The session service as the core's SessionLog."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from agentteams.session.v1 import run_pb2, session_service_pb2_grpc
from agentteams.session.v1 import session_service_pb2 as pb
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import ParseDict

from orchestrator.adapters.events_pb import (
    as_duration,
    event_to_pb,
    message_to_pb,
    stored_as,
    stored_event,
)
from orchestrator.adapters.events_read import input_from_pb, message_from_pb
from orchestrator.adapters.events_write import input_to_pb
from orchestrator.core.model import Event, HistorySummarized, Message, RunInput, StoredEvent
from orchestrator.core.ports import Acquired, Appended, Begun, BusyPolicy, Renewed, RunChoice, RunRow
from orchestrator.core.structured import Schema
from servicekit.client import RpcClient
from servicekit.context import Caller
from servicekit.span_wire import run_trace

_PAGE = 500
_EARLIER_RUNS = 5  # of a session, whose evidence may be used again; one page of events of each
_MAX_EVENTS = 256  # of one AppendRunEvents
_MAX_BYTES = 8 * 1024 * 1024  # of one AppendRunEvents; a message may have 16 MiB
_MAX_RUNS = 1000  # of one RenewRunLeases
_APPEND_TIMEOUT = timedelta(seconds=5)
_READ_TIMEOUT = timedelta(seconds=5)  # beside a wait
_POLICIES: dict[BusyPolicy, "run_pb2.BusyPolicy.ValueType"] = {
    "REJECT": run_pb2.BUSY_POLICY_REJECT,
    "ENQUEUE": run_pb2.BUSY_POLICY_ENQUEUE,
    "INTERRUPT": run_pb2.BUSY_POLICY_INTERRUPT,
}


class SessionClient:
    """Calls the session service as the current caller.

    Args:
        rpc: Where it is.
        owner: This process' name as an owner of leases, unlike any other's.
        address: Where other orchestrators can call this process; may be empty.
        lease: How long a lease holds unless renewed.
    """

    def __init__(self, rpc: RpcClient, *, owner: str, address: str, lease: timedelta) -> None:
        self._rpc = rpc
        self._owner = owner
        self._address = address
        self._lease = as_duration(lease)
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
        on_busy: BusyPolicy,
        max_active_runs: int,
        answer_schema: Schema | None = None,
        retention: timedelta | None,
    ) -> Begun:
        """See SessionLog."""
        request = pb.BeginRunRequest(
            request_id=request_id,
            team=team,
            session=session,
            input=[message_to_pb(message) for message in messages],
            lease_owner=self._owner,
            lease_duration=self._lease,
            lease_address=self._address,
            history_messages=history_messages,
            team_revision=team_revision,
            on_busy=_POLICIES[on_busy],
            retention=None if retention is None else as_duration(retention),
            max_active_runs=max_active_runs,
        )
        if answer_schema is not None:
            ParseDict(dict(answer_schema), request.answer_schema)
        trace_parent, parent_span = run_trace()
        if trace_parent:
            request.trace.trace_parent, request.trace.parent_span = trace_parent, parent_span
        answer = await self._rpc.unary(self._stub.BeginRun, request)
        return Begun(
            run=_row(answer.run),
            created=answer.created,
            fencing_token=answer.fencing_token,
            history=tuple(message_from_pb(message) for message in answer.history),
            started=stored_event(answer.run_started) if answer.HasField("run_started") else None,
            summary=_summary(answer),
        )

    async def append(
        self, run: str, *, fencing_token: int, events: Sequence[Event], park_until: datetime | None = None
    ) -> Appended:
        """See SessionLog. More than fit into one call go in several, in order."""
        request = pb.AppendRunEventsRequest(run=run, fencing_token=fencing_token)
        size = 0
        messages = [event_to_pb(event) for event in events]
        for message in messages:
            size += message.ByteSize()
            if request.events and (len(request.events) == _MAX_EVENTS or size > _MAX_BYTES):
                await self._rpc.unary(self._stub.AppendRunEvents, request, timeout=_APPEND_TIMEOUT)
                del request.events[:]
                size = message.ByteSize()
            request.events.append(message)
        if park_until is not None:
            request.park_until.FromDatetime(park_until)
        answer = await self._rpc.unary(self._stub.AppendRunEvents, request, timeout=_APPEND_TIMEOUT)
        if answer.HasField("run_finished"):
            messages[-1] = answer.run_finished
        return Appended(
            stored=[stored_as(event, message) for event, message in zip(events, messages, strict=True)],
            cancel_requested=answer.cancel_requested,
            next_run=_acquired(answer.next_run) if answer.HasField("next_run") else None,
            parked=answer.parked,
            inputs=_inputs(answer.inputs),
        )

    async def get(self, run: str) -> RunRow:
        """See SessionLog."""
        return _row(await self._rpc.unary(self._stub.GetRun, pb.GetRunRequest(name=run)))

    async def events(self, run: str, *, after: int, wait: timedelta = timedelta(0)) -> list[StoredEvent]:
        """See SessionLog."""
        request = pb.ListRunEventsRequest(run=run, after_sequence=after, page_size=_PAGE)
        if wait:
            request.wait.FromTimedelta(wait)
        answer = await self._rpc.unary(
            self._stub.ListRunEvents, request, timeout=wait + _READ_TIMEOUT if wait else None
        )
        return [stored_event(event) for event in answer.events]

    async def session_logs(self, row: RunRow) -> list[list[StoredEvent]]:
        """See SessionLog."""
        answer = await self._rpc.unary(
            self._stub.ListRuns, pb.ListRunsRequest(session=row.session, page_size=_EARLIER_RUNS + 1)
        )
        runs = [run.name for run in answer.runs if run.name != row.name and run.HasField("end_time")]
        return [await self.events(run, after=0) for run in runs[:_EARLIER_RUNS]]

    async def renew(self, runs: Sequence[str]) -> Renewed:
        """See SessionLog."""
        lost: list[str] = []
        cancelled: list[str] = []
        inputs: dict[str, Sequence[RunInput]] = {}
        for start in range(0, len(runs), _MAX_RUNS):
            answer = await self._renew(runs[start : start + _MAX_RUNS], self._lease)
            lost += answer.lost_runs
            cancelled += answer.cancelled_runs
            inputs.update((of.run, _inputs(of.inputs)) for of in answer.inputs)
        return Renewed(lost=lost, cancelled=cancelled, inputs=inputs)

    async def release(self, runs: Sequence[str]) -> None:
        """See SessionLog."""
        for start in range(0, len(runs), _MAX_RUNS):
            await self._renew(runs[start : start + _MAX_RUNS], Duration())

    async def _renew(self, runs: Sequence[str], lease: Duration) -> pb.RenewRunLeasesResponse:
        request = pb.RenewRunLeasesRequest(lease_owner=self._owner, runs=runs, lease_duration=lease)
        return await self._rpc.unary(self._stub.RenewRunLeases, request)

    async def request_cancel(self, run: str) -> RunRow:
        """See SessionLog."""
        request = pb.RequestRunCancelRequest(name=run)
        return _row(await self._rpc.unary(self._stub.RequestRunCancel, request))

    async def provide(self, run: str, said: RunInput, *, user: str) -> RunRow:
        """See SessionLog."""
        request = pb.ProvideRunInputRequest(run=run, input=input_to_pb(replace(said, user=user)))
        return _row(await self._rpc.unary(self._stub.ProvideRunInput, request))

    async def acquire_expired(self, which: RunChoice) -> list[Acquired]:
        """See SessionLog."""
        answer = await self._rpc.unary(
            self._stub.AcquireExpiredRuns,
            pb.AcquireExpiredRunsRequest(
                lease_owner=self._owner,
                lease_duration=self._lease,
                lease_address=self._address,
                teams=which.teams,
                except_teams=which.except_teams,
            ),
        )
        return [_acquired(run) for run in answer.runs]


def _summary(answer: pb.BeginRunResponse | pb.AcquiredRun) -> HistorySummarized | None:
    text = answer.history_summary
    return HistorySummarized(text=text, through_sequence=answer.summary_through_sequence) if text else None


def _acquired(run: pb.AcquiredRun) -> Acquired:
    return Acquired(
        run=_row(run.run),
        fencing_token=run.fencing_token,
        caller=Caller(run.tenant, run.run.user),
        history=tuple(message_from_pb(message) for message in run.history),
        input=tuple(message_from_pb(message) for message in run.input),
        owner_seen=run.owner_seen_time.ToDatetime(UTC) if run.HasField("owner_seen_time") else None,
        summary=_summary(run),
        inputs=_inputs(run.inputs),
    )


def _inputs(said: Iterable[run_pb2.RunInput]) -> tuple[RunInput, ...]:
    return tuple(input_from_pb(one) for one in said)


def _row(run: run_pb2.Run) -> RunRow:
    return RunRow(
        name=run.name,
        team=run.team,
        session=run.session,
        state=run_pb2.RunState.Name(run.state).removeprefix("RUN_STATE_"),
        last_sequence=run.last_sequence,
        user=run.user,
        attempt=run.attempt,
        lost_attempts=run.lost_attempts,
        cancel_requested=run.cancel_requested,
        owner_address=run.owner_address,
    )
