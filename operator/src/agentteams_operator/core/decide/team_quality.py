"""The scores of a team's runs, as status and condition of the AgentTeam."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from agentteams_operator.core.conditions import Verdict, conditions, timestamp, unknown
from agentteams_operator.core.decide.quality import (
    QUALITY,
    against_thresholds,
    decimal,
    quality_events,
)
from agentteams_operator.core.decide.team_golden import (
    MEANS,
    ObservedGolden,
    golden_figures,
    golden_ready,
    golden_verdict,
)
from agentteams_operator.core.objects import Stored
from agentteams_operator.core.outcome import Outcome
from agentteams_operator.core.ports import RunScores

WINDOW = timedelta(hours=24)
MIN_RUNS = 10  # the mean of fewer says little
_QUIET_S, _SOON_S, _BUSY_S = 600.0, 60.0, 10.0
_VERDICTS = {"True": "Degraded", "False": "Good", "Unknown": "Unknown"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedQuality:
    """What is known of a team that has thresholds.

    Attributes:
        limits: By the names of the scores, as they are written.
        revision: The one that serves; empty: none does.
        scores: Of that revision; None: there are none.
        silent: Why the session service does not answer.
        golden: Of its golden set by schedule; None: it has none.
    """

    limits: Mapping[str, str]
    revision: str
    scores: RunScores | None = None
    silent: str = ""
    golden: ObservedGolden | None = None


def thresholds(spec: Mapping[str, Any]) -> Mapping[str, str]:
    """Of a spec as the API server has it: they hold also while the rest of the spec is not accepted."""
    found = (spec.get("evaluation") or {}).get("thresholds") or {}
    return {name: str(value) for name, value in found.items() if value is not None}


def decide_team_quality(one: Stored, outcome: Outcome, seen: ObservedQuality, now: datetime) -> Outcome:
    """The outcome of a look at the team, with its quality. `Ready` stays as it is."""
    sampled = {name: limit for name, limit in seen.limits.items() if name not in MEANS}
    parts = [_verdict(replace(seen, limits=sampled))] if sampled else []
    if seen.golden is not None and len(sampled) < len(seen.limits):
        asked = {name: limit for name, limit in seen.limits.items() if name in MEANS}
        parts.append(golden_verdict(seen.golden, asked, seen.revision))
    verdicts = [_worst(parts)] if parts else []
    quality = {"verdict": _VERDICTS[verdicts[0].status] if verdicts else "Unknown"}
    if seen.golden is not None:
        verdicts.append(golden_ready(seen.golden))
    told = conditions(verdicts, one.status.get("conditions", ()), generation=one.generation, now=now)
    status = dict(outcome.status or {})
    status["conditions"] = [*status.get("conditions", ()), *told]
    silent = seen.silent or (seen.golden.silent if seen.golden is not None else "")
    before = one.status.get("quality", {}) if silent else {}
    golden = golden_figures(seen.golden.state) if seen.golden is not None else {}
    status["quality"] = before | _figures(seen.scores) | golden | quality
    coming = seen.scores is not None and now - seen.scores.newest_at < timedelta(seconds=_QUIET_S)
    soon = any(part.holds for part in parts) or coming or silent or seen.golden is not None
    again_s = _SOON_S if soon else _QUIET_S
    if seen.golden is not None and seen.golden.is_new:
        again_s = _BUSY_S
    return replace(
        outcome,
        status=status,
        events=(*outcome.events, *quality_events(one.status, status)),
        again_s=min(outcome.again_s, again_s),
    )


def _worst(parts: Sequence[Verdict]) -> Verdict:
    """One of them that is low; else one that nobody knows; else all of them."""
    for status in ("True", "Unknown", "False"):
        found = [part for part in parts if part.status == status]
        if found:
            return replace(found[0], message="; ".join(part.message for part in found))
    raise AssertionError("there is one at least")


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
    missing = ("NotScored", "{name} has no scores")
    return against_thresholds(seen.limits, seen.scores.means, of=over, missing=missing)


def _figures(scores: RunScores | None) -> dict[str, Any]:
    if scores is None:
        return {}
    means = {name: decimal(value, 4) for name, value in scores.means.items()}
    return {**means, "runs": scores.runs, "evaluatedAt": timestamp(scores.newest_at)}
