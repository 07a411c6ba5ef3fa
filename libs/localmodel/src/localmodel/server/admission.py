"""How many requests run, how many wait, and how long."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from localmodel.server.errors import ApiError


class Admission:
    """Lets `running` requests through at a time and `waiting` wait for at most `patience`."""

    def __init__(self, *, running: int, waiting: int, patience: timedelta) -> None:
        self._slots = asyncio.Semaphore(running)
        self._limit = waiting
        self._patience = patience
        self._waiting = 0

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Holds a slot.

        Raises:
            ApiError: 429 if the queue is full, 503 if no slot became free in time.
        """
        if self._slots.locked() and self._waiting >= self._limit:
            raise ApiError(
                429,
                f"{self._limit} requests are already waiting for this model; try again later",
                code="rate_limit_exceeded",
                retry_after=timedelta(seconds=5),
            )
        self._waiting += 1
        try:
            async with asyncio.timeout(self._patience.total_seconds()):
                await self._slots.acquire()
        except TimeoutError as exc:
            raise ApiError(
                503,
                f"no slot became free within {self._patience.total_seconds():.0f} s",
                code="overloaded",
                retry_after=timedelta(seconds=10),
            ) from exc
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._slots.release()
