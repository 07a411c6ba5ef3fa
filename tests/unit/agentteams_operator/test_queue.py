"""The queue of keys."""

import asyncio

import pytest

from agentteams_operator.core.objects import Key
from agentteams_operator.core.queue import LONGEST_RETRY_S, WorkQueue

A, B = Key("ModelConfig", "n", "a"), Key("ModelConfig", "n", "b")

pytestmark = pytest.mark.looptime


async def test_a_key_waits_once_and_the_first_comes_first() -> None:
    queue = WorkQueue()
    for key in (A, B, A):
        queue.add(key)
    assert [await queue.get(), await queue.get()] == [A, B]
    assert len(queue) == 0


async def test_what_changes_during_its_turn_has_another_turn_and_only_afterwards() -> None:
    queue = WorkQueue()
    queue.add(A)
    await queue.get()
    queue.add(A)
    queue.add(A)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(queue.get(), 1)
    queue.done(A)
    assert await queue.get() == A
    queue.done(A)
    assert len(queue) == 0


async def test_failures_wait_longer_each_time_until_a_success() -> None:
    queue = WorkQueue()
    waits = [queue.retry(A) for _ in range(12)]
    for seconds, expected in zip(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256], strict=False):
        assert expected * 0.8 <= seconds <= expected * 1.2
    assert waits[-1] <= LONGEST_RETRY_S * 1.2
    queue.succeeded(A)
    assert queue.retry(A) <= 1.2


async def test_the_sooner_of_two_times_counts() -> None:
    loop = asyncio.get_running_loop()
    queue = WorkQueue()
    queue.add_after(A, 60)
    queue.add_after(A, 10)
    queue.add_after(A, 30)
    assert await queue.get() == A
    assert loop.time() == pytest.approx(10, abs=0.1)
    queue.done(A)
    queue.add_after(A, 5)
    queue.forget(A)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(queue.get(), 600)
