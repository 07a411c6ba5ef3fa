"""Steps of a run in words: one line each."""

from collections.abc import Callable, Mapping
from typing import Any

from agentteams.session.v1 import run_pb2
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from agentteams_cli.render import excerpt, milliseconds, money, time_text

_SOURCES = {
    run_pb2.EvidenceRetrieved.SOURCE_SEARCH: "searched",
    run_pb2.EvidenceRetrieved.SOURCE_LEDGER_EXACT: "reused a search with the same words",
    run_pb2.EvidenceRetrieved.SOURCE_LEDGER_SEMANTIC: "reused a search that means the same",
    run_pb2.EvidenceRetrieved.SOURCE_LEDGER_SESSION: "reused a search of an earlier question",
}
_TASK_MARKS = {
    run_pb2.TeamTask.STATE_PENDING: " ",
    run_pb2.TeamTask.STATE_RUNNING: "~",
    run_pb2.TeamTask.STATE_DONE: "x",
    run_pb2.TeamTask.STATE_FAILED: "!",
    run_pb2.TeamTask.STATE_SKIPPED: "-",
}


def step_text(event: run_pb2.RunEvent) -> str:
    """One line for a step; empty for those that need none."""
    kind = event.WhichOneof("event") or ""
    describe = _TEXTS.get(kind)
    text = "" if describe is None else describe(getattr(event, kind))
    return f"{event.member or 'leader'}: {text}" if text else ""


def _member_finished(finished: run_pb2.MemberFinished) -> str:
    return f"failed: {finished.error.message}" if finished.HasField("error") else "done"


def _tool_call_started(call: run_pb2.ToolCallStarted) -> str:
    again = " again" if call.attempt > 1 else ""
    return f"calls {call.tool}({_arguments(call.arguments)}){again}"


def _tool_call_finished(call: run_pb2.ToolCallFinished) -> str:
    return f"the tool failed: {call.error.message}" if call.HasField("error") else ""


def _model_call_finished(call: run_pb2.ModelCallFinished) -> str:
    retried = f", {call.attempts} attempts" if call.attempts > 1 else ""
    cost = f", {money(call.cost_micros, call.currency)}" if call.currency else ""
    failed = [model.model_config.removeprefix("modelConfigs/") for model in call.fallen_back_from]
    instead = f" (instead of {', '.join(failed)})" if failed else ""
    return (
        f"model {call.model}: {call.input_tokens} tokens in, {call.output_tokens} out, "
        f"{time_text(milliseconds(call.duration))}{retried}{cost}{instead}"
    )


def _evidence_retrieved(found: run_pb2.EvidenceRetrieved) -> str:
    outcome = run_pb2.EvidenceRetrieved.Outcome.Name(found.outcome).removeprefix("OUTCOME_").lower()
    numbers = " ".join(f"[{e.number}]" for e in found.evidence)
    source = _SOURCES.get(found.source, "searched")
    if found.source == run_pb2.EvidenceRetrieved.SOURCE_LEDGER_SEMANTIC:
        source += f" ({found.similarity:.2f}: {excerpt(found.reason, 60)!r})"
        reason = ""
    else:
        reason = f", {outcome}: {found.reason}" if found.reason else ""
    result = f"{len(found.evidence)} chunks {numbers}".strip() if found.evidence else outcome
    corrected = f", then {excerpt(found.corrected_query, 80)!r}" if found.corrected_query else ""
    weak = ", weak" if found.grade == run_pb2.EvidenceRetrieved.GRADE_WEAK else ""
    kept_out = f", {found.quarantined_chunks} kept out" if found.quarantined_chunks else ""
    return f"{source} {excerpt(found.query, 80)!r}{corrected}: {result}{weak}{kept_out}{reason}"


def _run_resumed(resumed: run_pb2.RunResumed) -> str:
    again = f"; made again: {', '.join(resumed.repeated_calls)}" if resumed.repeated_calls else ""
    return f"goes on after an interruption (attempt {resumed.attempt}){again}"


def _input_requested(asked: run_pb2.InputRequested) -> str:
    if asked.WhichOneof("request") == "question":
        choices = f" ({' | '.join(asked.question.choices)})" if asked.question.choices else ""
        return f"asks you: {asked.question.text}{choices}  [{asked.call_id}]"
    call = asked.approval
    return f"waits for approval: {call.tool}({_arguments(call.arguments)})  [{asked.call_id}]"


def _input_provided(provided: run_pb2.InputProvided) -> str:
    if provided.expired:
        return "nobody answered in time"
    said = provided.input
    if said.WhichOneof("input") == "answer":
        return f"{said.user} answered: {excerpt(said.answer)}"
    reason = f": {excerpt(said.decision.reason)}" if said.decision.reason else ""
    return f"{said.user} {'approved' if said.decision.approved else 'refused'}{reason}"


def _step_started(step: run_pb2.StepStarted) -> str:
    again = f", attempt {step.attempt}" if step.attempt > 1 else ""
    return f"step {step.path} ({step.kind}{again})"


def _step_finished(step: run_pb2.StepFinished) -> str:
    if step.HasField("error"):
        return f"step {step.path} failed{', goes on' if step.continued else ''}: {step.error.message}"
    return f"step {step.path} done: {excerpt(str(MessageToDict(step.output)), 100)}"


def _tasks_changed(changed: run_pb2.TasksChanged) -> str:
    return "tasks: " + ", ".join(
        f"[{_TASK_MARKS.get(task.state, '?')}] {task.id} {task.member}: {excerpt(task.text, 40)}"
        for task in changed.tasks
    )


def _guardrail_triggered(found: run_pb2.GuardrailTriggered) -> str:
    place = (
        run_pb2.GuardrailTriggered.Place.Name(found.place).removeprefix("PLACE_").lower().replace("_", " ")
    )
    action = run_pb2.GuardrailTriggered.Action.Name(found.action).removeprefix("ACTION_").lower()
    kinds = f" ({', '.join(found.kinds)})" if found.kinds else ""
    return f"guardrail {found.guardrail} on the {place}: {found.count} found{kinds}, {action}"


def _context_trimmed(trimmed: run_pb2.ContextTrimmed) -> str:
    left_out = ", ".join(f"{t.count} {t.kind} ({t.tokens} tokens)" for t in trimmed.trimmed)
    return (
        f"the prompt needed {trimmed.needed_tokens} of {trimmed.budget_tokens} tokens; left out: {left_out}"
    )


def _team_called(called: run_pb2.TeamCalled) -> str:
    name = f"{called.namespace}/{called.team.removeprefix('teams/')}"
    if not called.state:
        return f"asks team {name} ({called.run})"
    state = run_pb2.RunState.Name(called.state).removeprefix("RUN_STATE_").lower()
    return f"team {name} {state} ({called.run}, {called.usage.model_calls} model calls there)"


def _history_summarized(summary: run_pb2.HistorySummarized) -> str:
    return f"summed up the conversation up to message {summary.through_message_sequence}"


def _arguments(arguments: Message) -> str:
    values: Mapping[str, Any] = MessageToDict(arguments)
    return ", ".join(f"{k}={excerpt(str(v), 80)!r}" for k, v in values.items())


_TEXTS: Mapping[str, Callable[[Any], str]] = {
    "member_started": lambda started: f"begins: {excerpt(started.task)}",
    "member_finished": _member_finished,
    "tool_call_started": _tool_call_started,
    "tool_call_finished": _tool_call_finished,
    "model_call_finished": _model_call_finished,
    "evidence_retrieved": _evidence_retrieved,
    "run_resumed": _run_resumed,
    "input_requested": _input_requested,
    "input_provided": _input_provided,
    "step_started": _step_started,
    "step_finished": _step_finished,
    "tasks_changed": _tasks_changed,
    "team_called": _team_called,
    "guardrail_triggered": _guardrail_triggered,
    "context_trimmed": _context_trimmed,
    "history_summarized": _history_summarized,
}
