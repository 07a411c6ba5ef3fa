"""The events that the store writes itself: a run begins, or is cancelled before it could."""

from datetime import datetime, timedelta

from agentteams.session.v1 import run_pb2

from session.core.model import Event, RunEnd, RunState

FIRST_SEQUENCE = 1


def run_started(
    session: str,
    first_input: int,
    inputs: int,
    *,
    revision: str,
    answer_schema: bytes,
    now: datetime,
    trace: bytes = b"",
) -> Event:
    """Event 1: the run answers `inputs` messages of the session from `first_input` on."""
    event = _event(FIRST_SEQUENCE, now)
    event.run_started.team_revision = revision
    event.run_started.input_messages.extend(
        f"sessions/{session}/messages/{n}" for n in range(first_input, first_input + inputs)
    )
    if answer_schema:
        event.run_started.answer_schema.MergeFromString(answer_schema)
    if trace:
        event.run_started.trace.MergeFromString(trace)
    return _stored(event, now)


def run_cancelled(waited: timedelta, now: datetime) -> tuple[Event, RunEnd]:
    """Event 2 of a run that was cancelled while it waited."""
    event = _event(FIRST_SEQUENCE + 1, now)
    event.run_finished.state = run_pb2.RUN_STATE_CANCELLED
    event.run_finished.summary.duration.FromTimedelta(waited)
    summary = event.run_finished.summary.SerializeToString()
    return _stored(event, now), RunEnd(state=RunState.CANCELLED, status=b"", summary=summary)


def _event(sequence: int, now: datetime) -> run_pb2.RunEvent:
    event = run_pb2.RunEvent(sequence=sequence)
    event.create_time.FromDatetime(now)
    return event


def _stored(event: run_pb2.RunEvent, now: datetime) -> Event:
    return Event(
        sequence=event.sequence,
        kind=str(event.WhichOneof("event")),
        member="",
        create_time=now,
        payload=event.SerializeToString(),
    )
