"""Places for requests at an endpoint, the urgent first."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from embedding.core.work import PATIENCE_S


class Slots:
    """So many at a time; who waits gets a place by due time, as in a `WorkQueue`."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    @asynccontextmanager
    async def hold(self, *, urgent: bool) -> AsyncIterator[None]:
        """Holds a place for the block."""
        if self._free:
            self._free -= 1
        else:
            await self._wait(urgent)
        try:
            yield
        finally:
            self._give()

    async def _wait(self, urgent: bool) -> None:
        loop = asyncio.get_running_loop()
        place: asyncio.Future[None] = loop.create_future()
        due = loop.time() + (0.0 if urgent else PATIENCE_S)
        heapq.heappush(self._waiting, (due, next(self._order), place))
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():  # it was given just before
                self._give()
            raise

    def _give(self) -> None:
        while self._waiting:
            *_, place = heapq.heappop(self._waiting)
            if not place.done():  # else its caller gave up
                place.set_result(None)
                return
        self._free += 1
