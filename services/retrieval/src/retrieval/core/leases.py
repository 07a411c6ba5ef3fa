"""What every worker does that takes jobs out of a queue and holds each by a lease."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
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


async def do_while_leased(
    work: Coroutine[None, None, None],
    *,
    renew: Callable[[], Awaitable[bool]],
    lease: timedelta,
    lost: Callable[[], Awaitable[None]],
    stopped: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Renews the lease while the work goes on; a lease that is lost ends the work.

    Args:
        renew: False: the lease is lost.
        lost: Called when that has ended the work.
        stopped: Called when being cancelled has ended the work.
    """
    working = asyncio.ensure_future(work)
    renewing = asyncio.ensure_future(_renewing(renew, lease))
    try:
        await asyncio.wait([working, renewing], return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
        else:
            await _ended(working)
            await lost()
    except asyncio.CancelledError:
        if await _ended(working) and stopped is not None:
            await stopped()
        raise
    finally:
        await _ended(renewing)


async def _renewing(renew: Callable[[], Awaitable[bool]], lease: timedelta) -> None:
    """While a slow parser, model or Milvus is at it; ends when the lease is lost."""
    while True:
        await asyncio.sleep(lease.total_seconds() / 3)
        try:
            if not await renew():
                return
        except ServiceError as error:
            log.warning("lease_not_renewed", reason=error.reason)  # two more tries before it ends


async def _ended(work: "asyncio.Future[None]") -> bool:
    """Cancels it and waits; False if it came to an end of its own."""
    work.cancel()
    await asyncio.wait([work])
    if not work.cancelled():
        work.exception()  # was logged, or is a kill
    return work.cancelled()
