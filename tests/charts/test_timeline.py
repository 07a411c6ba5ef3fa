"""The timeline that integration tests hold against the chart's alerts finds what is wrong."""

from pathlib import Path

import pytest

from tests.support.alerts import PROMTOOL, Timeline

pytestmark = pytest.mark.skipif(
    PROMTOOL is None, reason="NOT RUN: promtool is not on this machine (Debian: prometheus)"
)
ALERT = "AgentTeamsKnowledgeDegraded"
NAME = "agentteams_retrieval_quality_knowledge_bases"


def timeline(name: str = NAME, label: str = "state") -> Timeline:
    made = Timeline()
    other = "# TYPE agentteams_evaluation_waiting_runs gauge\nagentteams_evaluation_waiting_runs 0\n"
    for value in (0, 1):
        text = f'# TYPE {name} gauge\n{name}{{{label}="DEGRADED"}} {value}\n'
        made.add(other + text, minutes=15)
    return made


def test_what_fires_and_what_does_not(tmp_path: Path) -> None:
    good = timeline()
    good.expect(ALERT, firing=[{}])
    good.expect("AgentTeamsScoringStands", firing=[])
    good.check(tmp_path)


@pytest.mark.parametrize("changed", [{"name": f"{NAME}_total"}, {"label": "status"}])
def test_a_service_that_names_it_otherwise_is_found(tmp_path: Path, changed: dict[str, str]) -> None:
    wrong = timeline(**changed)
    wrong.expect(ALERT, firing=[{}])
    with pytest.raises(AssertionError, match=ALERT):
        wrong.check(tmp_path)


def test_an_alert_that_should_be_silent_is_found(tmp_path: Path) -> None:
    wrong = timeline()
    wrong.expect(ALERT, firing=[])
    with pytest.raises(AssertionError, match=ALERT):
        wrong.check(tmp_path)
