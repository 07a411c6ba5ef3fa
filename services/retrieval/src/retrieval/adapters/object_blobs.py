"""Originals in an object store: S3, or what speaks like it.

An upload below 8 MiB is one request at its end; a larger one goes up in parts
while it arrives, and is aborted when it is cut, so that no part stays. To be
parsed, an original comes down into a temporary file that goes with the block.
"""

import asyncio
import contextlib
import hashlib
import os
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, BinaryIO

import obstore
import structlog
from obstore.exceptions import BaseError
from obstore.store import ObjectStore

from retrieval.core.original_sweep import StoredBlob
from servicekit.errors import NotFound, Unavailable
from servicekit.ids import new_id

log = structlog.get_logger()

# S3 wants parts of at least 5 MiB; each upload holds two or three of them in memory.
_PART_BYTES = 8 * 1024 * 1024
_READ_BYTES = 1024 * 1024
_PAGE = 500
# Of one step: a request, a part, a piece that is read. A store that stalls must not hold a worker.
_STEP_TIMEOUT_S = 60.0
_PREFIX = "agentteams-original-"
_LEFT_BEHIND_S = 3600


class _Cut(Exception):
    """The upload ended before its end."""


class ObjectBlobs:
    """See `BlobStore`.

    Args:
        store: Where they are, bucket and prefix included.
        scratch: Folder of the files that are being parsed; None: the system's.
        step_timeout_s: How long the store may be silent.
    """

    def __init__(
        self, store: ObjectStore, *, scratch: Path | None = None, step_timeout_s: float = _STEP_TIMEOUT_S
    ) -> None:
        self._store = store
        self._scratch = scratch
        self._timeout_s = step_timeout_s
        self._swept = False

    @asynccontextmanager
    async def writer(self, tenant: str) -> AsyncIterator["ObjectBlobWriter"]:
        """An upload that leaves nothing behind unless it is committed."""
        writer = ObjectBlobWriter(self._store, f"{tenant}/{new_id()}", self._timeout_s)
        try:
            yield writer
        finally:
            await writer.discard()

    @asynccontextmanager
    async def local_path(self, blob: str) -> AsyncIterator[Path]:
        """A copy, for as long as the block lasts."""
        if not self._swept:
            await asyncio.to_thread(self._sweep)
            self._swept = True
        try:
            descriptor, name = tempfile.mkstemp(prefix=_PREFIX, dir=self._scratch)
        except OSError as error:
            raise _no_room(error) from error
        path = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file, _mapped("read"):
                await self._download(blob, file)
            yield path
        finally:
            await asyncio.to_thread(path.unlink, missing_ok=True)

    async def _download(self, blob: str, file: BinaryIO) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                found = await obstore.get_async(self._store, blob)
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error):
                raise
            raise NotFound(f"the original {blob} is missing", reason="DOCUMENT_NOT_FOUND") from error
        pieces = aiter(found.stream(min_chunk_size=_READ_BYTES))
        while True:
            async with asyncio.timeout(self._timeout_s):
                piece = await anext(pieces, None)
            if piece is None:
                return
            try:
                await asyncio.to_thread(file.write, piece)
            except OSError as error:
                raise _no_room(error) from error

    async def delete(self, blob: str) -> None:
        """Of S3 it is no error if it is not there."""
        with _mapped("delete"):
            async with asyncio.timeout(self._timeout_s):
                with contextlib.suppress(FileNotFoundError):
                    await obstore.delete_async(self._store, blob)

    async def walk(self) -> AsyncIterator[Sequence[StoredBlob]]:
        """Whole originals; parts of uploads that were cut are the bucket's to abort."""
        pages = aiter(obstore.list(self._store, chunk_size=_PAGE))
        while True:
            with _mapped("list"):
                async with asyncio.timeout(self._timeout_s):
                    page = await anext(pages, None)
            if page is None:
                return
            yield [StoredBlob(one["path"], one["last_modified"]) for one in page]

    def _sweep(self) -> None:
        """Copies that a killed process has left."""
        folder = Path(self._scratch or tempfile.gettempdir())
        for left in folder.glob(f"{_PREFIX}*"):
            with contextlib.suppress(OSError):
                if time.time() - left.stat().st_mtime > _LEFT_BEHIND_S:
                    left.unlink()


class ObjectBlobWriter:
    """See `BlobWriter`."""

    def __init__(self, store: ObjectStore, key: str, timeout_s: float) -> None:
        self._store = store
        self._key = key
        self._timeout_s = timeout_s
        self._hash = hashlib.sha256()
        self._waiting = bytearray()
        self._parts: asyncio.Queue[bytes | None] = asyncio.Queue(maxsize=1)
        self._upload: asyncio.Future[object] | None = None
        self._committed = False
        self.size_bytes = 0

    @property
    def sha256(self) -> str:
        """In hex."""
        return self._hash.hexdigest()

    async def write(self, data: bytes) -> None:
        """Waits while two parts are on their way.

        Raises:
            Unavailable: The store does not take them.
        """
        self._hash.update(data)
        self.size_bytes += len(data)
        self._waiting += data
        if len(self._waiting) >= _PART_BYTES:
            part = bytes(self._waiting)
            self._waiting.clear()
            if self._upload is None:
                self._upload = asyncio.ensure_future(self._send(self._all_parts()))
            await self._hand_over(part)

    async def commit(self) -> str:
        """The object exists from now on, whole."""
        if self._upload is None:
            self._upload = asyncio.ensure_future(self._send(bytes(self._waiting)))
        else:
            if self._waiting:
                await self._hand_over(bytes(self._waiting))
            await self._hand_over(None)
        with _mapped("write"):
            async with asyncio.timeout(self._timeout_s):
                await asyncio.shield(self._upload)
        self._committed = True
        return self._key

    async def discard(self) -> None:
        """Unless it was committed: nothing stays."""
        if self._committed or self._upload is None:
            return
        try:
            async with asyncio.timeout(self._timeout_s):
                if not self._upload.done():
                    # Cancelling would leave the parts there: only a source that fails makes it abort.
                    self._cut = True
                    await self._hand_over(None)
                with contextlib.suppress(_Cut, BaseError, OSError):
                    await self._upload
                    await obstore.delete_async(self._store, self._key)  # whole, but nobody will know of it
        except (TimeoutError, Unavailable, BaseError) as error:
            self._upload.cancel()
            log.warning("upload_not_aborted", error=type(error).__name__)

    _cut = False

    async def _send(self, source: AsyncIterator[bytes] | bytes) -> object:
        return await obstore.put_async(
            self._store,
            self._key,
            source,
            use_multipart=not isinstance(source, bytes),
            chunk_size=_PART_BYTES,
            max_concurrency=2,
        )

    async def _all_parts(self) -> AsyncIterator[bytes]:
        while (part := await self._parts.get()) is not None:
            yield part
        if self._cut:
            raise _Cut

    async def _hand_over(self, part: bytes | None) -> None:
        """To the upload, unless it has failed or stalls."""
        assert self._upload is not None
        put = asyncio.ensure_future(self._parts.put(part))
        try:
            both: set[asyncio.Future[Any]] = {put, self._upload}
            await asyncio.wait(both, timeout=self._timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if put.done():
                return
        finally:
            put.cancel()
        with _mapped("write"):
            if not self._upload.done():
                raise TimeoutError
            self._upload.result()


@contextlib.contextmanager
def _mapped(what: str) -> Iterator[None]:
    """The store's own words stay here: they quote requests."""
    try:
        yield
    except (BaseError, TimeoutError, OSError) as error:
        kind = "bucket not found" if isinstance(error, FileNotFoundError) else type(error).__name__
        raise Unavailable(
            f"the store of originals failed to {what}: {kind}; see AGENTTEAMS_ORIGINALS and its credentials",
            reason="DEPENDENCY_UNAVAILABLE",
            metadata={"dependency": "originals"},
        ) from error


def _no_room(error: OSError) -> Unavailable:
    return Unavailable(
        f"an original cannot be copied to the folder for temporary files: {error.strerror}",
        reason="DEPENDENCY_UNAVAILABLE",
        metadata={"dependency": "scratch"},
    )
