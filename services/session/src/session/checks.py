"""Checks of request fields; every error names the field, the value and the fix."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from agentteams.session.v1 import run_pb2, session_pb2, session_service_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from servicekit.context import remaining
from servicekit.errors import InvalidArgument
from servicekit.ids import is_uuid4
from session.core.model import Lease, RunFilter, RunState
from session.core.ports import MAX_LEASE, MIN_LEASE
from session.core.user_data import MAX_RETENTION, MIN_RETENTION

MAX_DISPLAY_NAME = 200
MAX_INPUT_MESSAGES = 200
MAX_EVENTS = 256
MAX_TOOL_RESULT = 2_000_000  # characters of four bytes at most: it always fits into an event
MAX_PAYLOAD_BYTES = 8 * 1024 * 1024  # of an event: it must fit into a response
MAX_RENEWED_RUNS = 1_000
MAX_FILTERED_TEAMS = 1_000
MAX_SCHEMA_BYTES = 64 * 1024
MAX_SUMMARY_BYTES = 32 * 1024  # with each of 50 runs of one response
MAX_CALL_ID = 1_024
MAX_ANSWER = 32_768
MAX_REASON = 1_024
MAX_WAIT = timedelta(seconds=30)
_ANSWER_TIME = timedelta(milliseconds=500)  # what is left to answer when the wait is over
# A run that is taken over comes with its input: it must fit into a response with all the rest.
MAX_INPUT_BYTES = 8 * 1024 * 1024
_MAX_NAME = 253  # as Kubernetes allows

_TRACE_PARENT = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_SPAN = re.compile(r"[0-9a-f]{16}")
_ID = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_TERMINAL = {run_pb2.RUN_STATE_SUCCEEDED, run_pb2.RUN_STATE_FAILED, run_pb2.RUN_STATE_CANCELLED}


def resource_id(field: str, name: str, collection: str) -> str:
    """The id in `collection/id`."""
    prefix, _, id_ = name.partition("/")
    if prefix != collection or not _ID.fullmatch(id_):
        raise InvalidArgument.field(field, f"must have the form {collection}/{{id}}", name)
    return id_


def run_filter(tenant: str, request: session_service_pb2.AcquireExpiredRunsRequest) -> RunFilter:
    """Which runs an orchestrator of the tenant (empty: of all) asks for."""
    if request.teams and request.except_teams:
        raise InvalidArgument.field("except_teams", "must be empty when teams is given")
    both = {}
    for field, names in (("teams", request.teams), ("except_teams", request.except_teams)):
        number(f"{field} (count)", len(names), minimum=0, maximum=MAX_FILTERED_TEAMS)
        both[field] = frozenset(resource_id(f"{field}[{i}]", name, "teams") for i, name in enumerate(names))
    return RunFilter(tenant=tenant, **both)


def optional_id(field: str, name: str, collection: str) -> str:
    """As `resource_id`; empty stays empty."""
    return resource_id(field, name, collection) if name else ""


def request_id(value: str) -> str:
    """A UUID4, in lower case: the same id must not count as two."""
    if not is_uuid4(value):
        raise InvalidArgument.field(
            "request_id", "must be a UUID4 that you make once for this request", value
        )
    return value.lower()


def text(field: str, value: str, *, maximum: int = _MAX_NAME, required: bool = False) -> str:
    """A text that the database can hold."""
    if required and not value:
        raise InvalidArgument.field(field, "is required")
    if len(value) > maximum:
        raise InvalidArgument.field(field, f"has {len(value)} characters, at most {maximum} are allowed")
    if "\0" in value:
        raise InvalidArgument.field(field, "has a NUL character; remove it")
    return value


def lease(owner: str, duration: Duration, address: str = "", *, may_give_back: bool = False) -> Lease:
    """The fields lease_owner, lease_duration and lease_address."""
    text("lease_owner", owner, required=True)
    text("lease_address", address)
    try:
        length = duration.ToTimedelta()
    except (OverflowError, ValueError):
        length = timedelta.max
    given_back = may_give_back and not length
    if not given_back and not MIN_LEASE <= length <= MAX_LEASE:
        alternative = ", or 0 to give the leases back" if may_give_back else ""
        raise InvalidArgument.field("lease_duration", f"must be 1 s to 10 min{alternative}", str(length))
    return Lease(owner=owner, duration=length, address=address)


def wait(duration: Duration) -> timedelta:
    """The field wait of ListRunEvents; shorter if the caller's deadline is."""
    try:
        length = duration.ToTimedelta()
    except (OverflowError, ValueError):
        length = timedelta.max
    if not timedelta(0) <= length <= MAX_WAIT:
        raise InvalidArgument.field("wait", "must be 0 to 30 s", str(length))
    left = remaining()
    return length if left is None else max(min(length, left - _ANSWER_TIME), timedelta(0))


def retention(field: str, parent: Message, name: str = "retention") -> timedelta | None:
    """An optional field of `parent`: how long a session is kept."""
    if not parent.HasField(name):
        return None
    duration: Duration = getattr(parent, name)
    try:
        length = duration.ToTimedelta()
    except (OverflowError, ValueError):
        length = timedelta.max
    if not MIN_RETENTION <= length <= MAX_RETENTION:
        raise InvalidArgument.field(field, "must be 1 min to 100 years; leave it out for ever", str(length))
    return length


def time(name: str, parent: Message, field: str = "") -> datetime | None:
    """An optional Timestamp field of `parent`; `field`: its whole path."""
    if not parent.HasField(name):
        return None
    stamp: Timestamp = getattr(parent, name)
    try:
        return stamp.ToDatetime(UTC)
    except (OverflowError, ValueError) as error:
        raise InvalidArgument.field(field or name, "is not a time", stamp.seconds) from error


def message_name(field: str, name: str) -> tuple[str, int]:
    """Session and sequence of `sessions/{session}/messages/{message}`."""
    session, _, sequence = name.partition("/messages/")
    if not re.fullmatch(r"[1-9][0-9]{0,17}", sequence):
        raise InvalidArgument.field(field, "must have the form sessions/{session}/messages/{message}", name)
    return resource_id(field, session, "sessions"), int(sequence)


def number(field: str, value: int, *, minimum: int = 0, maximum: int | None = None) -> int:
    """A number in its range."""
    if value < minimum or (maximum is not None and value > maximum):
        upper = "" if maximum is None else f" and at most {maximum}"
        raise InvalidArgument.field(field, f"must be at least {minimum}{upper}", value)
    return value


def input_messages(messages: Sequence[session_pb2.Message], *, new_session: bool) -> None:
    """The field input of BeginRun."""
    if not messages:
        raise InvalidArgument.field("input", "is required: at least the user's question")
    if len(messages) > MAX_INPUT_MESSAGES:
        raise InvalidArgument.field(
            "input", f"has {len(messages)} messages, at most {MAX_INPUT_MESSAGES} are allowed"
        )
    if len(messages) > 1 and not new_session:
        raise InvalidArgument.field(
            "input", "more than one message is for new sessions only; send the last one", len(messages)
        )
    size = sum(message.ByteSize() for message in messages)
    if size > MAX_INPUT_BYTES:
        raise InvalidArgument.field("input", f"has {size} bytes, at most {MAX_INPUT_BYTES} are allowed")
    for index, message in enumerate(messages):
        field = f"input[{index}]"
        if message.role not in (session_pb2.ROLE_SYSTEM, session_pb2.ROLE_USER, session_pb2.ROLE_ASSISTANT):
            raise InvalidArgument.field(
                f"{field}.role", "must be ROLE_SYSTEM, ROLE_USER or ROLE_ASSISTANT", message.role
            )
        text(f"{field}.content", message.content, maximum=len(message.content), required=True)
    if messages[-1].role != session_pb2.ROLE_USER:
        role = session_pb2.Role.Name(messages[-1].role)
        raise InvalidArgument.field(
            f"input[{len(messages) - 1}].role", "the last message must be the user's", role
        )


def run_events(events: Sequence[run_pb2.RunEvent]) -> None:
    """The field events of AppendRunEvents."""
    if not 1 <= len(events) <= MAX_EVENTS:
        raise InvalidArgument.field("events", f"must be 1 to {MAX_EVENTS}", len(events))
    first = number("events[0].sequence", events[0].sequence, minimum=1)
    for index, event in enumerate(events):
        if event.sequence != first + index:
            raise InvalidArgument.field(
                f"events[{index}].sequence", f"must follow the one before: {first + index}", event.sequence
            )
        _run_event(f"events[{index}]", event, last=index == len(events) - 1)


def _size(field: str, message: Message) -> None:
    size = message.ByteSize()
    if size > MAX_PAYLOAD_BYTES:
        raise InvalidArgument.field(
            field, f"has {size} bytes, at most {MAX_PAYLOAD_BYTES} are allowed; send less"
        )


def _run_event(field: str, event: run_pb2.RunEvent, *, last: bool) -> None:
    kind = event.WhichOneof("event")
    if kind is None:
        raise InvalidArgument.field(
            f"{field}.event", "is required; or it is a kind that this version does not know"
        )
    if (kind == "run_started") != (event.sequence == 1):
        raise InvalidArgument.field(f"{field}.event", "run_started is event 1, which BeginRun stores", kind)
    if not event.HasField("create_time"):
        raise InvalidArgument.field(f"{field}.create_time", "is required: when the step happened")
    text(f"{field}.member", event.member)
    if kind == "tool_call_finished" and len(event.tool_call_finished.result) > MAX_TOOL_RESULT:
        raise InvalidArgument.field(
            f"{field}.tool_call_finished.result",
            f"at most {MAX_TOOL_RESULT} characters are allowed; shorten it and say so in it",
            len(event.tool_call_finished.result),
        )
    _size(field, event)
    if kind == "input_requested":
        _input_requested(f"{field}.input_requested", event.input_requested)
    if kind == "input_provided":
        call_id = event.input_provided.input.call_id
        text(f"{field}.input_provided.input.call_id", call_id, maximum=MAX_CALL_ID, required=True)
    if kind == "history_summarized":
        _history_summarized(f"{field}.history_summarized", event.history_summarized)
    if kind == "run_finished":
        _run_finished(f"{field}.run_finished", event.run_finished, last=last)


def _input_requested(field: str, asked: run_pb2.InputRequested) -> None:
    text(f"{field}.call_id", asked.call_id, maximum=MAX_CALL_ID, required=True)
    if asked.WhichOneof("request") is None:
        raise InvalidArgument.field(f"{field}.request", "is required: approval or question")
    time("expire_time", asked, f"{field}.expire_time")


def _history_summarized(field: str, summarized: run_pb2.HistorySummarized) -> None:
    size = len(summarized.text.encode())
    if not 1 <= size <= MAX_SUMMARY_BYTES:
        raise InvalidArgument.field(
            f"{field}.text", f"must have 1 to {MAX_SUMMARY_BYTES} bytes in UTF-8", size
        )
    number(f"{field}.through_message_sequence", summarized.through_message_sequence, minimum=1)


def run_input(said: run_pb2.RunInput) -> None:
    """The field input of ProvideRunInput."""
    text("input.call_id", said.call_id, maximum=MAX_CALL_ID, required=True)
    kind = said.WhichOneof("input")
    if kind is None:
        raise InvalidArgument.field("input", "is required: decision or answer, as was asked for")
    if kind == "answer":
        text("input.answer", said.answer, maximum=MAX_ANSWER, required=True)
    else:
        text("input.decision.reason", said.decision.reason, maximum=MAX_REASON)


def answers(request: run_pb2.InputRequested, said: run_pb2.RunInput) -> None:
    """Whether it says what was asked for."""
    asked = "decision" if request.HasField("approval") else "answer"
    given = said.WhichOneof("input")
    if given != asked:
        raise InvalidArgument.field("input", f"the run asks for the field {asked}", given)
    choices = list(request.question.choices)
    if choices and said.answer not in choices:
        raise InvalidArgument.field("input.answer", f"must be one of: {', '.join(choices)}", said.answer)


def trace(context: run_pb2.TraceContext) -> bytes:
    """The field trace of BeginRun."""
    if context.trace_parent and not _TRACE_PARENT.fullmatch(context.trace_parent):
        raise InvalidArgument.field(
            "trace.trace_parent", "must be a traceparent of W3C, version 00", context.trace_parent[:80]
        )
    if context.parent_span and not _SPAN.fullmatch(context.parent_span):
        raise InvalidArgument.field("trace.parent_span", "must be 16 hex digits", context.parent_span[:80])
    return context.SerializeToString()


def answer_schema(schema: Message) -> None:
    """The field answer_schema of BeginRun."""
    size = schema.ByteSize()
    if size > MAX_SCHEMA_BYTES:
        raise InvalidArgument.field(
            "answer_schema", f"has {size} bytes, at most {MAX_SCHEMA_BYTES} are allowed"
        )


def run_state(state: "run_pb2.RunState.ValueType") -> RunState | None:
    """The field state of ListRuns; unspecified: any."""
    if state == run_pb2.RUN_STATE_UNSPECIFIED:
        return None
    try:
        return RunState(state)
    except ValueError as error:
        known = ", ".join(f"RUN_STATE_{one.name}" for one in RunState)
        raise InvalidArgument.field("state", f"must be one of {known}", state) from error


def run_view(view: "run_pb2.RunView.ValueType") -> bool:
    """The field view of GetRun: whether all of the run is wanted."""
    if view not in run_pb2.RunView.values():
        raise InvalidArgument.field("view", "must be RUN_VIEW_BASIC or RUN_VIEW_FULL", view)
    return view == run_pb2.RUN_VIEW_FULL


def _run_finished(field: str, end: run_pb2.RunFinished, *, last: bool) -> None:
    if not last:
        raise InvalidArgument.field(field, "must be the last event of the log")
    if end.state not in _TERMINAL:
        raise InvalidArgument.field(f"{field}.state", "must be SUCCEEDED, FAILED or CANCELLED", end.state)
    if end.HasField("status") != (end.state == run_pb2.RUN_STATE_FAILED):
        raise InvalidArgument.field(f"{field}.status", "must be set for FAILED, and for nothing else")
