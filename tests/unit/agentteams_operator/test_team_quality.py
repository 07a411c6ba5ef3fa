"""The quality of an AgentTeam: what is asked and how often, its condition, its figures."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

from agentteams_operator.core.objects import Key, Stored
from agentteams_operator.core.outcome import Outcome
from agentteams_operator.core.ports import RunScores, ScoresUnavailable
from agentteams_operator.core.team_golden_sets import GoldenTeams
from agentteams_operator.core.team_quality import WatchedTeams
from manifests.status import TeamQualityFigures
from servicekit.testing import FakeClock
from tests.support.team_golden import FakeConfigMaps, FakeGoldenSets

LIMITS = {"faithfulness": "0.8", "retrievalRelevance": "0.5"}
GOOD = {"faithfulness": 0.9, "retrievalRelevance": 0.9}
READY = {"type": "Ready", "status": "True", "reason": "Ready", "message": ""}


@dataclass
class World:
    """A session service that says what a test wants, and a team that serves r1."""

    clock: FakeClock = field(default_factory=FakeClock)
    found: dict[str, RunScores] = field(default_factory=dict)
    silent: str = ""
    asked: list[str] = field(default_factory=list)
    status: Mapping[str, Any] = field(default_factory=dict)
    revision: str = "r1"

    def __post_init__(self) -> None:
        self.sets, self.maps = FakeGoldenSets(), FakeConfigMaps()
        golden = GoldenTeams(find=self.maps.find, config_maps=self.maps, sets=self.sets)
        self.teams = WatchedTeams(look=self._look, scores=self, golden=golden, clock=self.clock)

    async def _look(self, one: Stored) -> Outcome:
        if one.deleted_at is not None:
            return Outcome()
        status: dict[str, Any] = {"conditions": [READY]}
        return Outcome(status=status | ({"currentRevision": self.revision} if self.revision else {}))

    async def by_revision(self, namespace: str, team: str, *, window: timedelta) -> Mapping[str, RunScores]:
        """See Scores."""
        self.asked.append(f"{namespace}/{team}")
        if self.silent:
            raise ScoresUnavailable(self.silent)
        return dict(self.found)

    def scores(self, runs: int, means: Mapping[str, float], *, age_s: float = 3600) -> None:
        newest = self.clock.now() - timedelta(seconds=age_s)
        self.found["r1"] = RunScores(runs=runs, means=means, newest_at=newest)

    async def look(self, limits: Mapping[str, str] = LIMITS, *, name: str = "t", **more: Any) -> Outcome:
        """A minute later, with the status of the look before."""
        self.clock.advance(timedelta(minutes=1))
        return await self.now(limits, name=name, **more)

    async def now(self, limits: Mapping[str, str] = LIMITS, *, name: str = "t", **more: Any) -> Outcome:
        spec = {"evaluation": {"thresholds": limits}} if limits else {"evaluation": {"samplePercent": 50}}
        spec = {"evaluation": {**spec["evaluation"], **more}}
        content = {"spec": spec, "status": self.status}
        one = Stored(key=Key("AgentTeam", "n", name), uid="u", version="1", generation=3, content=content)
        outcome = await self.teams.look(one)
        assert outcome.status is not None
        if "quality" in outcome.status:
            TeamQualityFigures.model_validate(outcome.status["quality"])
        self.status = outcome.status
        return outcome


def quality(outcome: Outcome) -> tuple[str, str, str]:
    assert outcome.status is not None
    (found,) = [c for c in outcome.status["conditions"] if c["type"] == "QualityDegraded"]
    assert found["observedGeneration"] == 3
    return found["status"], found["reason"], found["message"]


def figures(outcome: Outcome) -> dict[str, Any]:
    assert outcome.status is not None
    return dict(outcome.status["quality"])


async def test_a_team_without_thresholds_is_not_asked_about() -> None:
    world = World()
    world.scores(10, {"faithfulness": 0.0})
    outcome = await world.look({})
    assert outcome.status == {"conditions": [READY], "currentRevision": "r1"}
    assert (world.asked, outcome.again_s) == ([], 600)


async def test_scores_below_and_at_their_thresholds() -> None:
    world = World()
    others = {"grounding": 0.25, "answerRelevance": 1.0}  # they have no thresholds
    world.scores(12, {"faithfulness": 0.79996, "retrievalRelevance": 0.5, **others})
    outcome = await world.look()
    status, reason, message = quality(outcome)
    assert (status, reason) == ("True", "BelowThresholds")
    assert message == (
        "faithfulness is 0.7999, below its threshold 0.8; retrievalRelevance is 0.5000, threshold 0.5; "
        "12 runs of revision r1 in the last 24 h"
    )
    newest = (world.clock.now() - timedelta(minutes=61)).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert figures(outcome) == {
        "verdict": "Degraded", "faithfulness": "0.7999", "retrievalRelevance": "0.5000",
        "grounding": "0.2500", "answerRelevance": "1.0000", "runs": 12, "evaluatedAt": newest,
    }  # fmt: skip
    assert [(e.reason, e.type) for e in outcome.events] == [("QualityDegraded", "Warning")]
    assert outcome.again_s == 60
    assert (outcome.status or {})["conditions"][0] == READY
    again = await world.look()
    assert (again.events, again.status) == ((), outcome.status)

    world.scores(40, {"faithfulness": 0.8, "retrievalRelevance": 0.57})
    outcome = await world.look()
    assert quality(outcome)[:2] == ("False", "AboveThresholds")
    assert figures(outcome)["verdict"] == "Good"
    assert figures(outcome)["retrievalRelevance"] == "0.5700"  # 0.57 * 10,000 is a little less than 5,700
    assert [(e.reason, e.type) for e in outcome.events] == [("QualityRestored", "Normal")]
    assert outcome.again_s == 600


@pytest.mark.parametrize(
    ("runs", "means", "expected"),
    [
        (9, {"faithfulness": 0.0, "retrievalRelevance": 0.0}, ("Unknown", "TooFewRuns")),
        (10, {"faithfulness": 0.0, "retrievalRelevance": 0.0}, ("True", "BelowThresholds")),
        (0, {}, ("Unknown", "NotScored")),  # suspicious runs only
        (10, {"faithfulness": 0.9}, ("Unknown", "NotScored")),
        (10, {"faithfulness": 0.1}, ("True", "BelowThresholds")),
        (10, {**GOOD, "grounding": 0.0}, ("False", "AboveThresholds")),  # it has no threshold
    ],
)
async def test_what_cannot_be_told_is_unknown(
    runs: int, means: dict[str, float], expected: tuple[str, str]
) -> None:
    world = World()
    world.scores(runs, means)
    outcome = await world.look()
    assert quality(outcome)[:2] == expected


async def test_a_score_that_no_run_has_is_named() -> None:
    world = World()
    world.scores(10, {"faithfulness": 0.9})
    _, _, message = quality(await world.look())
    assert "threshold 0.8; retrievalRelevance has no scores; 10 runs" in message


async def test_only_runs_of_the_serving_revision_count() -> None:
    world = World()
    world.scores(10, {"faithfulness": 0.1, "retrievalRelevance": 0.1})
    assert quality(await world.look())[0] == "True"
    world.revision = "r2"
    outcome = await world.look()
    assert quality(outcome)[:2] == ("Unknown", "NotScored")
    assert figures(outcome) == {"verdict": "Unknown"}
    world.revision = ""
    asked = len(world.asked)
    assert quality(await world.look())[:2] == ("Unknown", "NotScored")
    assert len(world.asked) == asked


async def test_a_silent_service_leaves_the_figures_and_is_asked_again_soon() -> None:
    world = World()
    world.scores(10, GOOD)
    good = await world.look()
    world.silent = "connection refused"
    outcome = await world.look()
    assert quality(outcome) == ("Unknown", "NoAnswer", "connection refused; see the session service")
    assert figures(outcome) == figures(good) | {"verdict": "Unknown"}
    assert (outcome.events, outcome.again_s) == ((), 60)
    world.silent = ""
    assert quality(await world.look())[:2] == ("False", "AboveThresholds")


async def test_while_scores_come_it_looks_each_minute() -> None:
    world = World()
    world.scores(10, GOOD, age_s=300)
    assert (await world.look()).again_s == 60
    world.scores(10, GOOD, age_s=900)
    assert (await world.look()).again_s == 600


async def test_many_looks_are_one_question_and_a_silent_service_gets_one_of_all_teams() -> None:
    world = World()
    world.scores(10, GOOD)
    await world.look()
    for _ in range(5):
        await world.now()
    assert world.asked == ["n/t"]
    world.silent = "connection refused"
    for name in ("a", "b", "c"):
        assert quality(await world.now(name=name))[1] == "NoAnswer"
    assert world.asked == ["n/t", "n/a"]
    assert quality(await world.now())[1] == "AboveThresholds"  # known for a moment yet
    world.clock.advance(timedelta(seconds=6))
    await world.now(name="b")
    assert world.asked == ["n/t", "n/a", "n/b"]


async def test_a_team_that_goes_is_left_alone() -> None:
    world = World()
    spec = {"evaluation": {"thresholds": LIMITS}}
    one = Stored(
        key=Key("AgentTeam", "n", "t"), uid="u", version="1", deleted_at="now", content={"spec": spec}
    )
    assert await world.teams.look(one) == Outcome()
    assert world.asked == []
