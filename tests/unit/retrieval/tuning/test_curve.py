"""Which parameters are tried, and which is chosen."""

from collections.abc import Callable
from datetime import timedelta

import numpy as np
import pytest

from retrieval.core.tuning.curve import Found, explore
from retrieval.core.tuning.latency import time_searches
from retrieval.core.tuning.model import Knob, TuningLimits
from retrieval.core.tuning.truth import Recall
from servicekit.testing import FakeClock
from tests.support.tuning import clustered

EF = Knob("ef", 10, 4096)


async def _explore(
    reach: Callable[[int], float], *, target: float = 0.95, knob: Knob = EF, held_out: float = 0.0
) -> tuple[Found, list[int]]:
    tried: list[int] = []

    async def attempt(value: int) -> Recall:
        tried.append(value)
        return Recall(reach(value), 0.002)

    async def promise(value: int) -> Recall:
        return Recall(reach(value) - held_out, 0.002)

    return await explore(knob, attempt, promise, target=target), tried


@pytest.mark.parametrize("needed", [10, 11, 37, 64, 100, 777, 4000])
async def test_the_smallest_that_passes_to_within_a_tenth(needed: int) -> None:
    found, tried = await _explore(lambda value: 0.99 if value >= needed else 0.9)
    assert found.reached
    assert needed <= found.chosen.value <= max(needed * 1.1, needed + 1)
    assert len(tried) == len(set(tried)) <= 18
    assert [one.value for one in found.tried] == sorted(tried)


async def test_the_curve_goes_on_a_little_beyond_the_choice() -> None:
    found, _ = await _explore(lambda value: 0.99 if value >= 40 else 0.9)
    assert found.tried[-1].value == 4 * found.chosen.value


async def test_a_margin_for_sampling_error() -> None:
    found, _ = await _explore(lambda value: 0.95 if value < 500 else 0.96)
    assert found.chosen.value >= 500  # 0.95 - 1.64 * 0.002 is below the target


async def test_what_does_not_hold_on_the_other_queries_is_not_chosen() -> None:
    found, _ = await _explore(lambda value: 0.96 if value < 500 else 0.99, held_out=0.02)
    assert found.chosen.value >= 500


async def test_the_promise_is_that_of_the_other_queries_even_a_little_below_the_target() -> None:
    found, _ = await _explore(lambda value: 0.9 if value < 500 else 0.954, held_out=0.006)
    assert found.reached
    assert 500 <= found.chosen.value <= 550
    assert found.promise.mean == pytest.approx(0.948)  # within its error: refusing it would select luck


async def test_out_of_reach_the_best_is_taken_and_it_is_said() -> None:
    found, tried = await _explore(lambda value: min(0.9, value / 1000))
    assert not found.reached
    assert found.promise.mean == pytest.approx(0.9)
    assert found.chosen.value == 1280  # the smallest of the best
    assert max(tried) == 4096


async def test_nothing_below_the_lowest_is_tried() -> None:
    found, tried = await _explore(lambda value: 0.99)
    assert found.chosen.value == 10
    assert min(tried) == 10


async def test_the_bounds_of_the_parameter_are_kept() -> None:
    found, tried = await _explore(lambda value: value / 7, knob=Knob("nprobe", 1, 7), target=0.99)
    assert found.chosen.value == 7
    assert max(tried) == 7


async def test_points_take_turns_and_medians_count() -> None:
    clock, asked = FakeClock(), []
    slow = iter([True, *[False] * 1000])

    async def search(_: object, params: object) -> None:
        asked.append(params["ef"])  # type: ignore[index]
        clock.advance(timedelta(milliseconds=500 if next(slow) else asked[-1]))

    points = [{"ef": 1}, {"ef": 2}]
    limits = TuningLimits(latency_queries=5, rounds=3)
    taken = await time_searches(search, points, clustered(5), clock=clock, limits=limits)
    assert asked == [1, 2] * 15
    assert [round(t.p50_s * 1000) for t in taken] == [1, 2]
    assert taken[0].p99_s > 0.1  # the slow one is not hidden either


async def test_timing_ends_with_its_budget() -> None:
    clock, count = FakeClock(), 0

    async def search(_: object, __: object) -> None:
        nonlocal count
        count += 1
        clock.advance(timedelta(seconds=1))

    limits = TuningLimits(latency_queries=100, rounds=100, latency_budget=timedelta(seconds=10))
    await time_searches(
        search, [{"ef": 1}, {"ef": 2}], np.eye(3, dtype=np.float32), clock=clock, limits=limits
    )
    assert 10 <= count <= 12
