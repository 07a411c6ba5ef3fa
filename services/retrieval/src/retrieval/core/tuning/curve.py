"""Which values of a parameter are looked at."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from retrieval.core.tuning.model import Knob
from retrieval.core.tuning.truth import Recall

_FINE = 1.1
_BEYOND = 2  # doublings above the choice, so that the curve shows what more would give

Try = Callable[[int], Awaitable[Recall]]
"""Recall of a value."""


@dataclass(frozen=True, slots=True)
class Tried:
    """One value, and its recall on the queries that choose."""

    value: int
    recall: Recall


@dataclass(frozen=True, slots=True)
class Found:
    """All that was tried, by value, and the cheapest that reaches the target.

    Attributes:
        promise: Recall of the chosen on queries that have not chosen it.
    """

    tried: tuple[Tried, ...]
    chosen: Tried
    promise: Recall
    reached: bool


async def explore(knob: Knob, attempt: Try, promise: Try, *, target: float) -> Found:
    """Doubling, then halving between the last that failed and the first that passed.

    Args:
        attempt: On the queries that choose.
        promise: On the others. They refuse only what is below the target for certain: if they had to
            reach it, those that happen to would be chosen, and would promise too much.
    """
    tried: dict[int, Tried] = {}
    promises: dict[int, Recall] = {}

    async def look(value: int) -> Tried:
        if value not in tried:
            tried[value] = Tried(value, await attempt(value))
        return tried[value]

    async def promised(value: int) -> Recall:
        if value not in promises:
            promises[value] = await promise(value)
        return promises[value]

    async def passes(value: int) -> bool:
        # With every cluster searched or all queries perfect there is no error left to have a margin for.
        return (await look(value)).recall.surely(target) and not (await promised(value)).surely_below(target)

    failed, value = knob.low - 1, knob.low
    while not (reached := await passes(value)) and value < knob.high:
        failed, value = value, min(knob.high, value * 2)
    if reached:
        value = await _refine(passes, failed, value)
    chosen = tried[value] if reached else max(tried.values(), key=lambda t: (t.recall.mean, -t.value))
    beyond = chosen.value
    for _ in range(_BEYOND):
        beyond = min(knob.high, beyond * 2)
        await look(beyond)
    return Found(tuple(tried[v] for v in sorted(tried)), chosen, await promised(chosen.value), reached)


async def _refine(passes: Callable[[int], Awaitable[bool]], failed: int, passed: int) -> int:
    """The smallest value that passes, to within a tenth."""
    while passed - failed > 1 and passed > failed * _FINE:
        middle = (failed + passed) // 2
        if await passes(middle):
            passed = middle
        else:
            failed = middle
    return passed
