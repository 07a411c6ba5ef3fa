"""What a run comes to: what it used, where its time went, and whether it is to be scored."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal


@dataclass(slots=True, kw_only=True)
class Usage:
    """What a run used so far."""

    input_tokens: int = 0
    output_tokens: int = 0
    model_calls: int = 0
    tool_calls: int = 0
    searches: int = 0
    searches_saved: int = 0
    cost_micros: int = 0  # millionths of `currency`
    currency: str = ""  # empty: no call had a price
    steps: int = field(default=0, compare=False)  # of workflows; not in the summary


def total(usages: Iterable[Usage]) -> Usage | None:
    """All of them together; None: there is none. Money is added up within the first currency alone."""
    found = list(usages)
    if not found:
        return None
    currency = next((usage.currency for usage in found if usage.currency), "")
    return Usage(
        input_tokens=sum(usage.input_tokens for usage in found),
        output_tokens=sum(usage.output_tokens for usage in found),
        model_calls=sum(usage.model_calls for usage in found),
        tool_calls=sum(usage.tool_calls for usage in found),
        searches=sum(usage.searches for usage in found),
        searches_saved=sum(usage.searches_saved for usage in found),
        cost_micros=sum(usage.cost_micros for usage in found if usage.currency == currency),
        currency=currency,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTime:
    """Seconds in one stage, over `count` times."""

    stage: str
    seconds: float
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Scoring:
    """The run is to be scored; see docs/evaluation.md for the words."""

    selection: Literal["SAMPLED", "SUSPICIOUS"]
    suspicions: tuple[str, ...]
    traceparent: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a run used, how long it took, and whether it is to be scored."""

    usage: Usage
    seconds: float
    stages: tuple[StageTime, ...]
    scoring: Scoring | None = None
    called: Usage | None = None  # what runs used that other namespaces' teams made for this one
