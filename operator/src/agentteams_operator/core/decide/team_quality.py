"""The scores of a team's runs, as status and condition of the AgentTeam."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from agentteams_operator.core.conditions import Verdict, conditions, no, timestamp, unknown, yes
from agentteams_operator.core.decide.quality import QUALITY, decimal, quality_events
from agentteams_operator.core.objects import Stored
from agentteams_operator.core.outcome import Outcome
from agentteams_operator.core.ports import RunScores

WINDOW = timedelta(hours=24)
MIN_RUNS = 10  # the mean of fewer says little
_QUIET_S, _SOON_S = 600.0, 60.0
_VERDICTS = {"True": "Degraded", "False": "Good", "Unknown": "Unknown"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedQuality:
    """What is known of a team that has thresholds.

    Attributes:
        limits: By the names of the scores, as they are written.
        revision: The one that serves; empty: none does.
        scores: Of that revision; None: there are none.
        silent: Why the session service does not answer.
    """

    limits: Mapping[str, str]
    revision: str
    scores: RunScores | None = None
    silent: str = ""


def thresholds(spec: Mapping[str, Any]) -> Mapping[str, str]:
    """Of a spec as the API server has it: they hold also while the rest of the spec is not accepted."""
    found = (spec.get("evaluation") or {}).get("thresholds") or {}
    return {name: str(value) for name, value in found.items() if value is not None}


def decide_team_quality(one: Stored, outcome: Outcome, seen: ObservedQuality, now: datetime) -> Outcome:
    """The outcome of a look at the team, with its quality. `Ready` stays as it is."""
    verdict = _verdict(seen)
    told = conditions([verdict], one.status.get("conditions", ()), generation=one.generation, now=now)
    status = dict(outcome.status or {})
    status["conditions"] = [*status.get("conditions", ()), *told]
    before = one.status.get("quality", {}) if seen.silent else {}
    status["quality"] = before | _figures(seen.scores) | {"verdict": _VERDICTS[verdict.status]}
    coming = seen.scores is not None and now - seen.scores.newest_at < timedelta(seconds=_QUIET_S)
    soon = verdict.holds or coming or seen.silent
    return replace(
        outcome,
        status=status,
        events=(*outcome.events, *quality_events(one.status, status)),
        again_s=min(outcome.again_s, _SOON_S if soon else _QUIET_S),
    )


def _verdict(seen: ObservedQuality) -> Verdict:
    if seen.silent:
        return unknown(QUALITY, "NoAnswer", f"{seen.silent}; see the session service")
    if not seen.revision:
        return unknown(QUALITY, "NotScored", "no revision serves yet; Ready says why")
    hours = f"the last {WINDOW // timedelta(hours=1)} h"
    if seen.scores is None or not seen.scores.runs:
        advice = "see evaluation.samplePercent and the evaluation service"
        words = f"no sampled run of revision {seen.revision} was scored in {hours}"
        return unknown(QUALITY, "NotScored", f"{words}; {advice}")
    runs = seen.scores.runs
    over = f"{runs} runs of revision {seen.revision} in {hours}"
    if runs < MIN_RUNS:
        return unknown(QUALITY, "TooFewRuns", f"only {over} have scores; the verdict needs {MIN_RUNS}")
    return _compared(seen.limits, seen.scores.means, over)


def _compared(limits: Mapping[str, str], means: Mapping[str, float], over: str) -> Verdict:
    told: list[str] = []
    low = False
    for name, limit in limits.items():
        if name not in means:
            told.append(f"{name} has no scores")
        elif means[name] < float(limit):
            low = True
            told.append(f"{name} is {decimal(means[name], 4)}, below its threshold {limit}")
        else:
            told.append(f"{name} is {decimal(means[name], 4)}, threshold {limit}")
    message = f"{'; '.join(told)}; {over}"
    if low:
        return yes(QUALITY, "BelowThresholds", message)
    if not limits.keys() <= means.keys():
        return unknown(QUALITY, "NotScored", message)
    return no(QUALITY, "AboveThresholds", message)


def _figures(scores: RunScores | None) -> dict[str, Any]:
    if scores is None:
        return {}
    means = {name: decimal(value, 4) for name, value in scores.means.items()}
    return {**means, "runs": scores.runs, "evaluatedAt": timestamp(scores.newest_at)}
