"""Originals, even while their store is away."""

from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

import structlog

from retrieval.core.ports import BlobStore, BlobWriter
from servicekit.errors import Unavailable

log = structlog.get_logger()

_AT_A_TIME = 100


class DoomedBlobs(Protocol):
    """Originals that nobody needs and that could not be deleted yet."""

    async def doom_blob(self, blob: str) -> None:
        """Remembers it; twice is no error."""
        ...

    async def doomed_blobs(self, *, limit: int) -> list[str]:
        """Some of them."""
        ...

    async def forget_blob(self, blob: str) -> None:
        """It is gone."""
        ...


class Originals:
    """A `BlobStore` whose deletions succeed later if they cannot now."""

    def __init__(self, *, blobs: BlobStore, doomed: DoomedBlobs) -> None:
        self._blobs = blobs
        self._doomed = doomed

    def writer(self, tenant: str) -> AbstractAsyncContextManager[BlobWriter]:
        """See `BlobStore`."""
        return self._blobs.writer(tenant)

    def local_path(self, blob: str) -> AbstractAsyncContextManager[Path]:
        """See `BlobStore`."""
        return self._blobs.local_path(blob)

    async def delete(self, blob: str) -> None:
        """Now or later."""
        try:
            await self._blobs.delete(blob)
        except Unavailable as error:
            log.warning("original_not_deleted", reason=error.reason, error=error.message)
            await self._doomed.doom_blob(blob)

    async def sweep(self) -> None:
        """Deletes what could not be deleted before.

        Raises:
            Unavailable: The store is still away.
        """
        for blob in await self._doomed.doomed_blobs(limit=_AT_A_TIME):
            await self._blobs.delete(blob)
            await self._doomed.forget_blob(blob)
