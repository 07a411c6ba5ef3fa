"""Steps of a run to their events: the kinds that came after the first ones of events_pb.py."""

from collections.abc import Callable
from typing import Any

from agentteams.session.v1 import run_pb2
from google.protobuf.json_format import ParseDict

from orchestrator.core.model import (
    ContextTrimmed,
    GuardrailTriggered,
    HistorySummarized,
    InputProvided,
    InputRequested,
    RunInput,
    Step,
    TeamCalled,
    ToolApproval,
)
from orchestrator.core.totals import Usage


def write_step(out: run_pb2.RunEvent, step: Step) -> None:
    """Puts the step into its event; does nothing with the kinds of events_pb.py."""
    writer = _WRITERS.get(type(step))
    if writer is not None:
        writer(out, step)


def _context_trimmed(out: run_pb2.RunEvent, step: ContextTrimmed) -> None:
    out.ignorable = True
    out.context_trimmed.CopyFrom(
        run_pb2.ContextTrimmed(
            step=step.step,
            budget_tokens=step.budget_tokens,
            needed_tokens=step.needed_tokens,
            estimate_percent=step.percent,
            trimmed=[run_pb2.Trimmed(kind=t.kind, count=t.count, tokens=t.tokens) for t in step.trimmed],
        )
    )


def _guardrail_triggered(out: run_pb2.RunEvent, step: GuardrailTriggered) -> None:
    pb = run_pb2.GuardrailTriggered
    out.ignorable = True
    out.guardrail_triggered.CopyFrom(
        pb(
            guardrail=step.guardrail,
            place=pb.Place.Value(f"PLACE_{step.place}"),
            action=pb.Action.Value(f"ACTION_{step.action}"),
            count=step.count,
            kinds=step.kinds,
            subject=step.subject,
        )
    )


def _history_summarized(out: run_pb2.RunEvent, step: HistorySummarized) -> None:
    out.ignorable = True
    out.history_summarized.text = step.text
    out.history_summarized.through_message_sequence = step.through_sequence


def _team_called(out: run_pb2.RunEvent, step: TeamCalled) -> None:
    out.ignorable = True
    called = out.team_called
    called.call_id, called.namespace = step.call_id, step.namespace
    called.team, called.run = f"teams/{step.team}", step.run
    if step.state is not None:
        called.state = run_pb2.RunState.Value(f"RUN_STATE_{step.state}")
    if step.usage is not None:
        called.usage.CopyFrom(usage_to_pb(step.usage))


def usage_to_pb(usage: Usage) -> run_pb2.Usage:
    """What a run used."""
    return run_pb2.Usage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        model_calls=usage.model_calls,
        tool_calls=usage.tool_calls,
        searches=usage.searches,
        searches_saved=usage.searches_saved,
        cost_micros=usage.cost_micros,
        currency=usage.currency,
    )


def _input_requested(out: run_pb2.RunEvent, step: InputRequested) -> None:
    asked, request = step.asked, out.input_requested
    request.call_id = step.call_id
    request.expire_time.FromDatetime(step.expire_time)
    if isinstance(asked, ToolApproval):
        request.approval.tool = asked.tool
        ParseDict(dict(asked.arguments), request.approval.arguments)
    else:
        request.question.text = asked.text
        request.question.choices.extend(asked.choices)


def _input_provided(out: run_pb2.RunEvent, step: InputProvided) -> None:
    out.input_provided.expired = step.expired
    out.input_provided.input.CopyFrom(input_to_pb(step.input))


def input_to_pb(said: RunInput) -> run_pb2.RunInput:
    """What a person says."""
    out = run_pb2.RunInput(call_id=said.call_id, user=said.user)
    if said.approved is not None:
        out.decision.approved, out.decision.reason = said.approved, said.reason
    elif said.answer is not None:
        out.answer = said.answer
    return out


_WRITERS: dict[type[Any], Callable[[run_pb2.RunEvent, Any], None]] = {
    ContextTrimmed: _context_trimmed,
    InputRequested: _input_requested,
    InputProvided: _input_provided,
    GuardrailTriggered: _guardrail_triggered,
    HistorySummarized: _history_summarized,
    TeamCalled: _team_called,
}
