"""Stored events, read for whoever goes on with their run."""

from collections.abc import Callable
from datetime import UTC
from typing import cast

from agentteams.session.v1 import run_pb2, session_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct

from manifests.expressions import canonical
from orchestrator.core.chat import ToolCall
from orchestrator.core.model import (
    Chunk,
    ContextTrimmed,
    Evidence,
    EvidenceRetrieved,
    FailedModel,
    Grade,
    GuardrailAction,
    GuardrailPlace,
    GuardrailTriggered,
    HistorySummarized,
    InputProvided,
    InputRequested,
    MemberFinished,
    MemberStarted,
    Message,
    MessageCompleted,
    ModelCallFinished,
    Outcome,
    Question,
    Role,
    RunFinished,
    RunInput,
    RunResumed,
    RunStarted,
    Source,
    State,
    Step,
    StepFinished,
    StepStarted,
    TasksChanged,
    TaskState,
    TeamCalled,
    TeamTask,
    ToolApproval,
    ToolCallFinished,
    ToolCallStarted,
    Trimmed,
)
from orchestrator.core.totals import Summary, Usage
from servicekit.errors import error_from_status

_ROLES: dict[int, Role] = {
    session_pb2.ROLE_SYSTEM: "system",
    session_pb2.ROLE_USER: "user",
    session_pb2.ROLE_ASSISTANT: "assistant",
}


_GRADES: dict[int, Grade] = {
    run_pb2.EvidenceRetrieved.GRADE_UNSPECIFIED: "",
    run_pb2.EvidenceRetrieved.GRADE_STRONG: "STRONG",
    run_pb2.EvidenceRetrieved.GRADE_WEAK: "WEAK",
}


def step_from_pb(event: run_pb2.RunEvent) -> Step | None:
    """What an event says; None for a kind that this version does not know."""
    kind = event.WhichOneof("event")
    return None if kind is None else _READERS[kind](getattr(event, kind))


def message_from_pb(message: session_pb2.Message) -> Message:
    """A message without its citations, which prompts do not need."""
    role = _ROLES[message.role]
    return Message(role=role, content=message.content, name=message.name, sequence=message.sequence)


def plain(struct: Struct) -> dict[str, object]:
    """A Struct as JSON, whole numbers as such: a Struct knows only floats."""
    return {name: _whole(value) for name, value in MessageToDict(struct).items()}


def _whole(value: object) -> object:
    if isinstance(value, dict):
        return {name: _whole(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _run_started(event: run_pb2.RunStarted) -> RunStarted:
    schema = plain(event.answer_schema) if event.HasField("answer_schema") else None
    return RunStarted(
        team_revision=event.team_revision,
        answer_schema=schema,
        trace_parent=event.trace.trace_parent,
        parent_span=event.trace.parent_span,
    )


def _run_resumed(event: run_pb2.RunResumed) -> RunResumed:
    return RunResumed(attempt=event.attempt, repeated_calls=tuple(event.repeated_calls))


def _member_started(event: run_pb2.MemberStarted) -> MemberStarted:
    return MemberStarted(call_id=event.call_id, task=event.task)


def _member_finished(event: run_pb2.MemberFinished) -> MemberFinished:
    error = error_from_status(event.error) if event.HasField("error") else None
    return MemberFinished(call_id=event.call_id, answer=event.answer, error=error)


def _tool_call_started(event: run_pb2.ToolCallStarted) -> ToolCallStarted:
    arguments = MessageToDict(event.arguments)
    return ToolCallStarted(call_id=event.call_id, tool=event.tool, arguments=arguments, attempt=event.attempt)


def _tool_call_finished(event: run_pb2.ToolCallFinished) -> ToolCallFinished:
    error = error_from_status(event.error) if event.HasField("error") else None
    return ToolCallFinished(call_id=event.call_id, result=event.result, error=error)


def _step_started(event: run_pb2.StepStarted) -> StepStarted:
    value = canonical(MessageToDict(event.input)) if event.HasField("input") else None
    return StepStarted(path=event.path, kind=event.kind, input=value, attempt=event.attempt)


def _step_finished(event: run_pb2.StepFinished) -> StepFinished:
    return StepFinished(
        path=event.path,
        output=canonical(MessageToDict(event.output)) if event.HasField("output") else None,
        attempt=event.attempt,
        error=error_from_status(event.error) if event.HasField("error") else None,
        continued=event.continued,
    )


def _message_completed(event: run_pb2.MessageCompleted) -> MessageCompleted:
    return MessageCompleted(message=message_from_pb(event.message))


def _model_call(call: run_pb2.ModelCallFinished) -> ModelCallFinished:
    first = call.first_token_duration
    return ModelCallFinished(
        model=call.model,
        input_tokens=call.input_tokens,
        output_tokens=call.output_tokens,
        seconds=_seconds(call.duration),
        first_token_seconds=_seconds(first) if call.HasField("first_token_duration") else None,
        finish_reason=call.finish_reason,
        attempts=call.attempts,
        step=call.step,
        text=call.text,
        tool_calls=tuple(ToolCall(id=c.id, name=c.tool, arguments=c.arguments) for c in call.tool_calls),
        model_config=call.model_config.removeprefix("modelConfigs/"),
        cost_micros=call.cost_micros,
        currency=call.currency,
        fallen_back_from=tuple(
            FailedModel(
                model_config=failed.model_config.removeprefix("modelConfigs/"),
                error=error_from_status(failed.error),
            )
            for failed in call.fallen_back_from
        ),
    )


def _evidence_retrieved(found: run_pb2.EvidenceRetrieved) -> EvidenceRetrieved:
    pb = run_pb2.EvidenceRetrieved
    return EvidenceRetrieved(
        query=found.query,
        knowledge_base=found.knowledge_base.removeprefix("knowledgeBases/"),
        source=cast(Source, pb.Source.Name(found.source).removeprefix("SOURCE_")),
        outcome=cast(Outcome, pb.Outcome.Name(found.outcome).removeprefix("OUTCOME_")),
        reason=found.reason,
        evidence=tuple(
            Evidence(
                number=e.number,
                chunk=Chunk(
                    id=e.chunk, document=e.document, title=e.document_title, text=e.text, score=e.score
                ),
            )
            for e in found.evidence
        ),
        step=found.step,
        ready_documents=found.ready_documents,
        quarantined=found.quarantined_chunks,
        grade=_GRADES[found.grade],
        corrected_query=found.corrected_query,
        knowledge_revision=found.knowledge_revision,
        similarity=found.similarity,
        reused_sequence=found.reused_sequence,
    )


def _tasks_changed(event: run_pb2.TasksChanged) -> TasksChanged:
    pb = run_pb2.TeamTask
    return TasksChanged(
        tasks=tuple(
            TeamTask(
                id=task.id,
                text=task.text,
                member=task.member,
                depends_on=tuple(task.depends_on),
                state=cast(TaskState, pb.State.Name(task.state).removeprefix("STATE_")),
            )
            for task in event.tasks
        )
    )


def _input_requested(event: run_pb2.InputRequested) -> InputRequested:
    asked: ToolApproval | Question
    if event.HasField("approval"):
        asked = ToolApproval(tool=event.approval.tool, arguments=plain(event.approval.arguments))
    else:
        asked = Question(text=event.question.text, choices=tuple(event.question.choices))
    expire_time = event.expire_time.ToDatetime(UTC)
    return InputRequested(call_id=event.call_id, asked=asked, expire_time=expire_time)


def _input_provided(event: run_pb2.InputProvided) -> InputProvided:
    return InputProvided(input=input_from_pb(event.input), expired=event.expired)


def input_from_pb(said: run_pb2.RunInput) -> RunInput:
    """What a person said."""
    decided = said.HasField("decision")
    return RunInput(
        call_id=said.call_id,
        approved=said.decision.approved if decided else None,
        reason=said.decision.reason,
        answer=said.answer if said.HasField("answer") else None,
        user=said.user,
    )


def _context_trimmed(event: run_pb2.ContextTrimmed) -> ContextTrimmed:
    return ContextTrimmed(
        step=event.step,
        budget_tokens=event.budget_tokens,
        needed_tokens=event.needed_tokens,
        percent=event.estimate_percent,
        trimmed=tuple(Trimmed(kind=t.kind, count=t.count, tokens=t.tokens) for t in event.trimmed),
    )


def _guardrail_triggered(event: run_pb2.GuardrailTriggered) -> GuardrailTriggered:
    pb = run_pb2.GuardrailTriggered
    return GuardrailTriggered(
        guardrail=event.guardrail,
        place=cast(GuardrailPlace, pb.Place.Name(event.place).removeprefix("PLACE_")),
        action=cast(GuardrailAction, pb.Action.Name(event.action).removeprefix("ACTION_")),
        count=event.count,
        kinds=tuple(event.kinds),
        subject=event.subject,
    )


def _history_summarized(event: run_pb2.HistorySummarized) -> HistorySummarized:
    return HistorySummarized(text=event.text, through_sequence=event.through_message_sequence)


def _run_finished(end: run_pb2.RunFinished) -> RunFinished:
    return RunFinished(
        state=state_from_pb(end.state),
        summary=Summary(
            usage=usage_from_pb(end.summary.usage), seconds=_seconds(end.summary.duration), stages=()
        ),
        error=error_from_status(end.status) if end.HasField("status") else None,
    )


def usage_from_pb(used: run_pb2.Usage) -> Usage:
    """What a run used."""
    return Usage(
        input_tokens=used.input_tokens,
        output_tokens=used.output_tokens,
        model_calls=used.model_calls,
        tool_calls=used.tool_calls,
        searches=used.searches,
        searches_saved=used.searches_saved,
        cost_micros=used.cost_micros,
        currency=used.currency,
    )


def state_from_pb(value: "run_pb2.RunState.ValueType") -> State:
    """How a run has ended."""
    return cast(State, run_pb2.RunState.Name(value).removeprefix("RUN_STATE_"))


def _team_called(called: run_pb2.TeamCalled) -> TeamCalled:
    return TeamCalled(
        call_id=called.call_id,
        namespace=called.namespace,
        team=called.team.removeprefix("teams/"),
        run=called.run,
        state=state_from_pb(called.state) if called.state else None,
        usage=usage_from_pb(called.usage) if called.HasField("usage") else None,
    )


def _seconds(value: Duration) -> float:
    return value.seconds + value.nanos / 1e9


_READERS: dict[str, Callable[..., Step]] = {
    "run_started": _run_started,
    "run_resumed": _run_resumed,
    "member_started": _member_started,
    "member_finished": _member_finished,
    "model_call_finished": _model_call,
    "tool_call_started": _tool_call_started,
    "tool_call_finished": _tool_call_finished,
    "evidence_retrieved": _evidence_retrieved,
    "tasks_changed": _tasks_changed,
    "team_called": _team_called,
    "step_started": _step_started,
    "step_finished": _step_finished,
    "guardrail_triggered": _guardrail_triggered,
    "message_completed": _message_completed,
    "context_trimmed": _context_trimmed,
    "history_summarized": _history_summarized,
    "input_requested": _input_requested,
    "input_provided": _input_provided,
    "run_finished": _run_finished,
}
