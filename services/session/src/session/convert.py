"""Protobuf to domain and back."""

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime

from agentteams.session.v1 import run_pb2, session_pb2, session_service_pb2
from google.protobuf.timestamp_pb2 import Timestamp

from servicekit.errors import InvalidArgument
from session.core.model import (
    Event,
    Message,
    NewEvent,
    NewMessage,
    Role,
    Run,
    RunEnd,
    RunState,
    Session,
)


def session_to_pb(session: Session) -> session_pb2.Session:
    """The resource."""
    return session_pb2.Session(
        name=f"sessions/{session.id}",
        team=f"teams/{session.team}",
        display_name=session.display_name,
        create_time=_timestamp(session.create_time),
        update_time=_timestamp(session.update_time),
        message_count=session.message_count,
        user=session.user,
    )


def message_to_pb(message: Message) -> session_pb2.Message:
    """The resource, with its citations."""
    result = session_pb2.Message(
        name=f"sessions/{message.session}/messages/{message.sequence}",
        role=session_pb2.Role.ValueType(message.role),
        content=message.content,
        sequence=message.sequence,
        run=f"runs/{message.run}",
        create_time=_timestamp(message.create_time),
    )
    if message.citations:
        result.MergeFromString(message.citations)
    return result


def new_message(message: session_pb2.Message) -> NewMessage:
    """What of a message is stored; the rest is output only."""
    citations = session_pb2.Message(citations=message.citations) if message.citations else None
    return NewMessage(
        role=Role(message.role),
        content=message.content,
        citations=b"" if citations is None else citations.SerializeToString(),
    )


def run_to_pb(run: Run) -> run_pb2.Run:
    """The resource."""
    result = run_pb2.Run(
        name=f"runs/{run.id}",
        team=f"teams/{run.team}",
        session=f"sessions/{run.session}",
        state=run_pb2.RunState.ValueType(run.state),
        create_time=_timestamp(run.create_time),
        last_sequence=run.last_sequence,
        user=run.user,
    )
    if run.end_time is not None:
        result.end_time.CopyFrom(_timestamp(run.end_time))
    if run.state.terminal:
        result.summary.MergeFromString(run.summary)
    if run.state is RunState.FAILED:
        result.status.MergeFromString(run.status)
    return result


def new_event(field: str, event: run_pb2.RunEvent) -> NewEvent:
    """An event, with what the store must do about it."""
    kind = event.WhichOneof("event")
    answer: NewMessage | None = None
    end: RunEnd | None = None
    if kind == "message_completed" and not event.member:
        message = event.message_completed.message
        if message.role == session_pb2.ROLE_ASSISTANT:
            answer = new_message(message)
            if "\0" in answer.content:
                # Postgres has no NUL in texts, and a model's slip must not
                # cost the answer; the event keeps it as it was.
                answer = NewMessage(
                    role=answer.role,
                    content=answer.content.replace("\0", "\N{REPLACEMENT CHARACTER}"),
                    citations=answer.citations,
                )
    elif kind == "run_finished":
        finished = event.run_finished
        end = RunEnd(
            state=RunState(finished.state),
            status=finished.status.SerializeToString() if finished.HasField("status") else b"",
            summary=finished.summary.SerializeToString(),
        )
    try:
        create_time = event.create_time.ToDatetime(UTC)
    except (OverflowError, ValueError) as error:
        raise InvalidArgument.field(
            f"{field}.create_time", "is not a time", event.create_time.seconds
        ) from error
    stored = Event(
        sequence=event.sequence,
        kind=str(kind),
        member=event.member,
        create_time=create_time,
        payload=event.SerializeToString(),
    )
    return NewEvent(event=stored, answer=answer, end=end)


def first_event(session: str, first_input: int, now: datetime, *, inputs: int, revision: str) -> Event:
    """The event run_started, whose sequence is 1."""
    event = run_pb2.RunEvent(
        sequence=1,
        create_time=_timestamp(now),
        run_started=run_pb2.RunStarted(
            team_revision=revision,
            input_messages=[
                f"sessions/{session}/messages/{n}" for n in range(first_input, first_input + inputs)
            ],
        ),
    )
    return Event(
        sequence=1, kind="run_started", member="", create_time=now, payload=event.SerializeToString()
    )


def event_to_pb(event: Event) -> run_pb2.RunEvent:
    """The event as it was stored."""
    return run_pb2.RunEvent.FromString(event.payload)


def session_hash(session: session_pb2.Session) -> bytes:
    """Tells whether a repeated CreateSession asks for the same."""
    body = session_pb2.Session(team=session.team, display_name=session.display_name)
    return hashlib.sha256(body.SerializeToString(deterministic=True)).digest()


def run_hash(request: session_service_pb2.BeginRunRequest) -> bytes:
    """Tells whether a repeated BeginRun asks the same question.

    Leaves out what depends on who asks for the client: a retry may come by
    way of another orchestrator, with its own lease and a newer manifest.
    """
    body = session_service_pb2.BeginRunRequest(
        team=request.team, session=request.session, input=request.input
    )
    return hashlib.sha256(body.SerializeToString(deterministic=True)).digest()


def newest_within(messages: Sequence[Message], budget_bytes: int) -> Sequence[Message]:
    """The newest messages (the last ones) that fit."""
    for index in range(len(messages) - 1, -1, -1):
        budget_bytes -= size_bytes(messages[index])
        if budget_bytes < 0:
            return messages[index + 1 :]
    return messages


def oldest_within(messages: Sequence[Message], budget_bytes: int) -> Sequence[Message]:
    """The oldest messages (the first ones) that fit, and always one."""
    for index, message in enumerate(messages):
        budget_bytes -= size_bytes(message)
        if budget_bytes < 0:
            return messages[: max(index, 1)]
    return messages


def size_bytes(message: Message) -> int:
    """About as many bytes as it has on the wire, and never fewer."""
    return 4 * len(message.content) + len(message.citations) + 256


def cursor(time: datetime, id_: str) -> str:
    """The place of a row in a list that is ordered by time and id."""
    return f"{time.isoformat()}/{id_}"


def place(cursor_: str) -> tuple[datetime, str]:
    """The reverse of `cursor`."""
    time, _, id_ = cursor_.partition("/")
    return datetime.fromisoformat(time), id_


def _timestamp(time: datetime) -> Timestamp:
    result = Timestamp()
    result.FromDatetime(time)
    return result
