"""The background task that deletes what nobody keeps any longer."""

import asyncio
from datetime import timedelta

import structlog
from prometheus_client import Counter

from servicekit.errors import ServiceError, Unavailable
from session.core.user_data import RetentionStore

log = structlog.get_logger()

SWEPT = Counter("agentteams_session_swept_sessions_total", "Sessions deleted at the end of their retention")

BATCH_SESSIONS = 100


class Sweeper:
    """Sweeps every `interval`, in batches with a `pause` after each.

    Any number of replicas may do so at once: they share the work.
    """

    def __init__(
        self,
        *,
        store: RetentionStore,
        interval: timedelta = timedelta(minutes=1),
        pause: timedelta = timedelta(milliseconds=200),
    ) -> None:
        self._store = store
        self._interval = interval
        self._pause = pause
        self._begun = asyncio.Event()

    def begin(self) -> None:
        """The schema is there: `run` may look at it."""
        self._begun.set()

    async def run(self) -> None:
        """Never returns. A database that does not answer is asked again an interval later."""
        await self._begun.wait()
        while True:
            try:
                await self.sweep()
            except ServiceError as error:
                log.warning("sweep_failed", reason=error.reason, error=error.message)
            await asyncio.sleep(self._interval.total_seconds())

    async def sweep(self) -> int:
        """Deletes all that is due now; returns how many sessions. Raises Unavailable."""
        total, batch = 0, BATCH_SESSIONS
        while True:
            try:
                looked_at, deleted = await self._store.sweep(limit=batch)
            except Unavailable:
                if batch == 1:
                    raise
                # Long sessions may take longer than a statement may; one of them does not.
                batch = max(1, batch // 10)
                await asyncio.sleep(self._pause.total_seconds())
                continue
            total += deleted
            SWEPT.inc(deleted)
            if looked_at < batch:
                break
            await asyncio.sleep(self._pause.total_seconds())
        if total:
            log.info("sessions_swept", sessions=total)
        return total
