"""Events of a run: from the core's form to the wire's, and back."""

from datetime import UTC, timedelta

from agentteams.orchestrator.v1 import orchestrator_service_pb2 as orchestrator_pb
from agentteams.session.v1 import run_pb2, run_scores_pb2, session_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import ParseDict
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import status_pb2

from orchestrator.adapters.events_read import step_from_pb
from orchestrator.adapters.events_write import usage_to_pb, write_step
from orchestrator.core.awaited import Scored
from orchestrator.core.log import Item
from orchestrator.core.model import (
    Event,
    Evidence,
    EvidenceRetrieved,
    MemberFinished,
    MemberStarted,
    Message,
    MessageCompleted,
    ModelCallFinished,
    Role,
    RunFinished,
    RunResumed,
    StepFinished,
    StepStarted,
    StoredEvent,
    TasksChanged,
    TextDelta,
    ToolCallFinished,
    ToolCallStarted,
)
from orchestrator.core.ports import RunRow
from orchestrator.core.totals import Scoring, Summary
from servicekit.errors import ServiceError, status_from_error

_ROLES: dict[Role, "session_pb2.Role.ValueType"] = {
    "system": session_pb2.ROLE_SYSTEM,
    "user": session_pb2.ROLE_USER,
    "assistant": session_pb2.ROLE_ASSISTANT,
}


def duration(seconds: float) -> Duration:
    """A protobuf Duration of so many seconds."""
    whole = int(seconds)
    return Duration(seconds=whole, nanos=int((seconds - whole) * 1e9))


def message_to_pb(message: Message) -> session_pb2.Message:
    """A message with its citations."""
    return session_pb2.Message(
        name=message.name,
        role=_ROLES[message.role],
        content=message.content,
        citations=[
            session_pb2.Citation(
                number=c.number,
                document=c.chunk.document,
                document_title=c.chunk.title,
                chunk=c.chunk.id,
                text=c.chunk.text,
                origin=session_pb2.Citation.ORIGIN_MODEL
                if c.by_model
                else session_pb2.Citation.ORIGIN_ATTRIBUTED,
            )
            for c in message.citations
        ],
    )


def evidence_to_pb(evidence: Evidence) -> run_pb2.Evidence:
    """A numbered chunk."""
    return run_pb2.Evidence(
        number=evidence.number,
        document=evidence.chunk.document,
        document_title=evidence.chunk.title,
        chunk=evidence.chunk.id,
        text=evidence.chunk.text,
        score=evidence.chunk.score,
    )


def summary_to_pb(summary: Summary) -> run_pb2.RunSummary:
    """What a run used and how long it took."""
    return run_pb2.RunSummary(
        usage=usage_to_pb(summary.usage),
        duration=duration(summary.seconds),
        stages=[
            run_pb2.StageDuration(stage=s.stage, duration=duration(s.seconds), count=s.count)
            for s in summary.stages
        ],
        scoring=None if summary.scoring is None else _scoring_to_pb(summary.scoring),
        called_usage=None if summary.called is None else usage_to_pb(summary.called),
    )


def _scoring_to_pb(scoring: Scoring) -> run_scores_pb2.ScoringRequest:
    return run_scores_pb2.ScoringRequest(
        selection=run_scores_pb2.ScoringRequest.Selection.Value(f"SELECTION_{scoring.selection}"),
        suspicions=scoring.suspicions,
        traceparent=scoring.traceparent,
    )


def event_to_pb(event: Event) -> run_pb2.RunEvent:
    """An event as it is stored and streamed."""
    time = Timestamp()
    time.FromDatetime(event.time)
    out = run_pb2.RunEvent(sequence=event.sequence, create_time=time, member=event.member)
    step = event.step
    write_step(out, step)
    match step:
        case RunResumed():
            out.run_resumed.attempt = step.attempt
            out.run_resumed.repeated_calls.extend(step.repeated_calls)
        case MemberStarted():
            out.member_started.call_id, out.member_started.task = step.call_id, step.task
        case MemberFinished():
            out.member_finished.call_id, out.member_finished.answer = step.call_id, step.answer
            _write_error(step.error, out.member_finished.error)
        case ModelCallFinished():
            out.model_call_finished.CopyFrom(_model_call_to_pb(step))
        case ToolCallStarted():
            out.tool_call_started.call_id, out.tool_call_started.tool = step.call_id, step.tool
            out.tool_call_started.attempt = step.attempt
            ParseDict(dict(step.arguments), out.tool_call_started.arguments)
        case ToolCallFinished():
            out.tool_call_finished.call_id, out.tool_call_finished.result = step.call_id, step.result
            _write_error(step.error, out.tool_call_finished.error)
        case EvidenceRetrieved():
            out.evidence_retrieved.CopyFrom(_evidence_retrieved_to_pb(step))
        case TasksChanged():
            out.ignorable = True
            out.tasks_changed.CopyFrom(_tasks_to_pb(step))
        case StepStarted():
            out.step_started.CopyFrom(_step_started_to_pb(step))
        case StepFinished():
            out.step_finished.CopyFrom(_step_finished_to_pb(step))
        case MessageCompleted():
            out.message_completed.message.CopyFrom(message_to_pb(step.message))
        case RunFinished():
            out.run_finished.state = run_pb2.RunState.Value(f"RUN_STATE_{step.state}")
            out.run_finished.summary.CopyFrom(summary_to_pb(step.summary))
            _write_error(step.error, out.run_finished.status)
    return out


def _write_error(error: ServiceError | None, out: status_pb2.Status) -> None:
    if error is not None:
        out.CopyFrom(status_from_error(error))


def _model_call_to_pb(step: ModelCallFinished) -> run_pb2.ModelCallFinished:
    out = run_pb2.ModelCallFinished(
        model=step.model,
        input_tokens=step.input_tokens,
        output_tokens=step.output_tokens,
        duration=duration(step.seconds),
        finish_reason=step.finish_reason,
        attempts=step.attempts,
        step=step.step,
        text=_storable(step.text),
        tool_calls=[
            run_pb2.RequestedToolCall(
                id=_storable(call.id), tool=_storable(call.name), arguments=_storable(call.arguments)
            )
            for call in step.tool_calls
        ],
        model_config=f"modelConfigs/{step.model_config}" if step.model_config else "",
        cost_micros=step.cost_micros,
        currency=step.currency,
        fallen_back_from=[
            run_pb2.FailedModel(
                model_config=f"modelConfigs/{failed.model_config}", error=status_from_error(failed.error)
            )
            for failed in step.fallen_back_from
        ],
    )
    if step.first_token_seconds is not None:
        out.first_token_duration.CopyFrom(duration(step.first_token_seconds))
    return out


def _evidence_retrieved_to_pb(step: EvidenceRetrieved) -> run_pb2.EvidenceRetrieved:
    pb = run_pb2.EvidenceRetrieved
    return pb(
        query=step.query,
        knowledge_base=f"knowledgeBases/{step.knowledge_base}",
        source=pb.Source.Value(f"SOURCE_{step.source}"),
        outcome=pb.Outcome.Value(f"OUTCOME_{step.outcome}"),
        reason=step.reason,
        evidence=[evidence_to_pb(e) for e in step.evidence],
        similarity=step.similarity,
        reused_sequence=step.reused_sequence,
        step=step.step,
        ready_documents=step.ready_documents,
        quarantined_chunks=step.quarantined,
        grade=pb.Grade.Value(f"GRADE_{step.grade or 'UNSPECIFIED'}"),
        corrected_query=step.corrected_query,
        knowledge_revision=step.knowledge_revision,
    )


def _tasks_to_pb(step: TasksChanged) -> run_pb2.TasksChanged:
    pb = run_pb2.TeamTask
    return run_pb2.TasksChanged(
        tasks=[
            pb(
                id=task.id,
                text=_storable(task.text),
                member=task.member,
                depends_on=task.depends_on,
                state=pb.State.Value(f"STATE_{task.state}"),
            )
            for task in step.tasks
        ]
    )


def _step_started_to_pb(step: StepStarted) -> run_pb2.StepStarted:
    out = run_pb2.StepStarted(path=step.path, kind=step.kind, attempt=step.attempt)
    if step.input is not None:
        ParseDict(step.input, out.input)  # type: ignore[arg-type]  # any JSON is a Value
    return out


def _step_finished_to_pb(step: StepFinished) -> run_pb2.StepFinished:
    out = run_pb2.StepFinished(path=step.path, attempt=step.attempt, continued=step.continued)
    if step.output is not None:
        ParseDict(step.output, out.output)  # type: ignore[arg-type]  # likewise
    _write_error(step.error, out.error)
    return out


def _storable(text: str) -> str:
    # What a model wrote may hold half a surrogate pair, which no protobuf takes.
    return text.encode(errors="replace").decode()


def stored_event(event: run_pb2.RunEvent) -> StoredEvent:
    """An event out of the store, passed on as it is."""
    return StoredEvent(
        sequence=event.sequence,
        time=event.create_time.ToDatetime(UTC),
        member=event.member,
        kind=event.WhichOneof("event") or "",
        payload=event,
        step=step_from_pb(event),
    )


def stored_as(event: Event, message: run_pb2.RunEvent) -> StoredEvent:
    """An event that was stored as `message`."""
    return StoredEvent(
        sequence=event.sequence,
        time=event.time,
        member=event.member,
        kind=message.WhichOneof("event") or "",
        payload=message,
        step=event.step,
    )


def item_to_pb(item: Item) -> orchestrator_pb.RunItem:
    """A step or a piece of text as it is streamed."""
    if isinstance(item, TextDelta):
        delta = orchestrator_pb.TextDelta(
            message=item.message, offset=item.offset, text=item.text, member=item.member
        )
        return orchestrator_pb.RunItem(text_delta=delta)
    return orchestrator_pb.RunItem(event=item.payload)  # type: ignore[arg-type]  # from here


def item_from_pb(item: orchestrator_pb.RunItem) -> StoredEvent | TextDelta:
    """What another orchestrator streams, to be passed on."""
    if item.HasField("event"):
        return stored_event(item.event)
    delta = item.text_delta
    return TextDelta(message=delta.message, offset=delta.offset, text=delta.text, member=delta.member)


def scores_to_pb(found: Scored) -> orchestrator_pb.ScoresResult:
    """What came of waiting for scores."""
    if found.payload is not None:
        return orchestrator_pb.ScoresResult(scores=found.payload)  # type: ignore[arg-type]  # from the client
    missing = orchestrator_pb.ScoresResult
    return missing(missing=missing.MISSING_NOT_YET if found.may_come else missing.MISSING_NOT_CHOSEN)


def run_to_pb(row: RunRow) -> run_pb2.Run:
    """A run in short."""
    return run_pb2.Run(
        name=row.name,
        team=row.team,
        session=row.session,
        state=run_pb2.RunState.Value(f"RUN_STATE_{row.state}"),
        last_sequence=row.last_sequence,
        user=row.user,
        attempt=row.attempt,
        cancel_requested=row.cancel_requested,
        owner_address=row.owner_address,
    )


def as_duration(value: timedelta) -> Duration:
    """A protobuf Duration of a timedelta."""
    return duration(value.total_seconds())
