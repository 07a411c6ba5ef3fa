"""The leases of a process' runs: keeps them, and finds runs that nobody has."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress

import structlog

from orchestrator.core.pool import Pool
from orchestrator.core.ports import Acquired, LeaseTimes, Renewed, SessionLog
from servicekit.clock import Clock
from servicekit.context import scope
from servicekit.errors import ServiceError

log = structlog.get_logger()


class Leases:
    """Two loops over the store.

    Args:
        store: Where leases are.
        clock: For periods.
        times: How long a lease holds, and how often it is renewed.
        pool: Whose runs are taken over.
        runs: The runs that are worked on here.
        renewed: Told what the store says to each renewal.
        take: Told of each run that is ours from now on.
    """

    def __init__(
        self,
        *,
        store: SessionLog,
        clock: Clock,
        times: LeaseTimes,
        pool: Pool,
        runs: Callable[[], Sequence[str]],
        renewed: Callable[[Renewed], None],
        take: Callable[[Acquired], None],
    ) -> None:
        self._store = store
        self._clock = clock
        self._times = times
        self._pool = pool
        self._runs = runs
        self._renewed = renewed
        self._take = take
        self._look = asyncio.Event()
        self._stopping = False

    def look(self) -> None:
        """A run is free: asks for it at once."""
        self._look.set()

    def stop(self) -> None:
        """Takes over no more runs."""
        self._stopping = True

    async def renew(self) -> None:
        """Renews the leases of all runs, for the process' life."""
        period = self._times.renew_every.total_seconds()
        delay = period
        while True:
            await asyncio.sleep(delay)
            began, delay = self._clock.monotonic(), period
            runs = self._runs()
            if not runs:
                continue
            try:
                with scope(caller=self._pool.caller, timeout=self._times.renew_every):
                    renewed = await self._store.renew(runs)
            except ServiceError as error:
                log.warning("leases_not_renewed", error=error.message)
                delay = max(period / 10, period - (self._clock.monotonic() - began))
                continue
            self._renewed(renewed)

    async def take_over(self) -> None:
        """Takes over runs whose leases have expired, until the process stops."""
        while not self._stopping:
            self._look.clear()
            try:
                with scope(caller=self._pool.caller, timeout=self._times.lease):
                    acquired = await self._store.acquire_expired(self._pool.takes())
            except ServiceError as error:
                log.warning("expired_runs_not_acquired", error=error.message)
                acquired = []
            for run in acquired:
                self._take(run)
            # Where there were some there may be more; the others shall have a share of them.
            period = self._times.renew_every.total_seconds() * (0.1 if acquired else 1.0)
            with suppress(TimeoutError):
                async with asyncio.timeout(period):
                    await self._look.wait()
