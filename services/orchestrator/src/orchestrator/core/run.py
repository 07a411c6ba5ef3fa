"""A run from its first model call to its last event."""

import asyncio

import structlog
from prometheus_client import Counter

from orchestrator.core import modes, prompts, tracing
from orchestrator.core.calls import cancel_open
from orchestrator.core.citations import cite
from orchestrator.core.form import in_form, no_answer, prose
from orchestrator.core.guardrails.turns import screen_answer, screen_input
from orchestrator.core.log import LogUnavailable, Parked
from orchestrator.core.memories import recall
from orchestrator.core.metrics import note_end, note_saved
from orchestrator.core.model import Message, MessageCompleted, RunFinished, RunResumed, State
from orchestrator.core.scoring import signs_of_trouble, to_score
from orchestrator.core.search import NoDocuments, restore
from orchestrator.core.summary import sum_up, summary_due
from orchestrator.core.totals import Summary
from orchestrator.core.turn import End, Turn
from servicekit.errors import FailedPrecondition, Internal, ServiceError

log = structlog.get_logger()

UNKNOWN_CITATIONS = Counter(
    "agentteams_unknown_citations_total", "Marks in answers whose number no evidence has"
)


_OWN_TEXT = "text-answer"  # the id of an answer that no model wrote


class Cancelled(FailedPrecondition):
    """Somebody asked for the run to stop."""


async def execute(turn: Turn) -> None:
    """Works on a run until its end is stored, however it ends. Steps that are recorded are not done again.

    Raises:
        ServiceError: LEASE_LOST, or the log refused an event; the run is somebody else's now.
        LogUnavailable: The log could not be stored; whoever takes the run over ends it.
        Parked: The run waits for a person; whoever takes it over when one has answered goes on.
        asyncio.CancelledError: The process stops; likewise.
    """
    if turn.attempt > 1:
        repeated = turn.recorded.unfinished_calls
        turn.log.emit(RunResumed(attempt=turn.attempt, repeated_calls=repeated))
    restore(turn)
    content = ""
    error: ServiceError | None = None
    limit = asyncio.timeout(turn.limits.run_timeout_seconds)
    try:
        async with limit:
            turn.deadline = limit.when() or turn.deadline
            content = await _answer(turn)
    except ServiceError as failure:
        error = failure
    except (LogUnavailable, Parked):
        raise
    except Exception as failure:
        if isinstance(failure, TimeoutError) and limit.expired():
            error = _timed_out(turn)
        else:
            log.error("run_failed", run=turn.log.run, exc_info=failure)
            error = Internal("internal error", reason="INTERNAL")
    if turn.log.failure is not None:
        raise turn.log.failure
    if error is None:
        await finish(turn, "SUCCEEDED", content, None)
    else:
        await fail(turn, error)


async def fail(turn: Turn, error: ServiceError) -> None:
    """Ends a run without an answer; what was written is kept, and says why it ends there."""
    partial = turn.answer.content.rstrip() if turn.answer else ""
    content = f"{partial}\n\n[The answer ends here: {error.message}]" if partial else ""
    await finish(turn, "CANCELLED" if isinstance(error, Cancelled) else "FAILED", content, error)


async def finish(turn: Turn, state: State, content: str, error: ServiceError | None) -> None:
    """Stores the answer and the run's end, which says how long it all took."""
    await cancel_open(turn.world.calls, turn.called.open)
    if content:
        citations, unknown = cite(prose(turn, content), turn.ledger.evidence)
        if unknown:
            UNKNOWN_CITATIONS.inc(len(unknown))
        name = turn.answer.message if turn.answer else _OWN_TEXT
        message = Message(role="assistant", content=content, name=name, citations=citations)
        turn.log.emit(MessageCompleted(message=message))
    turn.end = End(state=state, error=error)
    due = await summary_due(turn) if state == "SUCCEEDED" else None
    if due is not None:
        await turn.log.flush()  # nobody waits for the summary to see the answer
        await sum_up(turn, due)
    await conclude(turn)


async def conclude(turn: Turn) -> None:
    """Stores the end of a run that has begun to end; may be called again after it was interrupted.

    The answer, or a part of one, is stored together with its end, in one call;
    the session service adds how long that took (stage session_save).
    """
    if turn.end is None:
        raise AssertionError("only a run that has begun to end can be concluded")
    if not turn.concluded:
        turn.concluded = True
        seconds, stages = turn.stages.result()
        signs = signs_of_trouble(turn, seconds=seconds)
        scoring = to_score(turn, signs)
        called = turn.called.usage
        summary = Summary(usage=turn.usage, seconds=seconds, stages=stages, scoring=scoring, called=called)
        # Only a failure has a status: the session service refuses another end that carries one.
        error = turn.end.error if turn.end.state == "FAILED" else None
        turn.log.emit(RunFinished(state=turn.end.state, summary=summary, error=error))
        reason = turn.end.error.reason if turn.end.error else ""
        tracing.conclude(state=turn.end.state, reason=reason, signs=signs, to_be_scored=scoring is not None)
        note_end(turn, summary, state=turn.end.state, reason=reason)
    began = turn.stages.elapsed_s
    with turn.stages.stage("session_save"):
        await turn.log.flush()
    note_saved(turn, turn.stages.elapsed_s - began)


async def _answer(turn: Turn) -> str:
    try:
        await screen_input(turn)
        await recall(turn)
        content = await modes.answer(turn)
        found = content != prompts.nothing_found(turn.question)
    except NoDocuments as nothing:
        content, found = prompts.no_documents(nothing.knowledge), False
    if turn.answer_schema is not None and found:
        content = await in_form(turn, content)
    content = await screen_answer(turn, content)
    if turn.answer is None or turn.answer.content != content or turn.answer.hidden:
        # No model wrote it, or nobody has seen it: followers see it as a text all the same.
        turn.answer = turn.log.begin_text(_OWN_TEXT, member="")
        turn.log.grow(turn.answer, content)
    if turn.answer_schema is not None and not found:
        raise no_answer()
    return content


def _timed_out(turn: Turn) -> ServiceError:
    seconds = turn.limits.run_timeout_seconds
    return FailedPrecondition(
        f"the run took longer than the team's limits.runTimeoutSeconds, {seconds} s",
        reason="RUN_TIMEOUT",
        metadata={"limit": "runTimeoutSeconds", "value": str(seconds)},
    )
