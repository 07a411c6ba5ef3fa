"""Who of other tenants may ask a team, and what they are told."""

from typing import Any

import pytest

from orchestrator.core.admission import ready_team
from servicekit.context import Caller
from servicekit.errors import FailedPrecondition, NotFound
from tests.support.orchestrator_fakes import FakeCatalogue, team

OWN = Caller("team-a", "ann")
FOREIGN = Caller.of_call("team-a", home="team-b", user="ann")
OPEN, CLOSED = team(name="open"), team(name="closed")


def catalogue(**more: Any) -> FakeCatalogue:
    return FakeCatalogue(all_teams=[OPEN, CLOSED], allowed={"open": ("team-b",), "all": ("*",)}, **more)


def test_only_teams_that_allow_the_callers_tenant_answer_and_the_others_may_as_well_not_be_there() -> None:
    known = catalogue()
    assert ready_team(known, OWN, "teams/closed") is CLOSED
    assert ready_team(known, FOREIGN, "teams/open") is OPEN
    words = set()
    for name in ("closed", "absent"):
        with pytest.raises(NotFound) as caught:
            ready_team(known, FOREIGN, f"teams/{name}")
        assert caught.value.reason == "TEAM_NOT_FOUND"
        words.add(caught.value.message.replace(name, "x"))
    assert words == {
        'team "team-a/x" is not there, or does not allow namespace "team-b"; its owner allows '
        "it by spec.allowedNamespaces, such as {from: All}"
    }
    with pytest.raises(NotFound):
        ready_team(known, Caller.of_call("team-a", home="team-c", user="ann"), "teams/open")
    known.allowed["open"] = ("*",)
    assert ready_team(known, Caller.of_call("team-a", home="team-c", user="ann"), "teams/open") is OPEN


def test_what_a_team_lacks_is_told_to_its_owner_alone() -> None:
    known = catalogue(problems=["spec.modelConfigRef: no ModelConfig secret-model"])
    with pytest.raises(FailedPrecondition, match="secret-model"):
        ready_team(known, OWN, "teams/open")
    with pytest.raises(FailedPrecondition) as caught:
        ready_team(known, FOREIGN, "teams/open")
    assert (caught.value.reason, "secret-model" in caught.value.message) == ("TEAM_NOT_READY", False)
    suspended = FakeCatalogue(all_teams=[team(name="open", suspend=True)], allowed={"open": ("*",)})
    with pytest.raises(FailedPrecondition):
        ready_team(suspended, FOREIGN, "teams/open")
