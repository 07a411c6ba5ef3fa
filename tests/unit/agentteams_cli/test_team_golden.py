"""Golden sets of teams by schedule: apply sets them, evaluate --history shows what came of them."""

import json
from pathlib import Path

from agentteams.session.v1 import golden_sets_pb2 as golden_pb

from agentteams_cli.client import connect
from agentteams_cli.team_golden import set_team_golden_set
from manifests import AgentTeam, load_text
from tests.unit.agentteams_cli.fakes import Run, Scenario, run, services
from tests.unit.agentteams_cli.test_scores import GOLDEN, evaluation

__all__ = ["run", "services"]


def test_history_shows_each_revision_against_the_one_before(services: Scenario, run: Run) -> None:
    shown = run("evaluate", "--team", "docs", "--history")
    assert "asked no golden set yet" in shown.output
    newest = evaluation("new", 0.25)
    newest.scheduled = True
    other = evaluation("older", 0.1)
    other.golden_set_sha256 = "of other questions"
    services.team_evaluations = [newest, evaluation("new", 0.5), other, evaluation("old", 1.0)]
    services.team_golden_set = golden_pb.TeamGoldenSet(
        golden_set="golden/team.yaml", questions=7, running=True, done=3
    )
    shown = run("evaluate", "--team", "docs", "--history")
    assert shown.exit_code == 0, shown.output
    assert "golden/team.yaml: 7 questions, 3 of them are answered" in shown.output
    lines = [line for line in shown.output.splitlines() if " new " in line or " old" in line]
    assert ["0.25 (-0.75)" in lines[0], "by schedule" in lines[0]] == [True, True]
    assert ["0.50 (-0.50)" in lines[1], "by schedule" in lines[1]] == [True, False]
    assert "(" not in lines[2]  # nothing to compare with
    assert "(" not in lines[3]
    services.team_golden_set = golden_pb.TeamGoldenSet(
        golden_set="g", questions=1, failures=3, failure="model is away"
    )
    assert "3 times in a row): model is away" in " ".join(
        run("evaluate", "--team", "docs", "--history").output.split()
    )
    found = json.loads(run("evaluate", "--team", "docs", "--history", "--output", "json").output)
    assert (found["scheduled"]["failures"], len(found["evaluations"])) == (3, 4)
    assert run("evaluate", "docs", "--history").exit_code == 2


TEAM = """
apiVersion: agentteams.dev/v1alpha1
kind: AgentTeam
metadata: {name: docs}
spec:
  modelConfigRef: {name: chat}
  members: [{name: agent}]
"""
WATCHED = """
  evaluation:
    goldenSetRef: {configMapKeyRef: {name: golden, key: team.yaml}}
    thresholds: {factsPresent: "0.8"}
"""


async def test_apply_sets_a_teams_golden_set_once_it_is_ready_and_takes_it_away(
    services: Scenario, tmp_path: Path
) -> None:
    async def apply(text: str) -> list[str]:
        [found] = load_text(text, tmp_path / "team.yaml").objects
        assert isinstance(found.resource, AgentTeam)
        async with connect(services.state) as client:
            problem = await set_team_golden_set(client, found.resource, tmp_path)
        return [problem] if problem else []

    [missing] = await apply(TEAM + WATCHED)
    assert f"there is no {tmp_path / 'golden' / 'team.yaml'}; put the golden set there" in missing
    file = tmp_path / "golden" / "team.yaml"
    file.parent.mkdir()
    file.write_text("questions: []")
    [bad] = await apply(TEAM + WATCHED)
    assert "questions: List should have at least 1 item" in bad
    assert services.golden_sets_set == []
    file.write_text(GOLDEN)
    assert await apply(TEAM + WATCHED) == []
    [set_] = services.golden_sets_set
    assert (set_.team, set_.golden_set, set_.questions[0].id) == ("teams/docs", "golden/team.yaml", "q1")
    assert await apply(TEAM) == []
    assert await apply(TEAM) == []
    assert [len(one.questions) for one in services.golden_sets_set] == [1, 0]
