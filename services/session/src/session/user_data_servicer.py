"""The RPCs of SessionService about all that a user has: fork, export, erase."""

from collections.abc import AsyncIterator
from datetime import datetime

import grpc
from agentteams.session.v1 import session_pb2, session_service_pb2, session_service_pb2_grpc

from servicekit.errors import NotFound
from session import checks, convert
from session.callers import current_owner, owner_named
from session.core.model import Owner, Run, Session
from session.core.ports import SessionStore
from session.core.user_data import Erased, NewFork, SessionTimes
from session.memory_servicer import memory_to_pb
from session.score_servicer import evaluation_to_pb, scores_to_pb

UserRecord = session_service_pb2.UserRecord

# Rows of one read, and what one response holds: memory stays flat however much a user has.
_PAGE = 100
_FEW = 4  # of rows that may have megabytes
_RESPONSE_BYTES = 1024 * 1024


class UserDataMethods(session_service_pb2_grpc.SessionServiceServicer):
    """A part of SessionServicer."""

    _store: SessionStore

    async def ForkSession(
        self,
        request: session_service_pb2.ForkSessionRequest,
        context: grpc.aio.ServicerContext[object, object],
    ) -> session_pb2.Session:
        """Copies the beginning of a session into a new one."""
        session, sequence = checks.message_name("message", request.message)
        new = NewFork(
            request_id=checks.request_id(request.request_id),
            body_hash=convert.fork_hash(request),
            session=session,
            sequence=sequence,
            display_name=checks.text("display_name", request.display_name, maximum=checks.MAX_DISPLAY_NAME),
        )
        return convert.session_to_pb(await self._store.fork_session(current_owner(), new))

    async def ExportUserData(
        self,
        request: session_service_pb2.ExportUserDataRequest,
        context: grpc.aio.ServicerContext[object, object],
    ) -> AsyncIterator[session_service_pb2.ExportUserDataResponse]:
        """Streams all that is kept of a user."""
        response, size = session_service_pb2.ExportUserDataResponse(), 0
        async for record in _records(self._store, owner_named(request.user)):
            length = record.ByteSize()
            if response.records and (size + length > _RESPONSE_BYTES or len(response.records) == _PAGE):
                yield response
                response, size = session_service_pb2.ExportUserDataResponse(), 0
            response.records.append(record)
            size += length
        if response.records:
            yield response

    async def EraseUserData(
        self,
        request: session_service_pb2.EraseUserDataRequest,
        context: grpc.aio.ServicerContext[object, object],
    ) -> session_service_pb2.EraseUserDataResponse:
        """Deletes all that is kept of a user."""
        owner, total = owner_named(request.user), Erased()
        while (erased := await self._store.erase_some(owner)) != Erased():
            total += erased
        return session_service_pb2.EraseUserDataResponse(
            sessions=total.sessions,
            messages=total.messages,
            runs=total.runs,
            run_events=total.run_events,
            memories=total.memories,
        )


def session_times(request: session_service_pb2.ListSessionsRequest) -> SessionTimes:
    """The ranges of times in ListSessions."""
    return SessionTimes(
        updated_after=checks.time("updated_after", request),
        updated_before=checks.time("updated_before", request),
        created_after=checks.time("created_after", request),
        created_before=checks.time("created_before", request),
    )


async def _records(store: SessionStore, owner: Owner) -> AsyncIterator[UserRecord]:
    used: tuple[datetime, str] | None = None
    while sessions := await store.sessions_by_use(owner, after=used, limit=_PAGE):
        for session in sessions:
            yield UserRecord(session=convert.session_to_pb(session))
            try:
                async for record in _records_of_session(store, owner, session):
                    yield record
            except NotFound:
                continue  # deleted meanwhile
        used = (sessions[-1].update_time, sessions[-1].id)
    added: tuple[datetime, str] | None = None
    while memories := await store.list_memories(owner, team="", before=added, limit=_PAGE):
        for memory in memories:
            yield UserRecord(memory=memory_to_pb(memory))
        added = (memories[-1].create_time, memories[-1].id)
    stored: tuple[datetime, str] | None = None
    while evaluations := await store.list_evaluations(owner, team="", before=stored, limit=_FEW):
        for evaluation in evaluations:
            yield UserRecord(team_evaluation=evaluation_to_pb(evaluation))
        stored = (evaluations[-1].create_time, evaluations[-1].id)


async def _records_of_session(
    store: SessionStore, owner: Owner, session: Session
) -> AsyncIterator[UserRecord]:
    last = 0
    while last < session.message_count:
        page = await store.list_messages(owner, session.id, after_sequence=last, limit=_PAGE)
        messages = page.items
        if not messages:
            break
        for message in messages:
            yield UserRecord(message=convert.message_to_pb(message))
        last = messages[-1].sequence
    begun: tuple[datetime, str] | None = None
    while runs := await store.runs_of_session(owner, session.id, after=begun, limit=_PAGE):
        for run in runs:
            yield UserRecord(run=convert.run_to_pb(run))
            async for record in _records_of_run(store, owner, run):
                yield record
        begun = (runs[-1].create_time, runs[-1].id)


async def _records_of_run(store: SessionStore, owner: Owner, run: Run) -> AsyncIterator[UserRecord]:
    last = 0
    while last < run.last_sequence:
        events = await store.list_run_events(owner, run.id, after_sequence=last, limit=_PAGE)
        if not events:
            break
        for event in events:
            yield UserRecord(run_event=convert.event_to_pb(event))
        last = events[-1].sequence
    if not run.state.terminal:
        for said in await store.inputs_of_run(owner, run.id):
            yield UserRecord(run_input=convert.input_to_pb(said))
    for scores in await store.all_scores_of_run(owner, run.id):
        yield UserRecord(run_scores=scores_to_pb(scores))
