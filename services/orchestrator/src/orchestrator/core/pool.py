"""Whose runs a process works on: all of them, a namespace's, or one team's (docs/operator.md, Runtime)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from manifests import SHARED_POOL, AgentTeam, pool_name
from orchestrator.core.ports import RunChoice
from servicekit.context import Caller
from servicekit.errors import FailedPrecondition


class Teams(Protocol):
    """What a pool must know of its namespace."""

    def teams(self, namespace: str) -> Sequence[AgentTeam]:
        """All teams, by name."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """The processes that share the work.

    Attributes:
        tenant: The only one that it serves; empty: all (local mode).
        team: The only team that it serves; empty: all that have no pool of their own.
        known: Who has one.
    """

    tenant: str = ""
    team: str = ""
    known: Teams | None = field(default=None, repr=False)

    @property
    def caller(self) -> Caller:
        """The orchestrator, on nobody's behalf."""
        return Caller(tenant=self.tenant, user="", service="orchestrator")

    def takes(self) -> RunChoice:
        """Which runs it takes over."""
        if self.team:
            return RunChoice(teams=(f"teams/{self.team}",))
        if not self.tenant or self.known is None:
            return RunChoice()
        others = [team for team in self.known.teams(self.tenant) if team.spec.runtime is not None]
        return RunChoice(except_teams=tuple(f"teams/{team.metadata.name}" for team in others))

    def serves(self, team: AgentTeam) -> bool:
        """Whether it begins the team's runs."""
        if not self.tenant:
            return True
        own = team.spec.runtime is not None
        return team.metadata.name == self.team or (not own and not self.team)

    def check(self, team: AgentTeam) -> None:
        """Raises FailedPrecondition, TEAM_SERVED_ELSEWHERE: another pool begins the team's runs."""
        if self.serves(team):
            return
        name, own = team.metadata.name, team.spec.runtime is not None
        raise FailedPrecondition(
            f"team {name} is served by pods of its own"
            if own
            else f"these pods are team {self.team}'s alone; team {name} is served by the namespace's",
            reason="TEAM_SERVED_ELSEWHERE",
            metadata={"team": name, "pool": pool_name(name) if own else SHARED_POOL},
        )
