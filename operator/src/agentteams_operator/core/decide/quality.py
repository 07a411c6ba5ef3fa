"""What was measured, as status and condition of a KnowledgeBase; a team's means against its thresholds."""

from collections.abc import Mapping
from decimal import ROUND_DOWN, Decimal
from typing import Any

from agentteams_operator.core.conditions import Verdict, no, timestamp, unknown, yes
from agentteams_operator.core.outcome import Event
from agentteams_operator.core.ports import IndexState, KnowledgeState, QualityState

QUALITY = "QualityDegraded"


def quality_verdict(state: KnowledgeState | None, problem: tuple[str, str] | None) -> Verdict:
    """The condition of a KnowledgeBase whose quality is watched.

    Args:
        problem: Why its golden set could not be had.
    """
    if problem is not None:
        return unknown(QUALITY, *problem)
    if state is None:
        return unknown(QUALITY, "NotAsked", "the retrieval service was not asked, or did not answer")
    quality = state.quality
    if quality is None:
        return unknown(QUALITY, "NotEvaluated", "it was not evaluated yet")
    if quality.verdict == "Unknown":
        return unknown(QUALITY, quality.reason, quality.message)
    say = yes if quality.verdict == "Degraded" else no
    return say(QUALITY, quality.reason, quality.message)


def against_thresholds(
    limits: Mapping[str, str], means: Mapping[str, float], *, of: str, missing: tuple[str, str]
) -> Verdict:
    """Whether a mean is below its threshold; if none is, whether each that has one is known.

    Args:
        limits: Thresholds as they are written.
        of: What the means are of, for the message.
        missing: The reason where a mean is not known, and what is said of it.
    """
    told: list[str] = []
    low = False
    for name, limit in limits.items():
        if name not in means:
            told.append(missing[1].format(name=name))
        elif means[name] < float(limit):
            low = True
            told.append(f"{name} is {decimal(means[name], 4)}, below its threshold {limit}")
        else:
            told.append(f"{name} is {decimal(means[name], 4)}, threshold {limit}")
    message = f"{'; '.join(told)}; {of}"
    if low:
        return yes(QUALITY, "BelowThresholds", message)
    if not limits.keys() <= means.keys():
        return unknown(QUALITY, missing[0], message)
    return no(QUALITY, "AboveThresholds", message)


def quality_events(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[Event, ...]:
    """An event when it turns to True, and when it comes back from there."""
    was, now = _condition(before), _condition(after)
    if now.get("status") == "True" != was.get("status"):
        return (Event("QualityDegraded", now["message"], "Warning"),)
    if now.get("status") == "False" and was.get("status") == "True":
        return (Event("QualityRestored", now["message"]),)
    return ()


def _condition(status: Mapping[str, Any]) -> Mapping[str, Any]:
    return next((one for one in status.get("conditions", ()) if one.get("type") == QUALITY), {})


def quality_figures(quality: QualityState) -> dict[str, Any]:
    """`status.quality`."""
    figures: dict[str, Any] = {"verdict": quality.verdict}
    if quality.golden_set:
        figures["goldenSet"] = quality.golden_set
    if quality.evaluated_at is not None:
        figures |= {
            "evaluatedAt": timestamp(quality.evaluated_at),
            **{score: decimal(value, 4) for score, value in quality.scores.items()},
            "queries": quality.queries,
            "missingDocuments": quality.missing_documents,
        }
    return figures


def index_figures(index: IndexState) -> dict[str, Any]:
    """`status.index`."""
    figures: dict[str, Any] = {"type": index.type}
    for name, params in (("buildParams", index.build_params), ("searchParams", index.search_params)):
        if params:
            figures[name] = {param: str(value) for param, value in params.items()}
    if index.tuned_at is not None:
        figures |= {
            "measuredRecallPercent": decimal(index.recall_percent, 1),
            "measuredP50Milliseconds": decimal(index.p50_milliseconds, 1),
            "measuredP99Milliseconds": decimal(index.p99_milliseconds, 1),
            "tunedAt": timestamp(index.tuned_at),
            "tunedAtRows": index.tuned_at_rows,
        }
    return figures


def capacity_figures(state: KnowledgeState) -> Mapping[str, Any]:
    """`status.segments` and `status.memory`, as far as they are known."""
    figures: dict[str, Any] = {}
    if state.segments:
        figures["segments"] = {"sealed": state.segments, "rowsPerSegment": state.chunks // state.segments}
    if state.memory_bytes:
        # To the MiB: a status is written when it differs, and this one grows with each chunk.
        memory: dict[str, Any] = {"estimated": f"{-(-state.memory_bytes // 2**20)}Mi"}
        if state.milvus_memory_bytes:
            memory["limitPercent"] = 100 * state.memory_bytes // state.milvus_memory_bytes
        figures["memory"] = memory
    return figures


def decimal(value: float, digits: int) -> str:
    """Rounded down: what is below a threshold must not look as if it reached it."""
    return str(Decimal(str(value)).quantize(Decimal(1).scaleb(-digits), ROUND_DOWN))
