"""Folders on a disk that the worker sees.

Every step down opens a name inside the folder that is already open and never
follows a symbolic link, so that nothing outside the tenant's folder can be
reached, whatever is renamed or linked meanwhile.
"""

import asyncio
import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from retrieval.core.sources import FileChanged, FolderUnavailable, Seen, SeenFile

_MAX_FILES = 100_000
_MAX_DEPTH = 64
_READ_BYTES = 256 * 1024
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Without O_NONBLOCK opening a pipe would wait for its writer.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class LocalFolders:
    """See `Folders`.

    Args:
        root: Has a folder for each tenant; None: there are no sources here.
    """

    def __init__(self, root: Path | None) -> None:
        self._root = root

    async def look(self, tenant: str, path: str) -> Seen:
        """In a thread: a network drive may be slow."""
        return await asyncio.to_thread(self._look, tenant, path)

    async def read(self, tenant: str, path: str, file: SeenFile) -> AsyncIterator[bytes]:
        """As it is now, if that is what was seen."""
        descriptor = await asyncio.to_thread(self._open_file, tenant, path, file)
        try:
            _check_same(descriptor, file)
            while data := await asyncio.to_thread(os.read, descriptor, _READ_BYTES):
                yield data
            _check_same(descriptor, file)
        except OSError as error:
            raise FileChanged from error
        finally:
            os.close(descriptor)

    async def sha256(self, tenant: str, path: str, file: SeenFile) -> str:
        """In hex."""
        digest = hashlib.sha256()
        async for data in self.read(tenant, path, file):
            digest.update(data)
        return digest.hexdigest()

    def _look(self, tenant: str, path: str) -> Seen:
        with self._opened(tenant, path) as top:
            return _walk(top)

    @contextlib.contextmanager
    def _opened(self, tenant: str, path: str) -> Iterator[int]:
        """The source's folder, reached name by name."""
        if self._root is None:
            raise FolderUnavailable("the worker has no AGENTTEAMS_SOURCE_ROOT")
        names = [tenant, *path.split("/")]
        if any(name in ("", ".", "..") or "/" in name or "\0" in name for name in names):
            raise FolderUnavailable(f"{path!r} is not a path below the tenant's folder")
        try:
            descriptor = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise FolderUnavailable(f"AGENTTEAMS_SOURCE_ROOT cannot be opened: {error.strerror}") from error
        try:
            for name in names:
                try:
                    inner = os.open(name, _FOLDER, dir_fd=descriptor)
                except OSError as error:
                    raise FolderUnavailable(_why_not(path, name, error)) from error
                os.close(descriptor)
                descriptor = inner
            yield descriptor
        finally:
            os.close(descriptor)

    def _open_file(self, tenant: str, path: str, file: SeenFile) -> int:
        *folders, name = file.path.split("/")
        try:
            with self._opened(tenant, "/".join([path, *folders])) as folder:
                return os.open(name, _FILE, dir_fd=folder)
        except (FolderUnavailable, OSError) as error:
            raise FileChanged from error


def _why_not(path: str, name: str, error: OSError) -> str:
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return f"{path}: {name} is no folder, or a symbolic link, which is not followed"
    return f"{path}: {name} cannot be opened: {error.strerror}"


def _walk(top: int) -> Seen:
    files: list[SeenFile] = []
    left_out: dict[str, str] = {}
    whole = True
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        try:
            entries = _entries(top, folder)
        except OSError as error:
            left_out[folder] = f"cannot be opened: {error.strerror}"
            whole = False
            continue
        for name, found in entries:
            path = f"{folder}/{name}" if folder else name
            if name.startswith(".") or found is None:  # hidden, or gone while we looked
                continue
            if not name.isprintable():  # not UTF-8, or with line ends: no path of a document
                left_out[ascii(path)] = "its name has characters that no path may have"
            elif stat.S_ISLNK(found.st_mode):
                left_out[path] = "a symbolic link"
            elif stat.S_ISDIR(found.st_mode):
                if path.count("/") >= _MAX_DEPTH:
                    left_out[path] = f"nested deeper than {_MAX_DEPTH} folders"
                    whole = False
                else:
                    waiting.append(path)
            elif stat.S_ISREG(found.st_mode):
                if len(files) == _MAX_FILES:
                    raise FolderUnavailable(f"it has more than {_MAX_FILES} files; split it into sources")
                files.append(SeenFile(path=path, size_bytes=found.st_size, changed_ns=found.st_mtime_ns))
            else:
                left_out[path] = "not a file"
    return Seen(files=sorted(files, key=lambda file: file.path), left_out=left_out, whole=whole)


def _entries(top: int, folder: str) -> list[tuple[str, os.stat_result | None]]:
    """Names and what they are, links not followed."""
    descriptor = os.dup(top)
    try:
        for name in folder.split("/") if folder else ():
            inner = os.open(name, _FOLDER, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        return [(name, _stat(name, descriptor)) for name in os.listdir(descriptor)]
    finally:
        os.close(descriptor)


def _stat(name: str, folder: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _check_same(descriptor: int, file: SeenFile) -> None:
    found = os.fstat(descriptor)
    now = SeenFile(path=file.path, size_bytes=found.st_size, changed_ns=found.st_mtime_ns)
    if now != file or not stat.S_ISREG(found.st_mode):
        raise FileChanged
