"""agentteams runs show and chat mark what is unsupported; agentteams evaluate --team compares revisions."""

import json
from pathlib import Path

from agentteams.evaluation.v1 import evaluation_service_pb2 as pb
from agentteams.orchestrator.v1.orchestrator_service_pb2 import RunItem
from agentteams.session.v1 import run_pb2, run_scores_pb2, scores_pb2, session_pb2

from agentteams_cli.marking import marked
from tests.unit.agentteams_cli.fakes import Run, Scenario, run, services

__all__ = ["run", "services"]

ANSWER = "Two years [1]. The moon is cheese [1]. Ask us."
SENTENCE = run_scores_pb2.SentenceScore
SCORES = run_scores_pb2.RunScores(
    run="runs/r1",
    evaluator="judge",
    version="1.1",
    outcome=run_scores_pb2.RunScores.OUTCOME_SCORED,
    faithfulness=0.5,
    grounding=0.75,
    below_thresholds=["faithfulness"],
    sentences=[
        SENTENCE(start=0, end=14, verdict=SENTENCE.VERDICT_SUPPORTED),
        SENTENCE(start=15, end=38, verdict=SENTENCE.VERDICT_UNSUPPORTED),
        SENTENCE(start=39, end=46, verdict=SENTENCE.VERDICT_NO_CLAIM),
    ],
)
GOLDEN = "questions:\n- {question: How long is it, sources: [handbook.md], facts: ['2|two']}\n"


def a_run(scenario: Scenario) -> None:
    scenario.runs = [run_pb2.Run(name="runs/r1", team="teams/docs", state=run_pb2.RUN_STATE_SUCCEEDED)]
    scenario.events = [done(1)]


def done(sequence: int) -> run_pb2.RunEvent:
    message = session_pb2.Message(role=session_pb2.ROLE_ASSISTANT, content=ANSWER)
    return run_pb2.RunEvent(sequence=sequence, message_completed=run_pb2.MessageCompleted(message=message))


def finished(sequence: int) -> run_pb2.RunEvent:
    end = run_pb2.RunFinished(state=run_pb2.RUN_STATE_SUCCEEDED)
    return run_pb2.RunEvent(sequence=sequence, run_finished=end)


def test_unsupported_sentences_are_marked_where_they_stand() -> None:
    assert marked(ANSWER, SCORES) == "Two years [1]. ⚠The moon is cheese [1].⚠ Ask us."
    assert marked(ANSWER, None) == ANSWER


def test_show_prints_marks_and_scores(services: Scenario, run: Run) -> None:
    a_run(services)
    services.scores = SCORES
    shown = run("runs", "show", "r1")
    assert "⚠The moon is cheese [1].⚠" in shown.output
    assert "faithfulness 0.50 (below), grounding 0.75" in shown.output
    found = json.loads(run("runs", "show", "r1", "--output", "json").output)["scores"]
    assert (found["faithfulness"], found["sentences"][1]["verdict"]) == (0.5, "UNSUPPORTED")


def test_show_of_a_run_without_scores_is_as_before(services: Scenario, run: Run) -> None:
    a_run(services)
    shown = run("runs", "show", "r1")
    assert ANSWER in shown.output
    assert "scores" not in shown.output


def test_chat_can_wait_for_the_scores_of_its_answer(services: Scenario, run: Run) -> None:
    services.stream = [RunItem(event=event) for event in (done(1), finished(2))]
    assert "scores" not in run("chat", "docs-team", "How long?").output
    services.scores = SCORES
    shown = run("chat", "docs-team", "How long?", "--wait-scores", "30")
    assert (shown.exit_code, "⚠ The moon is cheese [1].\n" in shown.output) == (0, True), shown.output
    assert "faithfulness 0.50 (below)" in shown.output
    assert [round(wait_s) for wait_s in services.waited] == [20]  # at most 30 a call
    found = json.loads(run("chat", "docs-team", "?", "--wait-scores", "30", "--output", "json").output)
    assert found["scores"]["sentences"][1]["verdict"] == "UNSUPPORTED"


def test_why_there_are_no_scores_is_said(services: Scenario, run: Run) -> None:
    services.stream = [RunItem(event=event) for event in (done(1), finished(2))]
    shown = run("chat", "docs-team", "How long?", "--wait-scores", "30")
    assert (shown.exit_code, "has no scores" in shown.output) == (0, True), shown.output
    found = json.loads(run("chat", "docs-team", "?", "--wait-scores", "30", "--output", "json").output)
    assert found["scores"] == {"missing": "runs/r1 has no scores"}


def evaluation(revision: str, facts: float) -> scores_pb2.TeamEvaluation:
    question = scores_pb2.QuestionScore(id="q1", facts_present=facts, missing_facts=["2|two"])
    return scores_pb2.TeamEvaluation(
        team_revision=revision, golden_set_sha256="same", facts_present=facts, questions=[question]
    )


def test_a_team_is_compared_with_its_former_revision(services: Scenario, run: Run, tmp_path: Path) -> None:
    golden = tmp_path / "golden.yaml"
    golden.write_text(GOLDEN)
    services.team_evaluations = [evaluation("new", 0.25), evaluation("old", 1.0)]
    services.team_evaluation = [
        pb.EvaluateTeamResponse(done=1, total=1),
        pb.EvaluateTeamResponse(done=1, total=1, evaluation=evaluation("new", 0.5)),
    ]
    shown = run("evaluate", "--team", "docs", "--golden", str(golden))
    assert shown.exit_code == 0, shown.output
    [asked] = services.golden_questions
    assert (asked.id, list(asked.sources), list(asked.facts)) == ("q1", ["handbook.md"], ["2|two"])
    assert "revision new" in shown.output
    assert "before: revision old" in shown.output
    assert "missing: fact 2|two" in shown.output


def test_what_goes_together_is_said(run: Run, services: Scenario, tmp_path: Path) -> None:
    assert run("evaluate").exit_code == 2
    assert run("evaluate", "--team", "docs").exit_code == 2
    bad = tmp_path / "bad.yaml"
    bad.write_text("questions: [{asks: x}]")
    shown = run("evaluate", "--team", "docs", "--golden", str(bad))
    assert shown.exit_code == 1
    assert "questions.0" in shown.output
