"""What a run comes to: what it used, where its time went, and whether it is to be scored."""

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
