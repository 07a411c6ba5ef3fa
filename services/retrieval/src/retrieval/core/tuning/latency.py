"""How long searches take, on a machine that has other things to do too."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from retrieval.core.model import Vectors
from retrieval.core.tuning.model import TuningLimits
from servicekit.clock import Clock

Params = Mapping[str, int]
SearchOne = Callable[[Vectors, Params], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds."""

    p50_s: float
    p99_s: float


async def time_searches(
    search: SearchOne, points: Sequence[Params], queries: Vectors, *, clock: Clock, limits: TuningLimits
) -> list[Latency]:
    """One query a call, one call at a time; the points take turns, so that a slow moment hits all of them."""
    taken: list[list[float]] = [[] for _ in points]
    ends = clock.monotonic() + limits.latency_budget.total_seconds()
    each = min(limits.latency_queries, len(queries))
    for round_ in range(limits.rounds):
        for place in range(each):
            query = queries[(round_ * each + place) % len(queries)]
            for times, params in zip(taken, points, strict=True):
                started = clock.monotonic()
                await search(query, params)
                times.append(clock.monotonic() - started)
            if clock.monotonic() >= ends:
                return _latencies(taken)
    return _latencies(taken)


def _latencies(taken: list[list[float]]) -> list[Latency]:
    return [
        Latency(float(np.percentile(times, 50)), float(np.percentile(times, 99)))
        if times
        else Latency(0.0, 0.0)
        for times in taken
    ]
