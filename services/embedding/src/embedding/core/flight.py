"""Work that several callers wait for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from servicekit.context import remaining_s

R = TypeVar("R")

# The first caller's deadline ends the work a little before the others see it.
_SLACK_S = 0.05


class Flight(Generic[R]):
    """Work of its own, begun for one caller and shared with those who come while it runs.

    It ends when it is done, or when nobody waits for it any more. It has the
    deadline of the caller it was begun for.
    """

    def __init__(self, work: Coroutine[Any, Any, R]) -> None:
        left = remaining_s()
        self._ends = None if left is None else time.monotonic() + left - _SLACK_S
        self._waiting = 0
        self._task = asyncio.get_running_loop().create_task(work)

    @property
    def timed_out(self) -> bool:
        """Whether the first caller's time is over: then a failure says nothing to the others."""
        return self._ends is not None and time.monotonic() >= self._ends

    @property
    def ended(self) -> bool:
        """Whether it cannot be joined any more."""
        return self._task.done() or self._task.cancelling() > 0

    @contextmanager
    def joined(self) -> Iterator[None]:
        """Keeps it going for the block."""
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1
            if self._waiting == 0 and not self._task.done():
                self._task.cancel()

    async def result(self) -> R:
        """The work's result, or its exception; within `joined`."""
        return await asyncio.shield(self._task)
