"""Originals in a local folder: <root>/<tenant>/<first 2 of hash>/<hash>-<upload id>.

Each upload is a file of its own, so that replacing or deleting one document
can never take the original of another one that happens to have equal bytes.
"""

import asyncio
import contextlib
import hashlib
import itertools
import os
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from retrieval.core.original_sweep import StoredBlob
from servicekit.errors import NotFound, Unavailable
from servicekit.ids import new_id

_PAGE = 500
_TENANT = re.compile(r"[A-Za-z0-9](?:[-_.A-Za-z0-9]{0,252})")


class LocalBlobs:
    """See `BlobStore`."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @asynccontextmanager
    async def writer(self, tenant: str) -> AsyncIterator["LocalBlobWriter"]:
        """A partial file that vanishes with the block unless it is committed."""
        if _TENANT.fullmatch(tenant) is None:  # it becomes a folder's name
            raise ValueError(f"tenant {tenant!r} cannot be a folder")
        folder = self._root / tenant
        await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
        partial = folder / f"{new_id()}.part"
        file = await asyncio.to_thread(partial.open, "xb")
        try:
            yield LocalBlobWriter(self._root, tenant, partial, file)
        finally:
            file.close()
            await asyncio.to_thread(partial.unlink, missing_ok=True)

    @asynccontextmanager
    async def local_path(self, blob: str) -> AsyncIterator[Path]:
        """The file itself."""
        path = self._root / blob
        if not await asyncio.to_thread(path.is_file):
            raise NotFound(f"the original {blob} is missing", reason="DOCUMENT_NOT_FOUND")
        yield path

    async def delete(self, blob: str) -> None:
        """Empty folders stay: another upload may be about to use them."""
        await asyncio.to_thread((self._root / blob).unlink, missing_ok=True)

    async def walk(self) -> AsyncIterator[Sequence[StoredBlob]]:
        """Files of uploads that were cut too. What goes meanwhile is left out."""
        files = _files(self._root)
        while page := await asyncio.to_thread(_page, files):
            yield page


def _files(root: Path) -> Iterator[StoredBlob]:
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            with contextlib.suppress(FileNotFoundError):
                time = datetime.fromtimestamp(path.stat().st_mtime, UTC)
                yield StoredBlob(path.relative_to(root).as_posix(), time)


def _page(files: Iterator[StoredBlob]) -> list[StoredBlob]:
    try:
        return list(itertools.islice(files, _PAGE))
    except OSError as error:
        raise Unavailable(
            f"the folder of originals cannot be read: {error.strerror}",
            reason="DEPENDENCY_UNAVAILABLE",
            metadata={"dependency": "originals"},
        ) from error


class LocalBlobWriter:
    """See `BlobWriter`."""

    def __init__(self, root: Path, tenant: str, partial: Path, file: BinaryIO) -> None:
        self._root = root
        self._tenant = tenant
        self._partial = partial
        self._file = file
        self._hash = hashlib.sha256()
        self.size_bytes = 0

    @property
    def sha256(self) -> str:
        """In hex."""
        return self._hash.hexdigest()

    async def write(self, data: bytes) -> None:
        """At most 1 MiB, so a thread would cost more than the write."""
        self._file.write(data)
        self._hash.update(data)
        self.size_bytes += len(data)

    async def commit(self) -> str:
        """Renames, so that a half-written original is never seen under its key."""
        self._file.close()
        blob = f"{self._tenant}/{self.sha256[:2]}/{self.sha256}-{new_id()}"
        target = self._root / blob
        await asyncio.to_thread(target.parent.mkdir, parents=True, exist_ok=True)
        await asyncio.to_thread(self._partial.rename, target)
        return blob
