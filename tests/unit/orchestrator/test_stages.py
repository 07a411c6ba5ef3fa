"""Where a turn's time went."""

import asyncio
import contextlib
from typing import Any

import pytest

from orchestrator.core.stages import StageClock
from tests.support.fake_store import LoopClock

pytestmark = pytest.mark.looptime


def seconds(clock: StageClock) -> dict[str, Any]:
    return {stage.stage: pytest.approx(stage.seconds) for stage in clock.result()[1]}


async def test_a_stage_excludes_the_stages_inside_it() -> None:
    clock = StageClock(LoopClock())
    with clock.stage("tool"):
        await asyncio.sleep(1)
        with clock.stage("vector_search"):
            await asyncio.sleep(2)
            with clock.stage("embedding"):
                await asyncio.sleep(4)
        await asyncio.sleep(8)
    await asyncio.sleep(16)
    assert clock.result()[0] == pytest.approx(31)
    assert seconds(clock) == {"embedding": 4, "vector_search": 2, "tool": 9, "unaccounted": 16}


async def test_stages_side_by_side_add_up_to_more_than_the_turn_and_leave_nothing_unaccounted() -> None:
    clock = StageClock(LoopClock())

    async def member(delay: float) -> None:
        await asyncio.sleep(delay)
        with clock.stage("llm_inference"):
            await asyncio.sleep(10)

    async with asyncio.TaskGroup() as group:
        group.create_task(member(1))
        group.create_task(member(3))
    assert seconds(clock) == {"llm_inference": 20, "unaccounted": 1}
    (stage, _) = clock.result()[1]
    assert stage.count == 2


async def test_time_that_a_service_tells_of_is_moved() -> None:
    clock = StageClock(LoopClock())
    with clock.stage("vector_search"):
        await asyncio.sleep(3)
        clock.move("rerank", 1)
    assert seconds(clock) == {"vector_search": 2, "rerank": 1, "unaccounted": 0}


async def test_a_service_that_tells_of_more_than_it_had_makes_no_negative_time() -> None:
    clock = StageClock(LoopClock())
    with clock.stage("vector_search"):
        await asyncio.sleep(1)
        clock.move("rerank", 5)
    assert seconds(clock)["vector_search"] == 0


async def test_a_stage_that_fails_counts_too() -> None:
    clock = StageClock(LoopClock())
    with contextlib.suppress(ValueError), clock.stage("tool"):
        await asyncio.sleep(1)
        raise ValueError
    with clock.stage("llm_inference"):
        await asyncio.sleep(1)
        assert seconds(clock) == {"tool": 1, "unaccounted": 0}
