"""What every worker does that takes jobs out of a queue and holds each by a lease."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from datetime import timedelta

import structlog

from servicekit.errors import ServiceError

log = structlog.get_logger()


class Claiming:
    """Job after job, until there is none; then again when somebody says so, or after a while.

    Args:
        do_one: Claims one job and does it; False if there was none.
        poll: How long it waits when nobody says that there is work.
        what: For the log.
    """

    def __init__(self, do_one: Callable[[], Awaitable[bool]], *, poll: timedelta, what: str) -> None:
        self._do_one = do_one
        self._poll_s = poll.total_seconds()
        self._what = what
        self._wake = asyncio.Event()
        self._stopping = False

    def wake(self) -> None:
        """There is work."""
        self._wake.set()

    def stop(self) -> None:
        """No further claims; what was begun goes on."""
        self._stopping = True
        self._wake.set()

    async def run(self) -> None:
        """Works until it is cancelled; as many as run at once do so many jobs at once."""
        while True:
            if self._stopping:
                # Until it is cancelled; `_wake` stays set, and waiting for it would hold the event loop.
                await asyncio.Future()
            self._wake.clear()
            try:
                if await self._do_one():
                    continue
            except ServiceError as error:
                log.warning("queue_unavailable", queue=self._what, reason=error.reason, error=error.message)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._poll_s):
                    await self._wake.wait()

    async def until_idle(self) -> int:
        """All jobs that can be claimed now, one after the other; how many there were."""
        done = 0
        while await self._do_one():
            done += 1
        return done
