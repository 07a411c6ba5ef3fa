"""Whether and how a run that was taken over goes on."""

from collections.abc import Sequence
from datetime import datetime

import structlog
from prometheus_client import Counter, Histogram

from manifests import AgentTeam
from orchestrator.core.calls import CalledTeams, Calls, cancel_open
from orchestrator.core.log import RunLog
from orchestrator.core.metrics import note_recorded_end
from orchestrator.core.model import RunFinished, State, StoredEvent
from orchestrator.core.ports import Acquired
from orchestrator.core.recorded import Recorded
from orchestrator.core.run import Cancelled
from orchestrator.core.totals import Summary
from servicekit.clock import Clock
from servicekit.counters import from_zero
from servicekit.errors import FailedPrecondition, Internal, NotFound, ServiceError

_log = structlog.get_logger()

MAX_LOST_ATTEMPTS = 5

TAKE_OVERS = Counter(
    "agentteams_lease_takeovers_total",
    "Runs that this process went on with: their owner was lost, or handed them over",
    ["cause"],
)
from_zero(TAKE_OVERS, cause=("lost", "handed_over"))
TAKE_OVER_SECONDS = Histogram(
    "agentteams_lease_takeover_seconds",
    "From the last time that the lost owner renewed its lease until this process went on",
    buckets=(1, 2, 3, 4, 5, 7, 10, 20, 40, 80, 160),
)


def note_take_over(acquired: Acquired, now: datetime) -> None:
    """Counts and logs it. A run that begins now, after it waited in its session's queue, is none."""
    run, seen = acquired.run, acquired.owner_seen
    if run.attempt > 1:
        TAKE_OVERS.labels("handed_over" if seen is None else "lost").inc()
        if seen is not None:
            TAKE_OVER_SECONDS.observe((now - seen).total_seconds())
    _log.info("run_taken_over", run=run.name, attempt=run.attempt, last_sequence=run.last_sequence)


def refusal(acquired: Acquired, team: AgentTeam | None, recorded: Recorded) -> ServiceError | None:
    """Why a run cannot go on; None if it can."""
    run = acquired.run
    if run.cancel_requested:
        return Cancelled("the run was cancelled", reason="RUN_CANCELLED")
    if run.lost_attempts >= MAX_LOST_ATTEMPTS:
        return FailedPrecondition(
            f"each of {run.lost_attempts} processes that worked on the run was gone before it ended",
            reason="RUN_ATTEMPTS_EXHAUSTED",
            metadata={"attempts": str(run.lost_attempts)},
        )
    name = run.team.removeprefix("teams/")
    if team is None:
        return NotFound(
            f'team "{name}" was deleted while nobody worked on the run',
            reason="TEAM_NOT_FOUND",
            metadata={"team": name},
        )
    misfit = recorded.misfit(team) if team.revision != recorded.team_revision else ""
    if misfit:
        return FailedPrecondition(
            f'team "{name}" was changed while nobody worked on the run: {misfit}; ask again',
            reason="TEAM_CHANGED",
            metadata={"team": name},
        )
    if not acquired.input:
        return Internal("the session service named no message to answer", reason="INTERNAL")
    return None


async def end_recorded(
    log: RunLog,
    recorded: Recorded,
    events: Sequence[StoredEvent],
    clock: Clock,
    error: ServiceError | None,
    *,
    place: tuple[str, str],
    calls: Calls,
) -> None:
    """Ends a run as its log stands: with its answer if it has one, else with the reason.

    `place` is its tenant and its team; `calls` stop what other namespaces' teams still do for it.
    """
    called = CalledTeams(recorded)
    await cancel_open(calls, called.open)
    state: State = "FAILED"
    if recorded.answer is not None:
        state, error = "SUCCEEDED", None
    elif isinstance(error, Cancelled):
        state, error = "CANCELLED", None
    seconds = (clock.now() - events[0].time).total_seconds() if events else 0.0
    usage = recorded.usage(max_tool_calls=len(recorded.calls))
    summary = Summary(usage=usage, seconds=max(0.0, seconds), stages=(), called=called.usage)
    log.emit(RunFinished(state=state, summary=summary, error=error))
    reason = error.reason if error is not None else ""
    note_recorded_end(*place, state=state, reason=reason, seconds=summary.seconds)
    await log.flush()
