"""The gRPC face: checks and translates, calls the store, translates back."""

from datetime import datetime
from functools import partial

import grpc
from agentteams.session.v1 import (
    run_pb2,
    session_pb2,
    session_service_pb2,
    session_service_pb2_grpc,
)
from google.protobuf.empty_pb2 import Empty

from servicekit.context import current_caller
from servicekit.errors import InvalidArgument, PermissionDenied
from servicekit.paging import PageTokens, page_size
from servicekit.server import Service
from session import checks, convert
from session.callers import current_owner as _owner
from session.callers import owner_named
from session.core.model import NewRun, NewSession, Owner, title_of
from session.core.ports import SessionStore
from session.score_servicer import answer_scores_to_pb, scores_to_pb
from session.user_data_servicer import UserDataMethods, session_times

SERVICE_NAME = session_service_pb2.DESCRIPTOR.services_by_name["SessionService"].full_name

_ORCHESTRATOR = "orchestrator"


class SessionServicer(UserDataMethods):
    """SessionService over a store."""

    def __init__(self, *, store: SessionStore, tokens: PageTokens) -> None:
        self._store = store
        self._tokens = tokens

    async def CreateSession(
        self,
        request: session_service_pb2.CreateSessionRequest,
        context: grpc.aio.ServicerContext[object, object],
    ) -> session_pb2.Session:
        """Creates a session."""
        new = NewSession(
            request_id=checks.request_id(request.request_id),
            body_hash=convert.session_hash(request.session),
            team=checks.resource_id("session.team", request.session.team, "teams"),
            display_name=_display_name(request.session),
            retention=checks.retention("session.retention", request.session),
        )
        return convert.session_to_pb(await self._store.create_session(_owner(), new))

    async def GetSession(
        self,
        request: session_service_pb2.GetSessionRequest,
        context: grpc.aio.ServicerContext[object, object],
    ) -> session_pb2.Session:
        """Returns a session."""
        session = checks.resource_id("name", request.name, "sessions")
        return convert.session_to_pb(await self._store.get_session(_owner(), session))

    async def ListSessions(
        self,
        request: session_service_pb2.ListSessionsRequest,
        context: grpc.aio.ServicerContext[object, object],
    ) -> session_service_pb2.ListSessionsResponse:
        """Lists sessions, last used first."""
        owner = owner_named(request.user)
        times = session_times(request)
        bound = ("sessions", owner.tenant, owner.user, request.team, repr(times))
        limit = page_size(request.page_size, default=50, maximum=200)
        found = await self._store.list_sessions(
            owner,
            team=checks.optional_id("team", request.team, "teams"),
            before=self._place(bound, request.page_token),
            limit=limit + 1,
            times=times,
        )
        response = session_service_pb2.ListSessionsResponse(
            sessions=[convert.session_to_pb(session) for session in found[:limit]]
        )
        if len(found) > limit:
            last = found[limit - 1]
            response.next_page_token = self._tokens.encode(bound, convert.cursor(last.update_time, last.id))
        return response

    async def UpdateSession(
        self,
        request: session_service_pb2.UpdateSessionRequest,
        context: grpc.aio.ServicerContext[object, object],
    ) -> session_pb2.Session:
        """Changes a session's display name."""
        session = checks.resource_id("session.name", request.session.name, "sessions")
        display_name = _display_name(request.session)
        for path in request.update_mask.paths:
            if path not in ("display_name", "*"):
                raise InvalidArgument.field("update_mask", "only display_name can be changed", path)
        if display_name or request.update_mask.paths:
            return convert.session_to_pb(
                await self._store.update_session(_owner(), session, display_name=display_name)
            )
        return convert.session_to_pb(await self._store.get_session(_owner(), session))

    async def DeleteSession(
        self,
        request: session_service_pb2.DeleteSessionRequest,
        context: grpc.aio.ServicerContext[object, object],
    ) -> Empty:
        """Deletes a session with everything below it."""
        await self._store.delete_session(_owner(), checks.resource_id("name", request.name, "sessions"))
        return Empty()

    async def ListMessages(
        self,
        request: session_service_pb2.ListMessagesRequest,
        context: grpc.aio.ServicerContext[object, object],
    ) -> session_service_pb2.ListMessagesResponse:
        """Lists messages, oldest first."""
        owner = _owner()
        session = checks.resource_id("parent", request.parent, "sessions")
        bound = ("messages", owner.tenant, owner.user, session)
        after = int(self._tokens.decode(bound, request.page_token)) if request.page_token else 0
        limit = page_size(request.page_size, default=50, maximum=200)
        page = await self._store.list_messages(owner, session, after_sequence=after, limit=limit)
        response = session_service_pb2.ListMessagesResponse(
            messages=[convert.message_to_pb(message) for message in page.items]
        )
        scored = await self._store.scores_of_answers(owner, page.items)
        for message in response.messages:
            if message.sequence in scored:
                message.scores.CopyFrom(answer_scores_to_pb(scored[message.sequence]))
        if page.more:
            response.next_page_token = self._tokens.encode(bound, str(page.items[-1].sequence))
        return response

    async def BeginRun(
        self,
        request: session_service_pb2.BeginRunRequest,
        context: grpc.aio.ServicerContext[object, object],
    ) -> session_service_pb2.BeginRunResponse:
        """Stores question, run and first event in one transaction."""
        new = _new_run(request)
        begun = await self._store.begin_run(_owner(), new)
        return session_service_pb2.BeginRunResponse(
            run=convert.run_to_pb(begun.run),
            created=begun.created,
            fencing_token=begun.fencing_token,
            history=map(convert.message_to_pb, begun.history),
            run_started=None if begun.started is None else convert.event_to_pb(begun.started),
            history_summary=begun.summary.text,
            summary_through_sequence=begun.summary.through_sequence,
        )

    async def AppendRunEvents(
        self,
        request: session_service_pb2.AppendRunEventsRequest,
        context: grpc.aio.ServicerContext[object, object],
    ) -> session_service_pb2.AppendRunEventsResponse:
        """Appends events to a run's log."""
        run = checks.resource_id("run", request.run, "runs")
        checks.number("fencing_token", request.fencing_token, minimum=1)
        checks.run_events(request.events)
        events = [convert.new_event(f"events[{i}]", event) for i, event in enumerate(request.events)]
        park_until = checks.time("park_until", request)
        if park_until is not None and events[-1].end is not None:
            raise InvalidArgument.field("park_until", "a run that ends does not wait", park_until.isoformat())
        appended = await self._store.append_events(
            _owner(), run, fencing_token=request.fencing_token, events=events, park_until=park_until
        )
        next_run, end = appended.next_run, appended.run_finished
        return session_service_pb2.AppendRunEventsResponse(
            last_sequence=appended.last_sequence,
            cancel_requested=appended.cancel_requested,
            next_run=None if next_run is None else convert.acquired_to_pb(next_run),
            run_finished=None if end is None else convert.event_to_pb(end),
            parked=appended.parked,
            inputs=map(convert.input_to_pb, appended.said),
        )

    async def RenewRunLeases(
        self,
        request: session_service_pb2.RenewRunLeasesRequest,
        context: grpc.aio.ServicerContext[object, object],
    ) -> session_service_pb2.RenewRunLeasesResponse:
        """Renews leases or gives them back: all those of an orchestrator, else the caller's own."""
        caller = current_caller()
        owner = None if caller.service == _ORCHESTRATOR else _owner()
        lease = checks.lease(request.lease_owner, request.lease_duration, may_give_back=True)
        checks.number("runs (count)", len(request.runs), minimum=1, maximum=checks.MAX_RENEWED_RUNS)
        runs = [checks.resource_id(f"runs[{i}]", name, "runs") for i, name in enumerate(request.runs)]
        renewed = await self._store.renew_leases(owner, runs, lease=lease, tenant=caller.tenant)
        return session_service_pb2.RenewRunLeasesResponse(
            lost_runs=[f"runs/{run}" for run in dict.fromkeys(runs) if run in renewed.lost],
            cancelled_runs=[f"runs/{run}" for run in dict.fromkeys(runs) if run in renewed.cancelled],
            inputs=[
                session_service_pb2.RunInputs(run=f"runs/{run}", inputs=map(convert.input_to_pb, said))
                for run, said in renewed.said.items()
            ],
        )

    async def AcquireExpiredRuns(
        self,
        request: session_service_pb2.AcquireExpiredRunsRequest,
        context: grpc.aio.ServicerContext[object, object],
    ) -> session_service_pb2.AcquireExpiredRunsResponse:
        """Takes over runs that nobody works on."""
        if current_caller().service != _ORCHESTRATOR:
            raise PermissionDenied("AcquireExpiredRuns is for orchestrators only", reason="PERMISSION_DENIED")
        taken = await self._store.acquire_expired_runs(
            lease=checks.lease(request.lease_owner, request.lease_duration, request.lease_address),
            limit=page_size(request.max_runs, default=50, maximum=50, field="max_runs"),
            which=checks.run_filter(current_caller().tenant, request),
        )
        return session_service_pb2.AcquireExpiredRunsResponse(runs=map(convert.acquired_to_pb, taken))

    async def ProvideRunInput(
        self,
        request: session_service_pb2.ProvideRunInputRequest,
        context: grpc.aio.ServicerContext[object, object],
    ) -> run_pb2.Run:
        """Stores what a person says to a run that asked for it."""
        run = checks.resource_id("run", request.run, "runs")
        said = request.input
        checks.run_input(said)
        owner, user = await self._owner_of(run), current_caller().user
        if not user:  # an orchestrator speaks for whoever may
            user = checks.text("input.user", said.user, required=True)

        def check(asked: bytes) -> None:
            checks.answers(run_pb2.InputRequested.FromString(asked), said)

        new = convert.new_input(said, user=user)
        return convert.run_to_pb(await self._store.provide_input(owner, run, new, check=check))

    async def RequestRunCancel(
        self,
        request: session_service_pb2.RequestRunCancelRequest,
        context: grpc.aio.ServicerContext[object, object],
    ) -> run_pb2.Run:
        """Asks a run to stop."""
        run = checks.resource_id("name", request.name, "runs")
        return convert.run_to_pb(await self._store.request_cancel(_owner(), run))

    async def GetRun(
        self,
        request: session_service_pb2.GetRunRequest,
        context: grpc.aio.ServicerContext[object, object],
    ) -> run_pb2.Run:
        """Returns a run."""
        run, full = checks.resource_id("name", request.name, "runs"), checks.run_view(request.view)
        owner = await self._owner_of(run)
        found = convert.run_to_pb(await self._store.get_run(owner, run))
        if full:
            scores, _ = await self._store.scores_of_run(owner, run)
            if scores is not None:
                found.scores.CopyFrom(scores_to_pb(scores))
        return found

    async def ListRuns(
        self,
        request: session_service_pb2.ListRunsRequest,
        context: grpc.aio.ServicerContext[object, object],
    ) -> session_service_pb2.ListRunsResponse:
        """Lists runs, newest first."""
        owner = _owner()
        bound = ("runs", owner.tenant, owner.user, request.session, request.team, str(request.state))
        limit = page_size(request.page_size, default=50, maximum=200)
        found = await self._store.list_runs(
            owner,
            session=checks.optional_id("session", request.session, "sessions"),
            team=checks.optional_id("team", request.team, "teams"),
            before=self._place(bound, request.page_token),
            limit=limit + 1,
            state=checks.run_state(request.state),
        )
        response = session_service_pb2.ListRunsResponse(
            runs=[convert.run_to_pb(run) for run in found[:limit]]
        )
        if len(found) > limit:
            last = found[limit - 1]
            response.next_page_token = self._tokens.encode(bound, convert.cursor(last.create_time, last.id))
        return response

    async def ListRunEvents(
        self,
        request: session_service_pb2.ListRunEventsRequest,
        context: grpc.aio.ServicerContext[object, object],
    ) -> session_service_pb2.ListRunEventsResponse:
        """Lists the events of a run in order."""
        events = await self._store.list_run_events(
            _owner(),
            checks.resource_id("run", request.run, "runs"),
            after_sequence=checks.number("after_sequence", request.after_sequence),
            limit=page_size(request.page_size, default=100, maximum=500),
            wait=checks.wait(request.wait),
        )
        return session_service_pb2.ListRunEventsResponse(events=map(convert.event_to_pb, events))

    async def _owner_of(self, run: str) -> Owner:
        """The caller; if that is an orchestrator on nobody's behalf, whoever of its tenant has the run."""
        caller = current_caller()
        if caller.service == _ORCHESTRATOR and caller.tenant and not caller.user:
            return await self._store.owner_of_run(caller.tenant, run)
        return _owner()

    def _place(self, bound: tuple[str, ...], token: str) -> tuple[datetime, str] | None:
        return convert.place(self._tokens.decode(bound, token)) if token else None


def session_service(servicer: SessionServicer) -> Service:
    """For servicekit's server."""
    return Service(
        name=SERVICE_NAME,
        register=partial(session_service_pb2_grpc.add_SessionServiceServicer_to_server, servicer),
    )


def _display_name(session: session_pb2.Session) -> str:
    return checks.text("session.display_name", session.display_name, maximum=checks.MAX_DISPLAY_NAME)


def _new_run(request: session_service_pb2.BeginRunRequest) -> NewRun:
    checks.input_messages(request.input, new_session=not request.session)
    schema = request.answer_schema
    checks.answer_schema(schema)
    return NewRun(
        request_id=checks.request_id(request.request_id),
        body_hash=convert.run_hash(request),
        team=checks.resource_id("team", request.team, "teams"),
        team_revision=checks.text("team_revision", request.team_revision, required=True),
        session=checks.optional_id("session", request.session, "sessions"),
        title=title_of(next(m.content for m in request.input if m.role == session_pb2.ROLE_USER)),
        input=tuple(map(convert.new_message, request.input)),
        lease=checks.lease(request.lease_owner, request.lease_duration, request.lease_address),
        history_messages=checks.number("history_messages", request.history_messages, maximum=200),
        on_busy=convert.busy_policy(request.on_busy),
        retention=checks.retention("retention", request),
        max_active_runs=checks.number("max_active_runs", request.max_active_runs),
        answer_schema=schema.SerializeToString(deterministic=True),
        trace=checks.trace(request.trace),
    )
