"""Golden sets that teams are asked by schedule: out of a ConfigMap, its conditions, its figures."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from agentteams_operator.core.outcome import Outcome
from agentteams_operator.core.ports import GoldenScores
from tests.unit.agentteams_operator.test_team_quality import LIMITS, World, figures, quality

GOLDEN = 'questions: [{question: "How long?", facts: [two years]}]'
REF: dict[str, Any] = {"goldenSetRef": {"configMapKeyRef": {"name": "golden", "key": "team.yaml"}}}
ASKED = {"factsPresent": "0.8", "sourcesFound": "0.5"}


def watched(text: str = GOLDEN) -> World:
    world = World()
    world.maps.known["golden"] = {"team.yaml": text}
    return world


def scores(world: World, revision: str = "r1", **means: float) -> GoldenScores:
    at = world.clock.now() - timedelta(hours=2)
    return GoldenScores(revision=revision, evaluated_at=at, means=means, failed=1)


def ready(outcome: Outcome) -> tuple[str, str, str]:
    assert outcome.status is not None
    (found,) = [c for c in outcome.status["conditions"] if c["type"] == "GoldenSetReady"]
    return found["status"], found["reason"], found["message"]


async def evaluated(world: World, limits: dict[str, str], **state: Any) -> Outcome:
    await world.look(limits, **REF)
    assert world.sets.state is not None
    world.sets.state = replace(world.sets.state, **state)
    return await world.look(limits, **REF)


async def test_it_is_sent_once_for_each_change_and_again_when_it_is_not_there() -> None:
    world = watched()
    outcome = await world.look({}, **REF)
    assert world.sets.puts == [("n", "t", "golden/team.yaml", ["How long?"])]
    assert ready(outcome)[:2] == ("True", "Scheduled")
    assert figures(outcome) == {
        "verdict": "Unknown",
        "goldenSet": {"name": "golden/team.yaml", "questions": 1},
    }
    assert outcome.again_s == 10  # it is about to be asked
    await world.look({}, **REF)
    world.maps.known["golden"] = {"team.yaml": GOLDEN, "other": "x"}
    await world.look({}, **REF)
    assert (len(world.sets.puts), world.maps.reads) == (1, 1)
    world.maps.known["golden"] = {"team.yaml": GOLDEN.replace("long", "short")}
    await world.look({}, **REF)
    assert world.sets.puts[1:] == [("n", "t", "golden/team.yaml", ["How short?"])]
    world.sets.state = None  # a restored backup does not have it
    await world.look({}, **REF)
    assert len(world.sets.puts) == 3
    assert world.asked == []  # nothing wants the scores of runs
    outcome = await world.look({})
    assert outcome.status == {"conditions": outcome.status["conditions"][:1], "currentRevision": "r1"}  # type: ignore[index]


@pytest.mark.parametrize(
    ("data", "why", "says"),
    [
        (None, "ConfigMapNotFound", "kubectl create configmap golden --namespace=n --from-file=team.yaml="),
        ({"x": "y"}, "ConfigMapKeyNotFound", 'has no key "team.yaml", but x; add it'),
        ({"team.yaml": "questions: []"}, "GoldenSetInvalid", "questions: List should have at least 1 item"),
        ({"team.yaml": "a: ["}, "GoldenSetInvalid", "a team's golden set is `questions:"),
    ],
)
async def test_one_that_cannot_be_had_is_told(data: dict[str, str] | None, why: str, says: str) -> None:
    world = World()
    if data is not None:
        world.maps.known["golden"] = data
    outcome = await world.look(ASKED, **REF)
    status, reason, message = ready(outcome)
    assert (status, reason, says in message) == ("False", why, True)
    assert quality(outcome)[:2] == ("Unknown", why)
    assert world.sets.puts == []


async def test_means_below_their_thresholds_beside_the_revision_before() -> None:
    world = watched()
    outcome = await evaluated(
        world,
        ASKED,
        newest=scores(world, factsPresent=0.79999, sourcesFound=0.5, faithfulness=0.9, grounding=0.5),
        former=scores(world, "r0", factsPresent=1.0),
    )
    assert quality(outcome) == (
        "True",
        "BelowThresholds",
        "factsPresent is 0.7999, below its threshold 0.8; sourcesFound is 0.5000, threshold 0.5; "
        "golden set, revision r1 (before, revision r0: factsPresent 1.0000)",
    )
    at = "2025-12-31T22:00:00Z"
    assert figures(outcome) == {
        "verdict": "Degraded",
        "goldenSet": {
            "name": "golden/team.yaml", "questions": 1, "failed": 1, "revision": "r1", "evaluatedAt": at,
            "factsPresent": "0.7999", "sourcesFound": "0.5000", "faithfulness": "0.9000",
            "grounding": "0.5000",
            "former": {"factsPresent": "1.0000", "revision": "r0", "evaluatedAt": at},
        },
    }  # fmt: skip
    assert [e.reason for e in outcome.events] == ["QualityDegraded"]
    assert outcome.again_s == 60
    assert world.sets.state is not None
    world.sets.state = replace(world.sets.state, newest=scores(world, factsPresent=0.8, sourcesFound=1.0))
    outcome = await world.look(ASKED, **REF)
    assert quality(outcome)[:2] == ("False", "AboveThresholds")
    assert [e.reason for e in outcome.events] == ["QualityRestored"]


async def test_what_is_not_known_of_this_revision_is_unknown() -> None:
    world = watched()
    outcome = await evaluated(world, ASKED, newest=scores(world, "r0", factsPresent=0.1))
    assert quality(outcome)[:2] == ("Unknown", "NotEvaluated")
    outcome = await evaluated(world, ASKED, newest=scores(world, factsPresent=0.9))
    assert quality(outcome)[:2] == ("Unknown", "NotEvaluated")
    assert "no question of the golden set has an expectation for sourcesFound" in quality(outcome)[2]
    outcome = await evaluated(world, ASKED, running=True, done=3)
    assert ready(outcome) == ("True", "Running", "3 of 1 questions are answered")
    assert outcome.again_s == 10
    outcome = await evaluated(world, ASKED, running=False, failures=3, failure="the model is away")
    assert ready(outcome) == (
        "False", "EvaluationFailed", "it could not be asked, 3 times in a row: the model is away",
    )  # fmt: skip
    assert quality(outcome)[:2] == ("Unknown", "EvaluationFailed")


async def test_runs_and_golden_set_are_judged_together() -> None:
    world = watched()
    limits = {**LIMITS, "factsPresent": "0.8"}
    world.scores(12, {"faithfulness": 0.9, "retrievalRelevance": 0.9})
    outcome = await evaluated(world, limits, newest=scores(world, factsPresent=0.1))
    assert quality(outcome)[2].startswith("factsPresent is 0.1000, below its threshold 0.8; golden set")
    outcome = await evaluated(world, limits, newest=scores(world, factsPresent=0.9))
    status, _, message = quality(outcome)
    assert status == "False"
    assert "faithfulness is 0.9000" in message
    assert "factsPresent is 0.9000" in message
    world.scores(12, {"faithfulness": 0.1, "retrievalRelevance": 0.9})
    assert quality(await world.look(limits, **REF))[0] == "True"


async def test_a_silent_service_leaves_the_figures_and_one_that_refuses_is_told() -> None:
    world = watched()
    before = figures(await evaluated(world, ASKED, newest=scores(world, factsPresent=0.9, sourcesFound=1.0)))
    world.sets.silent = "it is away"
    outcome = await world.look(ASKED, **REF)
    assert quality(outcome)[:2] == ("Unknown", "NoAnswer")
    assert ready(outcome) == ("Unknown", "NoAnswer", "it is away; see the session service")
    assert figures(outcome) == {**before, "verdict": "Unknown"}
    other = watched()
    other.sets.refused = "questions[0].id: is another question's already"
    assert ready(await other.look(ASKED, **REF))[:2] == ("False", "GoldenSetInvalid")
