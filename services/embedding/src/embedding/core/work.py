"""CPU work in a few threads, the urgent first."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from servicekit.errors import Unavailable

R = TypeVar("R")

# How much later than it came work that is not urgent is due. A question thus
# overtakes the batches of an ingest, and an ingest is never starved.
PATIENCE_S = 2.0
# While questions come, one thread is kept for them: an ingest takes as long as
# it likes for a batch, and a question that waits for its end is late.
QUESTIONS_COME_S = 5.0
# And then what is not urgent rests after each job, so many times as long as the job took: the search that
# asks needs the cores for more than its vector. A quarter of a thread at least is left to an ingest.
_REST, _MAX_REST_S = 3, 1.0
# Where there are fewer cores than work, what runs beside a question has what the question leaves.
_NICE = 19

_Waiting = tuple[float, Callable[[], Any], asyncio.Future[Any]]


class WorkQueue:
    """Runs short jobs in threads by due time.

    It has no bound of its own: whoever adds jobs holds a place in an `Admission`.

    Args:
        threads: Jobs at a time.
    """

    def __init__(self, *, threads: int) -> None:
        self._threads = threads
        self._urgent_threads = ThreadPoolExecutor(threads, thread_name_prefix="embed")
        self._patient_threads = ThreadPoolExecutor(
            threads, thread_name_prefix="embed-bulk", initializer=_give_way
        )
        self._urgent: deque[_Waiting] = deque()
        self._patient: deque[_Waiting] = deque()
        self._running = 0
        self._running_patient = 0
        self._last_urgent_s = float("-inf")
        self._rest_until_s = float("-inf")
        self._rested: asyncio.TimerHandle | None = None
        self._closed = False

    async def run(self, job: Callable[[], R], *, urgent: bool) -> R:
        """Runs one job; a caller that gives up takes a job that has not begun with it."""
        if self._closed:
            raise _stopping()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[R] = loop.create_future()
        now = loop.time()
        if urgent:
            self._last_urgent_s = now
            self._urgent.append((now, job, future))
        else:
            self._patient.append((now + PATIENCE_S, job, future))
        self._pump(loop)
        return await future

    async def aclose(self) -> None:
        """Refuses what waits, and returns when what runs has ended."""
        self._closed = True
        if self._rested is not None:
            self._rested.cancel()
        for waiting in (self._urgent, self._patient):
            for *_, future in waiting:
                if not future.done():
                    future.set_exception(_stopping())
            waiting.clear()
        for threads in (self._urgent_threads, self._patient_threads):
            await asyncio.to_thread(threads.shutdown, wait=True)

    def _pump(self, loop: asyncio.AbstractEventLoop) -> None:
        while self._running < self._threads:
            now = loop.time()
            waiting = self._next(now)
            if waiting is None:
                if self._patient and self._resting(now) and self._rested is None:
                    self._rested = loop.call_at(self._rest_until_s, self._rest_is_over, loop)
                return
            *_, job, future = waiting.popleft()
            if future.done():  # its caller gave up
                continue
            patient = waiting is self._patient
            self._running += 1
            self._running_patient += patient
            inner = loop.run_in_executor(self._patient_threads if patient else self._urgent_threads, job)
            began_s = now if patient else None
            inner.add_done_callback(partial(self._finished, future, loop, began_s))

    def _next(self, now_s: float) -> deque[_Waiting] | None:
        """Who is due first, unless the last free thread is kept for questions."""
        if not self._patient or self._resting(now_s):
            return self._urgent or None
        keep = 1 if self._threads > 1 and self._questions_come(now_s) else 0
        if self._running_patient >= self._threads - keep:
            return self._urgent or None
        if self._urgent and self._urgent[0][0] <= self._patient[0][0]:
            return self._urgent
        return self._patient

    def _questions_come(self, now_s: float) -> bool:
        return now_s - self._last_urgent_s < QUESTIONS_COME_S

    def _resting(self, now_s: float) -> bool:
        return now_s < self._rest_until_s and self._questions_come(now_s)

    def _rest_is_over(self, loop: asyncio.AbstractEventLoop) -> None:
        self._rested = None
        self._pump(loop)

    def _finished(
        self,
        outer: asyncio.Future[Any],
        loop: asyncio.AbstractEventLoop,
        began_s: float | None,
        done: asyncio.Future[Any],
    ) -> None:
        self._running -= 1
        if began_s is not None:  # not urgent
            self._running_patient -= 1
            now = loop.time()
            self._rest_until_s = now + min(_REST * (now - began_s), _MAX_REST_S)
        error = done.exception()  # also marks it as seen, if the caller has gone
        if not outer.done():
            if error is not None:
                outer.set_exception(error)
            else:
                outer.set_result(done.result())
        self._pump(loop)


def _give_way() -> None:
    """Of this thread only, which Linux can."""
    if sys.platform == "linux":
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, max(_NICE, os.getpriority(os.PRIO_PROCESS, thread)))


def _stopping() -> Unavailable:
    return Unavailable("the embedding service is stopping; try again", reason="MODEL_UNAVAILABLE")
