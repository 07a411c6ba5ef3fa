"""Which values of a parameter are looked at."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from retrieval.core.tuning.model import Knob
from retrieval.core.tuning.truth import Recall

_FINE = 1.1
_BEYOND = 2  # doublings above the choice, so that the curve shows what more would give

Try = Callable[[int], Awaitable[tuple[Recall, Recall]]]
"""Recall of a value on the queries that choose and on those that promise."""


@dataclass(frozen=True, slots=True)
class Tried:
    """One value."""

    value: int
    choosing: Recall
    held_out: Recall


@dataclass(frozen=True, slots=True)
class Found:
    """All that was tried, by value, and the cheapest that reaches the target."""

    tried: tuple[Tried, ...]
    chosen: Tried
    reached: bool


async def explore(knob: Knob, attempt: Try, *, target: float) -> Found:
    """Doubling, then halving between the last that failed and the first that passed."""
    tried: dict[int, Tried] = {}

    async def look(value: int) -> Tried:
        if value not in tried:
            tried[value] = Tried(value, *await attempt(value))
        return tried[value]

    def passes(one: Tried) -> bool:
        # With every cluster searched or all queries perfect there is no error left to have a margin for.
        return one.choosing.surely(target) and one.held_out.mean >= target

    failed, value = knob.low - 1, knob.low
    while not passes(await look(value)) and value < knob.high:
        failed, value = value, min(knob.high, value * 2)
    reached = passes(tried[value])
    if reached:
        value = await _refine(look, passes, failed, value)
    chosen = tried[value] if reached else max(tried.values(), key=lambda t: (t.held_out.mean, -t.value))
    beyond = chosen.value
    for _ in range(_BEYOND):
        beyond = min(knob.high, beyond * 2)
        await look(beyond)
    return Found(tuple(tried[v] for v in sorted(tried)), chosen, reached)


async def _refine(
    look: Callable[[int], Awaitable[Tried]], passes: Callable[[Tried], bool], failed: int, passed: int
) -> int:
    """The smallest value that passes, to within a tenth."""
    while passed - failed > 1 and passed > failed * _FINE:
        middle = (failed + passed) // 2
        if passes(await look(middle)):
            passed = middle
        else:
            failed = middle
    return passed
