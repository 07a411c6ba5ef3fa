"""The first failure after a start sets off its alert: what the services count, by the chart's rules."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from prometheus_client import REGISTRY, generate_latest

import evaluation.metrics as of_evaluation
import orchestrator.core.metrics as of_teams
from orchestrator.core.gate import Gates
from orchestrator.core.model_metrics import CALLS
from tests.support.alerts import PROMTOOL, Timeline

pytestmark = pytest.mark.skipif(
    PROMTOOL is None, reason="NOT RUN: promtool is not on this machine (Debian: prometheus)"
)
NAME = "first-failure/docs"


@dataclass(frozen=True, kw_only=True)
class First:
    """How a process gets to know the name, and what fails then."""

    alert: str
    label: str
    known: Callable[[], object]
    fails: Callable[[], object]
    minutes: int


CASES = (
    First(
        alert="AgentTeamsRunsFailFast",
        label="team",
        known=lambda: of_teams.TEAMS.expect([NAME]),
        fails=lambda: of_teams.note_recorded_end(
            *NAME.split("/"), state="FAILED", reason="MODEL_UNAVAILABLE", seconds=1.0
        ),
        minutes=4,
    ),
    First(
        alert="AgentTeamsModelFails",
        label="model_config",
        known=lambda: Gates().labels.expect([NAME]),
        fails=lambda: CALLS.labels(NAME, "unavailable").inc(),
        minutes=8,
    ),
    First(
        alert="AgentTeamsAnswersUnsupportedFast",
        label="team",
        known=lambda: of_evaluation.TEAMS.expect([NAME]),
        fails=lambda: of_evaluation.SENTENCES.labels(NAME, "UNSUPPORTED").inc(),
        minutes=15,
    ),
)


def scraped(label: str) -> str:
    """What a process serves of the name; other tests count in this one too."""
    lines = generate_latest(REGISTRY).decode().splitlines()
    return "".join(f"{line}\n" for line in lines if f'{label}="{NAME}"' in line)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.alert)
def test_the_first_failure_sets_off_its_alert(case: First, tmp_path: Path) -> None:
    case.known()
    timeline = Timeline()
    timeline.add(scraped(case.label), minutes=20)
    timeline.expect(case.alert, firing=[])
    case.fails()
    timeline.add(scraped(case.label), minutes=case.minutes)
    timeline.expect(case.alert, firing=[{case.label: NAME}])
    timeline.check(tmp_path)
