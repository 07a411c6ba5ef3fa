"""Which runs a pool begins, and which it takes over."""

from dataclasses import dataclass

import pytest

from manifests import AgentTeam
from orchestrator.core.pool import Pool
from orchestrator.core.ports import RunChoice
from servicekit.errors import FailedPrecondition
from tests.support.orchestrator_fakes import team as team_of

TEAM = team_of({"name": "agent"})
OWN = team_of({"name": "agent"}, name="own", runtime={"replicas": 1})


@dataclass(frozen=True)
class Known:
    def teams(self, namespace: str) -> list[AgentTeam]:
        assert namespace == "acme"
        return [TEAM, OWN]


SHARED = Pool(tenant="acme", known=Known())
OWNS = Pool(tenant="acme", team="own", known=Known())


def test_local_mode_works_on_everything() -> None:
    for team in (TEAM, OWN):
        Pool().check(team)
    assert Pool().takes() == RunChoice()


def test_a_namespaces_pool_leaves_teams_with_pods_of_their_own_to_them() -> None:
    SHARED.check(TEAM)
    with pytest.raises(FailedPrecondition) as caught:
        SHARED.check(OWN)
    assert (caught.value.reason, caught.value.metadata["pool"]) == ("TEAM_SERVED_ELSEWHERE", "at-own")
    assert SHARED.takes() == RunChoice(except_teams=("teams/own",))


def test_a_teams_own_pool_works_on_its_runs_only() -> None:
    OWNS.check(OWN)
    with pytest.raises(FailedPrecondition) as caught:
        OWNS.check(TEAM)
    assert caught.value.metadata["pool"] == "agentteams-pool"
    assert OWNS.takes() == RunChoice(teams=("teams/own",))
    # It asks for them also when the manifest has not said so yet, or does not any more.
    assert Pool(tenant="acme", team="new", known=Known()).takes() == RunChoice(teams=("teams/new",))


def test_the_pool_speaks_for_its_tenant_only() -> None:
    assert (SHARED.caller.tenant, SHARED.caller.user, SHARED.caller.service) == ("acme", "", "orchestrator")
