"""Who of other tenants may ask a team, and what they are told."""

from typing import Any

import pytest
from agentteams.orchestrator.v1 import orchestrator_service_pb2 as pb
from agentteams.session.v1 import run_scores_pb2

from orchestrator.adapters.shown import shown_scores
from orchestrator.core.admission import ready_team
from orchestrator.core.awaited import Scored
from servicekit.context import Caller, scope
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


def test_scores_are_shown_without_what_is_the_owners() -> None:
    wrong = run_scores_pb2.SentenceScore(
        start=3,
        end=9,
        verdict=run_scores_pb2.SentenceScore.VERDICT_UNSUPPORTED,
        faithfulness=0.125,
        evidence=[4],
    )
    whole = run_scores_pb2.RunScores(
        run="runs/r1",
        team_revision="r7",
        evaluator="judge",
        version="1",
        outcome=run_scores_pb2.RunScores.OUTCOME_SCORED,
        reason="the judge said so",
        faithfulness=0.25,
        retrieval_relevance=0.5,
        sentences=[wrong],
        chunks=[run_scores_pb2.ChunkScore(number=4, knowledge_base="knowledgeBases/secret", chunk="c4")],
        judge=run_scores_pb2.JudgeUsage(model_config="modelConfigs/judge", cost_micros=9),
        suspicions=["weak_evidence"],
        below_thresholds=["faithfulness"],
    )
    with scope(caller=OWN):
        assert shown_scores(Scored(payload=whole)).scores.scores == whole
    with scope(caller=FOREIGN):
        told = shown_scores(Scored(payload=whole)).scores.scores
        assert shown_scores(Scored(may_come=True)).scores.missing == pb.ScoresResult.MISSING_NOT_YET
    wrong.ClearField("evidence")
    assert told == run_scores_pb2.RunScores(
        run="runs/r1",
        evaluator="judge",
        version="1",
        outcome=run_scores_pb2.RunScores.OUTCOME_SCORED,
        faithfulness=0.25,
        sentences=[wrong],
    )
