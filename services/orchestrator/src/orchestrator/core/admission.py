"""Which runs may begin."""

from datetime import timedelta

from manifests import AgentTeam
from manifests.sharing import EVERYONE
from orchestrator.core.ports import Catalogue
from servicekit.context import Caller
from servicekit.errors import FailedPrecondition, NotFound, ResourceExhausted

_BUSY_RETRY = timedelta(seconds=2)


def ready_team(catalogue: Catalogue, caller: Caller, team_name: str) -> AgentTeam:
    """The team, if it can answer the caller. Raises NotFound, FailedPrecondition."""
    namespace, name = caller.tenant, team_name.removeprefix("teams/")
    if caller.home:
        return _ready_for_call(catalogue, caller, name)
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


def may_ask(catalogue: Catalogue, caller: Caller, name: str) -> bool:
    """Whether the caller may ask a team of the namespace: its own callers all, others as its owner allows."""
    if not caller.home:
        return True
    allowed = catalogue.allowed_tenants(caller.tenant, name)
    return EVERYONE in allowed or caller.home in allowed


def no_team_for(caller: Caller, name: str) -> NotFound:
    """The answer to who asks from another tenant: the same whether the team is there or not."""
    return NotFound(
        f'team "{caller.tenant}/{name}" is not there, or does not allow namespace '
        f'"{caller.home}"; its owner allows it by spec.allowedNamespaces, such as {{from: All}}',
        reason="TEAM_NOT_FOUND",
        metadata={"team": name, "namespace": caller.tenant},
    )


def _ready_for_call(catalogue: Catalogue, caller: Caller, name: str) -> AgentTeam:
    team = catalogue.team(caller.tenant, name)
    if not may_ask(catalogue, caller, name):
        raise no_team_for(caller, name)
    if team is None or team.spec.suspend or catalogue.team_problems(caller.tenant, name):
        # What it lacks is nothing that other tenants are told.
        raise FailedPrecondition(
            f'team "{caller.tenant}/{name}" begins no runs now; its owner can see why',
            reason="TEAM_NOT_READY",
            metadata={"team": name, "namespace": caller.tenant},
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
