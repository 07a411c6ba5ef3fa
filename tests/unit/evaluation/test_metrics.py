"""What alerts look at is there before anything is counted."""

from prometheus_client import generate_latest

from evaluation.metrics import teams_known


def series() -> str:
    return generate_latest().decode()


def test_sentences_of_a_known_team_begin_at_0() -> None:
    teams_known(["known/first", "known/second"])
    for finding in ("SUPPORTED", "UNSUPPORTED"):
        name = f'agentteams_evaluation_sentences_total{{finding="{finding}",team="known/second"}}'
        assert f"{name} 0.0" in series()


def test_more_teams_than_the_label_allows_take_nobodys_place() -> None:
    teams_known([f"many/{number}" for number in range(101)])
    assert "many/" not in series()
