"""CPU work in a few threads, the urgent first."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from servicekit.errors import Unavailable

R = TypeVar("R")

# How much later than it came work that is not urgent is due. A question thus
# overtakes the batches of an ingest, and an ingest is never starved.
PATIENCE_S = 2.0


class WorkQueue:
    """Runs short jobs in threads by due time.

    It has no bound of its own: whoever adds jobs holds a place in an `Admission`.

    Args:
        threads: Jobs at a time.
    """

    def __init__(self, *, threads: int) -> None:
        self._threads = threads
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="embed")
        self._waiting: list[tuple[float, int, Callable[[], Any], asyncio.Future[Any]]] = []
        self._order = itertools.count()
        self._running = 0
        self._closed = False

    async def run(self, job: Callable[[], R], *, urgent: bool) -> R:
        """Runs one job; a caller that gives up takes a job that has not begun with it."""
        if self._closed:
            raise _stopping()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[R] = loop.create_future()
        due = loop.time() + (0.0 if urgent else PATIENCE_S)
        heapq.heappush(self._waiting, (due, next(self._order), job, future))
        self._pump(loop)
        return await future

    async def aclose(self) -> None:
        """Refuses what waits, and returns when what runs has ended."""
        self._closed = True
        for *_, future in self._waiting:
            if not future.done():
                future.set_exception(_stopping())
        self._waiting.clear()
        await asyncio.to_thread(self._executor.shutdown, wait=True)

    def _pump(self, loop: asyncio.AbstractEventLoop) -> None:
        while self._running < self._threads and self._waiting:
            *_, job, future = heapq.heappop(self._waiting)
            if future.done():  # its caller gave up
                continue
            self._running += 1
            inner = loop.run_in_executor(self._executor, job)
            inner.add_done_callback(partial(self._finished, future, loop))

    def _finished(
        self, outer: asyncio.Future[Any], loop: asyncio.AbstractEventLoop, done: asyncio.Future[Any]
    ) -> None:
        self._running -= 1
        error = done.exception()  # also marks it as seen, if the caller has gone
        if not outer.done():
            if error is not None:
                outer.set_exception(error)
            else:
                outer.set_result(done.result())
        self._pump(loop)


def _stopping() -> Unavailable:
    return Unavailable("the embedding service is stopping; try again", reason="MODEL_UNAVAILABLE")
