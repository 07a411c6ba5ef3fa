"""Protobuf to domain and back."""

import hashlib
import time
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial

from agentteams.session.v1 import run_pb2, session_pb2, session_service_pb2
from google.protobuf.timestamp_pb2 import Timestamp

from servicekit.errors import InvalidArgument
from session import checks
from session.core.model import (
    AcquiredRun,
    BusyPolicy,
    Event,
    InputRequest,
    Message,
    NewEvent,
    NewInput,
    NewMessage,
    NewScoring,
    Role,
    Run,
    RunEnd,
    RunInput,
    RunState,
    Session,
    Summary,
)

_SAVE = "session_save"  # the stage of a turn that only this service can measure
_REST = "unaccounted"


def session_to_pb(session: Session) -> session_pb2.Session:
    """The resource."""
    result = session_pb2.Session(
        name=f"sessions/{session.id}",
        team=f"teams/{session.team}",
        display_name=session.display_name,
        create_time=timestamp(session.create_time),
        update_time=timestamp(session.update_time),
        message_count=session.message_count,
        user=session.user,
    )
    if session.retention is not None:
        result.retention.FromTimedelta(session.retention)
    return result


def message_to_pb(message: Message) -> session_pb2.Message:
    """The resource, with its citations."""
    result = session_pb2.Message(
        name=f"sessions/{message.session}/messages/{message.sequence}",
        role=session_pb2.Role.ValueType(message.role),
        content=message.content,
        sequence=message.sequence,
        run=f"runs/{message.run}",
        create_time=timestamp(message.create_time),
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
        create_time=timestamp(run.create_time),
        last_sequence=run.last_sequence,
        user=run.user,
        attempt=run.attempt,
        cancel_requested=run.cancel_requested,
        owner_address=run.owner_address,
        lost_attempts=run.lost_attempts,
    )
    if run.end_time is not None:
        result.end_time.CopyFrom(timestamp(run.end_time))
    if run.wait_expire_time is not None:
        result.wait_expire_time.CopyFrom(timestamp(run.wait_expire_time))
    if run.state.terminal:
        result.summary.MergeFromString(run.summary)
    if run.state is RunState.FAILED:
        result.status.MergeFromString(run.status)
    return result


def acquired_to_pb(acquired: AcquiredRun) -> session_service_pb2.AcquiredRun:
    """A run for its new owner."""
    result = session_service_pb2.AcquiredRun(
        run=run_to_pb(acquired.run),
        fencing_token=acquired.fencing_token,
        tenant=acquired.run.tenant,
        history=map(message_to_pb, acquired.history),
        input=map(message_to_pb, acquired.input),
        inputs=map(input_to_pb, acquired.said),
        history_summary=acquired.summary.text,
        summary_through_sequence=acquired.summary.through_sequence,
    )
    if acquired.answer_schema:
        result.answer_schema.MergeFromString(acquired.answer_schema)
    if acquired.owner_seen is not None:
        result.owner_seen_time.CopyFrom(timestamp(acquired.owner_seen))
    return result


def input_to_pb(said: RunInput) -> run_pb2.RunInput:
    """What a person said."""
    result = run_pb2.RunInput.FromString(said.body)
    result.user = said.user
    result.create_time.CopyFrom(timestamp(said.create_time))
    return result


def new_input(said: run_pb2.RunInput, *, user: str) -> NewInput:
    """What a person says; who and when is no part of it."""
    body = run_pb2.RunInput(call_id=said.call_id)
    if said.HasField("decision"):
        body.decision.CopyFrom(said.decision)
    else:
        body.answer = said.answer
    return NewInput(call_id=said.call_id, body=body.SerializeToString(deterministic=True), user=user)


def new_event(field: str, event: run_pb2.RunEvent) -> NewEvent:
    """An event, with what the store must do about it."""
    kind = event.WhichOneof("event")
    answer: NewMessage | None = None
    end: RunEnd | None = None
    asks: InputRequest | None = None
    told = ""
    summary: Summary | None = None
    if kind == "message_completed" and not event.member:
        message = event.message_completed.message
        if message.role == session_pb2.ROLE_ASSISTANT:
            answer = new_message(message)
            answer = replace(answer, content=_storable(answer.content))
    elif kind == "run_finished":
        finished = event.run_finished
        end = RunEnd(
            state=RunState(finished.state),
            status=finished.status.SerializeToString() if finished.HasField("status") else b"",
            summary=finished.summary.SerializeToString(),
            saved=partial(_saved, event, time.monotonic()),
            scoring=_scoring(finished.summary),
        )
    elif kind == "input_requested":
        asked = event.input_requested
        asks = InputRequest(
            call_id=asked.call_id,
            body=asked.SerializeToString(),
            expire_time=checks.time("expire_time", asked),
        )
    elif kind == "input_provided":
        told = event.input_provided.input.call_id
    elif kind == "history_summarized":
        summarized = event.history_summarized
        summary = Summary(
            text=_storable(summarized.text), through_sequence=summarized.through_message_sequence
        )
    create_time = checks.time("create_time", event, f"{field}.create_time")
    assert create_time is not None  # checks.run_events
    stored = Event(
        sequence=event.sequence,
        kind=str(kind),
        member=event.member,
        create_time=create_time,
        payload=event.SerializeToString(),
    )
    return NewEvent(event=stored, answer=answer, end=end, asks=asks, told=told, summary=summary)


def _scoring(summary: run_pb2.RunSummary) -> NewScoring | None:
    if not summary.HasField("scoring"):
        return None
    asked = summary.scoring
    return NewScoring(priority=0 if asked.suspicions else 1, request=asked.SerializeToString())


def _storable(text: str) -> str:
    """Postgres has no NUL in texts, and a model's slip must not cost the answer; the event keeps it."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")


def _saved(event: run_pb2.RunEvent, began: float) -> tuple[bytes, bytes]:
    """The end of a run with the time since `began` as stage session_save: the event, and its summary."""
    summary, took = event.run_finished.summary, timedelta(seconds=time.monotonic() - began)
    duration = summary.duration.ToTimedelta() + took
    stage = next((s for s in summary.stages if s.stage == _SAVE), None)
    if stage is None:
        stage = run_pb2.StageDuration(stage=_SAVE)
        # What no stage accounts for is told last.
        at = next((n for n, s in enumerate(summary.stages) if s.stage == _REST), len(summary.stages))
        summary.stages.insert(at, stage)
        stage = summary.stages[at]
    stage.duration.FromTimedelta(stage.duration.ToTimedelta() + took)
    stage.count += 1
    summary.duration.FromTimedelta(duration)
    return event.SerializeToString(), summary.SerializeToString()


def event_to_pb(event: Event) -> run_pb2.RunEvent:
    """The event as it was stored."""
    return run_pb2.RunEvent.FromString(event.payload)


def busy_policy(value: "run_pb2.BusyPolicy.ValueType") -> BusyPolicy:
    """The field on_busy."""
    if value == run_pb2.BUSY_POLICY_UNSPECIFIED:
        return BusyPolicy.ENQUEUE
    try:
        return BusyPolicy(value)
    except ValueError as error:
        raise InvalidArgument.field(
            "on_busy", "must be BUSY_POLICY_REJECT, BUSY_POLICY_ENQUEUE or BUSY_POLICY_INTERRUPT", value
        ) from error


def session_hash(session: session_pb2.Session) -> bytes:
    """Tells whether a repeated CreateSession asks for the same."""
    body = session_pb2.Session(team=session.team, display_name=session.display_name)
    if session.HasField("retention"):
        body.retention.CopyFrom(session.retention)
    return hashlib.sha256(body.SerializeToString(deterministic=True)).digest()


def fork_hash(request: session_service_pb2.ForkSessionRequest) -> bytes:
    """Tells whether a repeated ForkSession asks for the same; never equal to a `session_hash`."""
    body = session_service_pb2.ForkSessionRequest(message=request.message, display_name=request.display_name)
    return hashlib.sha256(b"fork" + body.SerializeToString(deterministic=True)).digest()


def run_hash(request: session_service_pb2.BeginRunRequest) -> bytes:
    """Tells whether a repeated BeginRun asks the same question.

    Leaves out what depends on who asks for the client: a retry may come by
    way of another orchestrator, with its own lease and a newer manifest. And
    how the question may wait, which is no part of it.
    """
    body = session_service_pb2.BeginRunRequest(
        team=request.team, session=request.session, input=request.input
    )
    if request.HasField("answer_schema"):
        body.answer_schema.CopyFrom(request.answer_schema)
    return hashlib.sha256(body.SerializeToString(deterministic=True)).digest()


def cursor(time: datetime, id_: str) -> str:
    """The place of a row in a list that is ordered by time and id."""
    return f"{time.isoformat()}/{id_}"


def place(cursor_: str) -> tuple[datetime, str]:
    """The reverse of `cursor`."""
    time, _, id_ = cursor_.partition("/")
    return datetime.fromisoformat(time), id_


def timestamp(time: datetime) -> Timestamp:
    """The same moment."""
    result = Timestamp()
    result.FromDatetime(time)
    return result
