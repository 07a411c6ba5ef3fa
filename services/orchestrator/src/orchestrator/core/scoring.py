"""Whether a run is to be scored, decided when it ends (docs/evaluation.md)."""

import hashlib
import re
from collections.abc import Sequence

from orchestrator.core.model import EvidenceRetrieved, GuardrailTriggered, Message, MessageCompleted
from orchestrator.core.totals import Scoring
from orchestrator.core.turn import Turn
from servicekit import span_wire

_MARK = re.compile(r"\[(\d{1,4}(?:\s*,\s*\d{1,4})*)\]")  # as in citations
_NUMBER = re.compile(r"\d+")

_SLOW_SHARE = 0.5  # of limits.runTimeoutSeconds
_BUCKETS = 10_000


def to_score(turn: Turn, signs: Sequence[str]) -> Scoring | None:
    """What a run that ends asks for, with those signs of trouble; None: it is not scored.

    The same run is chosen by every process that asks, however often.
    """
    evaluation = turn.team.spec.evaluation
    if evaluation is None or turn.end is None or turn.end.state != "SUCCEEDED":
        return None
    sampled = _place(turn.log.run) < evaluation.sample_percent * _BUCKETS // 100
    if not sampled and not (signs and evaluation.score_suspicious):
        return None
    trace, _ = span_wire.run_trace()
    return Scoring(
        selection="SAMPLED" if sampled else "SUSPICIOUS",
        suspicions=tuple(signs),
        traceparent=trace,
    )


def signs_of_trouble(turn: Turn, *, seconds: float) -> list[str]:
    """What is suspicious about a run that took so long and has an answer; else nothing."""
    if turn.end is None or turn.end.state != "SUCCEEDED":
        return []
    searches: list[EvidenceRetrieved] = []
    answer: Message | None = None
    guarded = False
    for step in turn.log.steps():
        match step:
            case EvidenceRetrieved():
                searches.append(step)
            case GuardrailTriggered():
                guarded = True
            case MessageCompleted() if step.message.role == "assistant":
                answer = step.message  # the last is the run's
    evidence = {item.number for search in searches for item in search.evidence}
    cited = answer is not None and any(citation.by_model for citation in answer.citations)
    named = (
        {int(n) for mark in _MARK.findall(answer.content) for n in _NUMBER.findall(mark)} if answer else set()
    )
    signs = {
        "no_evidence": bool(searches) and not evidence,
        "retrieval_degraded": any(search.outcome == "DEGRADED" for search in searches),
        "retrieval_failed": any(search.outcome == "FAILED" for search in searches),
        "weak_evidence": any(search.grade == "WEAK" for search in searches),
        "no_citations": bool(evidence) and not cited,
        "unknown_citations": not named <= evidence,
        "guardrail": guarded,
        "slow": seconds > _SLOW_SHARE * turn.limits.run_timeout_seconds,
    }
    return [sign for sign, is_there in signs.items() if is_there]


def _place(run: str) -> int:
    """Of the run among all runs, 0 to _BUCKETS - 1, as if drawn."""
    return int.from_bytes(hashlib.sha256(run.encode()).digest()[:8]) % _BUCKETS
