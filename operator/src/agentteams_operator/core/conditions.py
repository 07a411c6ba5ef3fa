"""Conditions: what is so, why, and since when."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

Truth = Literal["True", "False", "Unknown"]
MAX_MESSAGE = 4096


@dataclass(frozen=True, slots=True)
class Verdict:
    """A condition without its times."""

    type: str
    status: Truth
    reason: str
    message: str = ""

    @property
    def holds(self) -> bool:
        return self.status == "True"


def yes(kind: str, reason: str, message: str = "") -> Verdict:
    return Verdict(kind, "True", reason, message)


def no(kind: str, reason: str, message: str) -> Verdict:
    return Verdict(kind, "False", reason, message)


def unknown(kind: str, reason: str, message: str) -> Verdict:
    return Verdict(kind, "Unknown", reason, message)


def ready(parts: Iterable[Verdict], message: str) -> Verdict:
    """Ready: the first of the parts that does not hold, else yes."""
    first = next((part for part in parts if not part.holds), None)
    if first is None:
        return yes("Ready", "Ready", message)
    return no("Ready", first.reason, first.message)


def conditions(
    verdicts: Sequence[Verdict], before: Sequence[Mapping[str, Any]], *, generation: int, now: datetime
) -> list[dict[str, Any]]:
    """As they stand in a status: the time moves when the status flips and only then."""
    earlier = {str(one.get("type")): one for one in before}
    written = []
    for verdict in verdicts:
        old = earlier.get(verdict.type, {})
        same = old.get("status") == verdict.status and old.get("lastTransitionTime")
        written.append(
            {
                "type": verdict.type,
                "status": verdict.status,
                "reason": verdict.reason,
                "message": verdict.message[:MAX_MESSAGE],
                "observedGeneration": generation,
                "lastTransitionTime": old["lastTransitionTime"] if same else timestamp(now),
            }
        )
    return written


def timestamp(now: datetime) -> str:
    """As Kubernetes writes times."""
    return now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
