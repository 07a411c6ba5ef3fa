"""The session service's code as it was before a migration, from the repository's history."""

import os
import subprocess
import tarfile
from io import BytesIO
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
VERSIONS = "services/session/src/session/migrations/versions"
_SOURCES = ("services/session/src", "libs/servicekit/src", "protos/gen")
_TIMEOUT_S = 60


def migrations() -> list[str]:
    """The files, oldest first."""
    return sorted(path.name for path in (ROOT / VERSIONS).glob("[0-9]*.py"))


def code_before(migration: str, folder: Path) -> tuple[str, str]:
    """Unpacks the commit before the one that added a migration; returns it, and a PYTHONPATH.

    Raises:
        RuntimeError: The history is not there, or does not go back so far. The
            test that needs it must fail then: nobody would see that it is skipped.
    """
    path = f"{VERSIONS}/{migration}"
    added = _git("log", "--format=%H", "--diff-filter=A", "--", path).decode().split()
    # Not committed yet: the newest commit is the code before it.
    commit = f"{added[-1]}^" if added else "HEAD"
    try:
        archive = _git("archive", "--format=tar", commit, *_SOURCES)
    except RuntimeError as error:
        raise RuntimeError(
            f"{error}\nThe code before {migration} is needed from the history: clone the whole repository"
            " (git fetch --unshallow)"
        ) from error
    with tarfile.open(fileobj=BytesIO(archive)) as tar:
        tar.extractall(folder, filter="data")
    return commit, os.pathsep.join(str(folder / source) for source in _SOURCES)


def _git(*arguments: str) -> bytes:
    command = ["git", "-C", str(ROOT), *arguments]
    result = subprocess.run(command, capture_output=True, timeout=_TIMEOUT_S, check=False)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {result.stderr.decode(errors='replace').strip()}")
    return result.stdout
