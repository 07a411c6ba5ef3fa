"""Work that is one process' for as long as it holds a lease."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from datetime import timedelta

import structlog

from servicekit.errors import ServiceError

log = structlog.get_logger()


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
