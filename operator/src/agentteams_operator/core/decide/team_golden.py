"""What came of a team's golden set, as conditions and status of the AgentTeam."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agentteams_operator.core.conditions import Verdict, no, timestamp, unknown, yes
from agentteams_operator.core.decide.quality import QUALITY, against_thresholds, decimal
from agentteams_operator.core.ports import GoldenScores, GoldenState
from servicekit.schedules import TOLERATED_FAILURES

READY = "GoldenSetReady"
MEANS = ("sourcesFound", "factsPresent")
"""Thresholds that are of golden sets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedGolden:
    """What is known of a team that is asked by schedule.

    Attributes:
        state: None: the session service has no golden set of it.
        problem: Why it did not get it; a reason, and words.
        silent: Why it does not answer.
    """

    state: GoldenState | None = None
    problem: tuple[str, str] | None = None
    silent: str = ""

    @property
    def is_new(self) -> bool:
        """Something is about to come."""
        state = self.state
        return state is not None and (state.running or state.newest is None)


def golden_ready(seen: ObservedGolden) -> Verdict:
    """Whether it is asked."""
    if seen.problem is not None:
        return no(READY, *seen.problem)
    if seen.silent:
        return unknown(READY, "NoAnswer", f"{seen.silent}; see the session service")
    state = seen.state
    if state is None:
        return unknown(READY, "NotSet", "the session service has no golden set of it yet")
    if state.running:
        return yes(READY, "Running", f"{state.done} of {state.questions} questions are answered")
    if state.failures > TOLERATED_FAILURES:
        words = f"it could not be asked, {state.failures} times in a row: {state.failure}"
        return no(READY, "EvaluationFailed", words)
    return yes(READY, "Scheduled", f"{state.questions} questions, asked by spec.evaluation.schedule")


def golden_verdict(seen: ObservedGolden, limits: Mapping[str, str], revision: str) -> Verdict:
    """What the newest means of the revision that serves say, against their thresholds."""
    ready = golden_ready(seen)
    if ready.status != "True":
        return unknown(QUALITY, ready.reason, ready.message)
    newest = seen.state.newest if seen.state is not None else None
    if newest is None or newest.revision != revision:
        words = f"revision {revision} was not asked the golden set yet; {ready.message}"
        return unknown(QUALITY, "NotEvaluated", words)
    return against_thresholds(
        limits,
        newest.means,
        of=f"golden set, revision {revision}{_before(seen.state, limits)}",
        missing=("NotEvaluated", "no question of the golden set has an expectation for {name}"),
    )


def golden_figures(state: GoldenState | None) -> dict[str, Any]:
    """`status.quality.goldenSet`."""
    if state is None:
        return {}
    figures: dict[str, Any] = {"name": state.name, "questions": state.questions}
    if state.newest is not None:
        figures |= {**_figures(state.newest), "failed": state.newest.failed}
    if state.former is not None:
        figures["former"] = _figures(state.former)
    return {"goldenSet": figures}


def _figures(scores: GoldenScores) -> dict[str, Any]:
    means = {name: decimal(value, 4) for name, value in scores.means.items()}
    return {**means, "revision": scores.revision, "evaluatedAt": timestamp(scores.evaluated_at)}


def _before(state: GoldenState | None, limits: Mapping[str, str]) -> str:
    former = state.former if state is not None else None
    if former is None:
        return ""
    told = [f"{name} {decimal(former.means[name], 4)}" for name in limits if name in former.means]
    return f" (before, revision {former.revision}: {', '.join(told)})" if told else ""
