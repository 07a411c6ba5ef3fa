"""Sources: folders whose files become documents by themselves.

A worker holds a source by a lease while it looks through it, so that one
worker does at a time. What a file was when it became a document is kept with
the document (size and time of change): a look that finds the same reads no
file. A file `a/b.md` of the source `docs` is the document `docs/a/b.md`.
"""

import asyncio
import contextlib
import math
import unicodedata
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

import structlog

from retrieval.core.documents import Documents
from retrieval.core.model import Document, FolderSource, KnowledgeBase
from retrieval.core.names import check_path, document_id
from servicekit.clock import Clock
from servicekit.context import Caller, scope
from servicekit.errors import InvalidArgument, NotFound, ServiceError

log = structlog.get_logger()

# A file that changed just now is probably still being written.
_SETTLES = timedelta(seconds=2)
_MAX_NAMED = 20
_PAGE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenFile:
    """A file of a source.

    Attributes:
        path: Below the source's folder, with `/`.
    """

    path: str
    size_bytes: int
    changed_ns: int

    @property
    def stamp(self) -> str:
        """The same as long as nobody wrote to it."""
        return f"{self.size_bytes}:{self.changed_ns}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What is in a folder.

    Attributes:
        left_out: Why a path is not looked at, by path.
        whole: Everything could be looked at, so that what is not here has gone.
    """

    files: Sequence[SeenFile]
    left_out: dict[str, str] = field(default_factory=dict)
    whole: bool = True


class FolderUnavailable(Exception):
    """The folder cannot be looked through; says why."""


class FileChanged(Exception):
    """It was written to, or went, while it was read."""


class _LeaseLost(Exception):
    """Another worker looks through it."""


class Folders(Protocol):
    """Files below one folder a tenant, and none outside it."""

    async def look(self, tenant: str, path: str) -> Seen:
        """What is in the folder and below it.

        Raises:
            FolderUnavailable: It is not there, not readable, or not below the tenant's.
        """
        ...

    def read(self, tenant: str, path: str, file: SeenFile) -> AsyncIterator[bytes]:
        """The file's bytes. Raises FileChanged."""
        ...

    async def sha256(self, tenant: str, path: str, file: SeenFile) -> str:
        """Of the file's bytes. Raises FileChanged."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceStatus:
    """How the last look went."""

    name: str
    sync_time: datetime | None = None
    files: int = 0
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceLease:
    """One worker's right to look through one source."""

    tenant: str
    knowledge_base: str
    source: FolderSource
    token: str


class SourceStore(Protocol):
    """What is known of sources. Every method is one transaction and raises Unavailable."""

    async def due(self, *, now: datetime) -> list[tuple[KnowledgeBase, FolderSource]]:
        """Those that are due and in nobody's hands; how long each has been so is not considered."""
        ...

    async def take(
        self, knowledge_base: KnowledgeBase, source: FolderSource, *, lease: timedelta, now: datetime
    ) -> SourceLease | None:
        """If it is due and in nobody's hands."""
        ...

    async def keep(self, lease: SourceLease, *, until: datetime) -> bool:
        """False if another worker has it."""
        ...

    async def release(
        self, lease: SourceLease, *, due: datetime, message: str, files: int | None, now: datetime
    ) -> None:
        """The look has ended; `files` is None if not with its end."""
        ...

    async def statuses(self, tenant: str, knowledge_base: str) -> dict[str, SourceStatus]:
        """By name."""
        ...

    async def documents(self, lease: SourceLease, *, after: str, limit: int) -> list[Document]:
        """Those that came from it, by path."""
        ...

    async def restamp(self, document: Document, stamp: str) -> None:
        """The file was touched, with the same bytes as before."""
        ...


class Sources:
    """Looks through all sources, one after the other.

    Args:
        lease: How long a killed worker's source waits.
        pause: Between two looks at what is due.
    """

    def __init__(
        self,
        *,
        store: SourceStore,
        folders: Folders,
        documents: Documents,
        clock: Clock,
        lease: timedelta = timedelta(minutes=2),
        pause: timedelta = timedelta(seconds=2),
    ) -> None:
        self._store = store
        self._folders = folders
        self._documents = documents
        self._clock = clock
        self._lease = lease
        self._pause_s = pause.total_seconds()

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            try:
                await self.look()
            except ServiceError as error:
                log.warning("sources_unavailable", reason=error.reason, error=error.message)
            await asyncio.sleep(self._pause_s)

    async def look(self) -> int:
        """Looks through those that are due; returns how many were."""
        looked = 0
        for knowledge_base, source in await self._store.due(now=self._clock.now()):
            lease = await self._store.take(knowledge_base, source, lease=self._lease, now=self._clock.now())
            if lease is not None:  # else another worker was quicker
                looked += 1
                # Nobody waits for this: it is done on the tenant's behalf, by the service.
                with scope(caller=Caller(lease.tenant, "source", "retrieval")):
                    await self._look_through(lease)
        return looked

    async def _look_through(self, lease: SourceLease) -> None:
        files: int | None = None
        try:
            files, message = await self._sync(lease)
        except FolderUnavailable as error:
            message = f"{error}; nothing was deleted"
        except _LeaseLost:
            return
        except NotFound:
            return  # the knowledge base has gone, and its sources with it
        except ServiceError as error:
            message = f"interrupted: {error.message}"
        except Exception as error:  # a bug of ours must not end the other sources
            log.error("source_crashed", source=lease.source.name, exc_info=error)
            message = f"interrupted: internal error ({type(error).__name__})"
        now = self._clock.now()
        due = now + timedelta(seconds=lease.source.interval_s)
        await self._store.release(lease, due=due, message=message, files=files, now=now)

    async def _sync(self, lease: SourceLease) -> tuple[int, str]:
        seen = await self._folders.look(lease.tenant, lease.source.path)
        known = {document.path: document async for document in self._known(lease)}
        left_out = dict(seen.left_out)
        there = set(left_out)
        kept_at = self._clock.monotonic()
        for file in seen.files:
            kept_at = await self._keep(lease, kept_at)
            there.add(unicodedata.normalize("NFC", file.path))  # as documents' paths are
            try:
                why = await self._take_over(lease, file, known)
            except FileChanged:
                continue  # the next look finds it at rest, or gone
            except InvalidArgument as error:
                why = error.message
            if why:
                left_out[file.path] = why
        await self._keep(lease, -math.inf)
        gone = [path for path in known if path.removeprefix(f"{lease.source.name}/") not in there]
        notes = await self._mirror(lease, seen, [known[path] for path in gone])
        return len(seen.files), _message(left_out, notes)

    async def _take_over(self, lease: SourceLease, file: SeenFile, known: dict[str, Document]) -> str:
        """The file is a document now; or why it is not."""
        path = check_path(f"{lease.source.name}/{file.path}", field="path")
        document = known.get(path)
        if document is not None and document.source_stamp == file.stamp:
            return ""
        age_ns = self._clock.now().timestamp() * 1e9 - file.changed_ns
        if 0 <= age_ns < _SETTLES.total_seconds() * 1e9:
            raise FileChanged
        if file.size_bytes > self._documents.max_bytes:
            return f"larger than {self._documents.max_bytes} bytes"
        if document is None:
            other = await self._documents.find(lease.knowledge_base, document_id(path))
            if other is not None and other.source != lease.source.name:
                return "a document of this path was uploaded; delete that one or rename the file"
        elif document.size_bytes == file.size_bytes:
            found = await self._folders.sha256(lease.tenant, lease.source.path, file)
            if found == document.sha256:
                await self._store.restamp(document, file.stamp)
                return ""
        await self._documents.upload(
            lease.knowledge_base,
            path,
            self._folders.read(lease.tenant, lease.source.path, file),
            metadata={} if document is None else document.metadata,
            source=lease.source.name,
            source_stamp=file.stamp,
        )
        return ""

    async def _mirror(self, lease: SourceLease, seen: Seen, gone: Sequence[Document]) -> list[str]:
        if not gone or not lease.source.mirror_deletes:
            return []
        if not seen.whole:
            return [f"{len(gone)} documents without a file stay: not everything could be looked at"]
        if not seen.files and not seen.left_out:
            return [f"the folder is empty (is its volume mounted?): its {len(gone)} documents stay"]
        for document in gone:
            with contextlib.suppress(NotFound):  # somebody else was quicker
                await self._documents.delete(lease.knowledge_base, document.id)
        return []

    async def _known(self, lease: SourceLease) -> AsyncIterator[Document]:
        after = ""
        while page := await self._store.documents(lease, after=after, limit=_PAGE):
            for document in page:
                if document.path.startswith(f"{lease.source.name}/"):  # else it was moved: it is its mover's
                    yield document
            after = page[-1].path

    async def _keep(self, lease: SourceLease, kept_at: float) -> float:
        """Renews the lease now and then; returns when it was last renewed."""
        if self._clock.monotonic() - kept_at < self._lease.total_seconds() / 4:
            return kept_at
        if not await self._store.keep(lease, until=self._clock.now() + self._lease):
            raise _LeaseLost
        return self._clock.monotonic()


def _message(left_out: dict[str, str], notes: Sequence[str]) -> str:
    lines = list(notes)
    if left_out:
        named = [f"{path} ({why})" for path, why in sorted(left_out.items())[:_MAX_NAMED]]
        more = f" and {len(left_out) - _MAX_NAMED} more" if len(left_out) > _MAX_NAMED else ""
        lines.append(f"left out: {'; '.join(named)}{more}")
    return ". ".join(lines)
