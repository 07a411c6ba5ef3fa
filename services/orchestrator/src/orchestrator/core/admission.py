"""Which runs may begin."""

from datetime import timedelta

from manifests import AgentTeam
from orchestrator.core.ports import Catalogue
from servicekit.errors import FailedPrecondition, NotFound, ResourceExhausted

_BUSY_RETRY = timedelta(seconds=2)


def ready_team(catalogue: Catalogue, namespace: str, team_name: str) -> AgentTeam:
    """The team, if it can answer. Raises NotFound, FailedPrecondition."""
    name = team_name.removeprefix("teams/")
    team = catalogue.team(namespace, name)
    problems = catalogue.team_problems(namespace, name)
    if team is None and not problems:
        known = ", ".join(t.metadata.name for t in catalogue.teams(namespace)) or "none"
        raise NotFound(
            f'no team "{name}" in namespace "{namespace}" (there are: {known}); apply its manifest',
            reason="TEAM_NOT_FOUND",
            metadata={"team": name, "namespace": namespace},
        )
    if team is None or problems:
        raise FailedPrecondition(
            f'team "{name}" is not ready: {"; ".join(problems)}',
            reason="TEAM_NOT_READY",
            metadata={"team": name},
        )
    if team.spec.suspend:
        raise FailedPrecondition(
            f'team "{name}" is suspended: it begins no runs until spec.suspend is false',
            reason="TEAM_NOT_READY",
            metadata={"team": name},
        )
    return team


def too_many_runs(team: AgentTeam, active: int) -> ResourceExhausted:
    """The answer to one run more than the team may have."""
    limit = team.spec.limits.max_concurrent_runs
    return ResourceExhausted(
        f"team {team.metadata.name} has {active} active runs (limits.maxConcurrentRuns: {limit})",
        reason="TOO_MANY_RUNS",
        metadata={"team": team.metadata.name, "limit": str(limit)},
        retry_after=_BUSY_RETRY,
    )
