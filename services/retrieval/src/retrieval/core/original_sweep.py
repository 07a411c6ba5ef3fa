"""Deletes originals that no document has.

A process that is killed between storing an original and writing its document leaves one behind, and so does
an upload that is cut with it. Nobody would ever ask for it again.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

import structlog

from retrieval.core.ports import BlobStore
from servicekit.clock import Clock
from servicekit.errors import ServiceError

log = structlog.get_logger()

# So many are deleted at most in one turn; the next one goes on.
_MOST = 1_000
# Where more than half, and more than these, have no document, the catalogue is another's or an old one.
_FEW = 100


@dataclass(frozen=True, slots=True)
class StoredBlob:
    """An original, or what an upload that was cut has left, and when it was last written."""

    blob: str
    time: datetime


class ListedBlobs(BlobStore, Protocol):
    """Originals that can be listed."""

    def walk(self) -> AsyncIterator[Sequence[StoredBlob]]:
        """All there are, some hundreds at a time, in no order. Raises Unavailable."""
        ...


class KnownBlobs(Protocol):
    """The catalogue, about originals. Raises Unavailable."""

    async def take_turn(self, *, every: timedelta, now: datetime) -> bool:
        """True for one process in each such time."""
        ...

    async def without_document(self, blobs: Sequence[str]) -> list[str]:
        """Those of them that no document has."""
        ...


class OriginalSweep:
    """Looks through all originals now and then.

    Args:
        grace: What was written since is left alone: its document may be about to come.
        every: From one turn to the next.
        poll: How often it is asked whether it is time.
    """

    def __init__(
        self,
        *,
        blobs: ListedBlobs,
        known: KnownBlobs,
        clock: Clock,
        grace: timedelta = timedelta(hours=24),
        every: timedelta = timedelta(hours=24),
        poll: timedelta = timedelta(minutes=10),
    ) -> None:
        self._blobs = blobs
        self._known = known
        self._clock = clock
        self._grace = grace
        self._every = every
        self._poll_s = poll.total_seconds()

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            try:
                if await self._known.take_turn(every=self._every, now=self._clock.now()):
                    await self.sweep()
            except ServiceError as error:
                log.warning("originals_not_swept", reason=error.reason, error=error.message)
            await asyncio.sleep(self._poll_s)

    async def sweep(self) -> int:
        """One turn; returns how many were deleted.

        Raises:
            Unavailable: The store or the catalogue does not answer; what was deleted is gone.
        """
        before = self._clock.now() - self._grace
        total = found = 0
        doomed: list[str] = []
        async for page in self._blobs.walk():
            total += len(page)
            old = [one.blob for one in page if one.time < before]
            orphans = await self._known.without_document(old) if old else []
            found += len(orphans)
            doomed += orphans[: _MOST - len(doomed)]
        if found > _FEW and found > total / 2:
            log.error(
                "originals_of_another_catalogue",
                originals=total,
                without_document=found,
                fix="nothing was deleted; see AGENTTEAMS_ORIGINALS and AGENTTEAMS_DATABASE_URL: each "
                "installation needs a folder or prefix of its own",
            )
            return 0
        # Asked again, since the walk may have taken long.
        doomed = await self._known.without_document(doomed) if doomed else []
        for blob in doomed:
            await self._blobs.delete(blob)
        if found:
            log.info("originals_swept", deleted=len(doomed), without_document=found, originals=total)
        return len(doomed)
