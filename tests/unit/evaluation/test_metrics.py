"""What alerts look at is there before anything is counted."""

from prometheus_client import generate_latest

from evaluation.metrics import TEAMS


def test_what_alerts_look_at_of_a_known_team_begins_at_0() -> None:
    TEAMS.expect(["known/first", "known/second"])
    lines = generate_latest().decode().splitlines()
    for series in (
        'agentteams_evaluation_sentences_total{finding="SUPPORTED",team="known/second"}',
        'agentteams_evaluation_sentences_total{finding="UNSUPPORTED",team="known/second"}',
        'agentteams_evaluation_runs_total{outcome="FAILED",team="known/second"}',
        'agentteams_evaluation_below_threshold_total{score="faithfulness",team="known/second"}',
    ):
        assert f"{series} 0.0" in lines
