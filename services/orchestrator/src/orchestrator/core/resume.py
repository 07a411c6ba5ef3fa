"""Whether and how a run that was taken over goes on."""

from collections.abc import Sequence

from manifests import AgentTeam
from orchestrator.core.log import RunLog
from orchestrator.core.model import RunFinished, State, StoredEvent, Summary
from orchestrator.core.ports import Acquired
from orchestrator.core.recorded import Recorded
from orchestrator.core.run import Cancelled
from servicekit.clock import Clock
from servicekit.errors import FailedPrecondition, Internal, NotFound, ServiceError

MAX_LOST_ATTEMPTS = 5


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
) -> None:
    """Ends a run as its log stands: with its answer if it has one, else with the reason."""
    state: State = "FAILED"
    if recorded.answer is not None:
        state, error = "SUCCEEDED", None
    elif isinstance(error, Cancelled):
        state, error = "CANCELLED", None
    seconds = (clock.now() - events[0].time).total_seconds() if events else 0.0
    usage = recorded.usage(max_tool_calls=len(recorded.calls))
    summary = Summary(usage=usage, seconds=max(0.0, seconds), stages=())
    log.emit(RunFinished(state=state, summary=summary, error=error))
    await log.flush()
