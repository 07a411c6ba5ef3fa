"""Admission and the work queue."""

from __future__ import annotations

import asyncio
import os
import sys
import threading

import pytest

from embedding.core.admission import Admission
from embedding.core.work import WorkQueue
from servicekit.errors import ResourceExhausted, Unavailable


def test_beyond_the_limit_callers_are_told_when_to_return() -> None:
    held: list[int] = []
    admission = Admission(max_texts=10, observe=held.append)
    with admission.hold(8):
        with pytest.raises(ResourceExhausted) as caught, admission.hold(3):
            pass
        with admission.hold(2):
            pass
    assert caught.value.reason == "MODEL_RATE_LIMITED"
    assert caught.value.retry_after is not None
    assert caught.value.metadata == {"waiting": "8", "texts": "3", "limit": "10"}
    assert held == [8, 2, -2, -8]


def test_a_call_larger_than_the_limit_is_let_in_alone() -> None:
    admission = Admission(max_texts=10)
    with admission.hold(200), pytest.raises(ResourceExhausted), admission.hold(1):
        pass
    with admission.hold(200):
        pass


async def _blocked(work: WorkQueue) -> tuple[threading.Event, asyncio.Task[bool]]:
    """Occupies the only thread until the event is set."""
    begun, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def job() -> bool:
        loop.call_soon_threadsafe(begun.set)
        return go_on.wait(10)

    task = asyncio.create_task(work.run(job, urgent=False))
    await begun.wait()
    return go_on, task


async def test_the_urgent_overtake_and_the_rest_keep_their_order() -> None:
    work = WorkQueue(threads=1)
    go_on, first = await _blocked(work)
    done: list[str] = []

    async def add(name: str, *, urgent: bool) -> None:
        await work.run(lambda: done.append(name), urgent=urgent)

    async with asyncio.TaskGroup() as group:
        for name, urgent in (("batch 1", False), ("batch 2", False), ("question", True)):
            group.create_task(add(name, urgent=urgent))
        await asyncio.sleep(0)  # all three are queued now
        go_on.set()
    assert await first
    assert done == ["question", "batch 1", "batch 2"]
    await work.aclose()


async def test_a_caller_that_gives_up_takes_its_job_along() -> None:
    work = WorkQueue(threads=1)
    go_on, first = await _blocked(work)
    ran: list[str] = []
    gone = asyncio.create_task(work.run(lambda: ran.append("gone"), urgent=True))
    await asyncio.sleep(0)
    gone.cancel()
    kept = asyncio.create_task(work.run(lambda: ran.append("kept"), urgent=False))
    await asyncio.sleep(0)
    go_on.set()
    await kept
    assert ran == ["kept"]
    assert await first
    await work.aclose()


async def test_a_failing_job_fails_its_caller_only() -> None:
    work = WorkQueue(threads=1)

    def broken() -> None:
        raise LookupError("inside")

    with pytest.raises(LookupError, match="inside"):
        await work.run(broken, urgent=True)
    assert await work.run(lambda: 3, urgent=True) == 3
    await work.aclose()


async def test_closing_refuses_what_waits_and_finishes_what_runs() -> None:
    work = WorkQueue(threads=1)
    go_on, first = await _blocked(work)
    waiting = asyncio.create_task(work.run(lambda: None, urgent=True))
    await asyncio.sleep(0)
    closing = asyncio.create_task(work.aclose())
    with pytest.raises(Unavailable, match="stopping"):
        await waiting
    with pytest.raises(Unavailable):
        await work.run(lambda: None, urgent=True)
    assert not closing.done()
    go_on.set()
    await closing
    assert await first


async def test_while_questions_come_a_thread_is_kept_for_them() -> None:
    work = WorkQueue(threads=2)
    await work.run(lambda: None, urgent=True)
    go_on, first = await _blocked(work)
    ran: list[str] = []
    second = asyncio.create_task(work.run(lambda: ran.append("batch"), urgent=False))
    await work.run(lambda: ran.append("question"), urgent=True)
    assert ran == ["question"]
    go_on.set()
    await asyncio.gather(first, second)
    assert ran == ["question", "batch"]
    await work.aclose()


@pytest.mark.skipif(sys.platform != "linux", reason="threads have a priority of their own on Linux only")
async def test_what_is_not_urgent_runs_at_a_lower_priority() -> None:
    work = WorkQueue(threads=2)

    def priority() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    own = priority()
    assert await work.run(priority, urgent=True) == own
    assert await work.run(priority, urgent=False) == max(own, 19)
    await work.aclose()


async def test_without_questions_an_ingest_has_all_threads() -> None:
    work = WorkQueue(threads=2)
    go_on, first = await _blocked(work)
    await work.run(lambda: None, urgent=False)
    go_on.set()
    await first
    await work.aclose()


async def test_while_questions_come_an_ingest_rests_three_times_as_long_as_its_batch_took() -> None:
    work = WorkQueue(threads=2)
    await work.run(lambda: None, urgent=True)
    go_on, first = await _blocked(work)
    loop = asyncio.get_running_loop()
    began = loop.time()
    loop.call_later(0.2, go_on.set)
    assert await first
    ran: list[str] = []
    batch = asyncio.create_task(work.run(lambda: ran.append("batch"), urgent=False))
    await asyncio.sleep(0)
    await work.run(lambda: ran.append("question"), urgent=True)
    await batch
    assert ran == ["question", "batch"]
    assert loop.time() - began >= 0.75
    await work.aclose()
