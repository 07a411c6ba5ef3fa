"""A real Postgres for tests: one temporary cluster, a fresh database a test.

Nothing is skipped when Postgres is missing: the tests fail and say so.
"""

import os
import pwd
import re
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import asyncpg
import pytest

from tests.support.ports import free_port
from tests.support.run import until_the_end

_TIMEOUT_S = 60
# Without fsync a database is made in 30 ms instead of a second, and a killed
# server still loses nothing; only a power cut would.
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "shared_buffers": "32MB",
    "max_wal_size": "256MB",
    "autovacuum": "off",
}


class Postgres:
    """A running cluster.

    Attributes:
        port: Where it listens on 127.0.0.1; user `postgres`, no password.
        data: Its data directory.
    """

    def __init__(self, *, bin_dir: Path, data: Path, port: int) -> None:
        self.port = port
        self.data = data
        self._bin = bin_dir
        self._templates: set[str] = set()

    def url(self, database: str, *, user: str = "postgres") -> str:
        """For SQLAlchemy."""
        return f"postgresql+asyncpg://{user}@127.0.0.1:{self.port}/{database}"

    async def create(self, *, template: str = "template0") -> str:
        """Creates a database of a name of its own; returns the name."""
        name = f"test_{secrets.token_hex(6)}"
        await self._execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
        return name

    async def create_from(self, template: str, prepare: Callable[[str], Awaitable[None]]) -> str:
        """Creates a database as a copy of `template`, which `prepare(url)` fills the first time."""
        if template not in self._templates:
            await self._execute(f"CREATE DATABASE {template} TEMPLATE template0")
            await prepare(self.url(template))
            self._templates.add(template)
        return await self.create(template=template)

    async def drop(self, name: str) -> None:
        """Drops a database, whoever is connected."""
        await self._execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def start(self) -> None:
        """Starts the cluster, for tests that stopped it."""
        self._ctl("start", "-w", "-t", str(_TIMEOUT_S), "-l", str(self.data.parent / "log"))

    def stop(self, mode: str = "immediate") -> None:
        """Stops the cluster: `fast`, or `immediate` as if it were killed."""
        self._ctl("stop", "-m", mode, "-w", "-t", str(_TIMEOUT_S))

    def _ctl(self, *arguments: str) -> None:
        run_as_postgres([str(self._bin / "pg_ctl"), "-D", str(self.data), *arguments])

    async def _execute(self, statement: str) -> None:
        connection = await asyncpg.connect(
            host="127.0.0.1", port=self.port, user="postgres", database="postgres", timeout=_TIMEOUT_S
        )
        try:
            await connection.execute(statement, timeout=_TIMEOUT_S)
        finally:
            await connection.close()


@contextmanager
def temporary_postgres() -> Iterator[Postgres]:
    """A cluster for the block; it and its files are gone afterwards."""
    bin_dir = find_binaries()
    folder = Path(tempfile.mkdtemp(prefix="agentteams-pg-"))
    try:
        if os.geteuid() == 0:  # the server refuses to run as root
            account = pwd.getpwnam("postgres")
            os.chown(folder, account.pw_uid, account.pw_gid)
        data = folder / "data"
        initdb = [str(bin_dir / "initdb"), "-D", str(data), "-U", "postgres", "-A", "trust"]
        run_as_postgres([*initdb, "-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions"])
        settings = "".join(f"{key} = '{value}'\n" for key, value in _SETTINGS.items())
        port = free_port()
        with (data / "postgresql.auto.conf").open("a") as file:
            file.write(f"{settings}port = {port}\n")
        server = Postgres(bin_dir=bin_dir, data=data, port=port)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@cache
def shared_postgres() -> Postgres:
    """The cluster of this test run, started when first asked for, stopped at the end."""
    return until_the_end(temporary_postgres())


@pytest.fixture(scope="session")
def postgres() -> Postgres:
    """For test modules: `from tests.support.postgres import postgres` (all share one cluster)."""
    return shared_postgres()


def find_binaries() -> Path:
    """The folder with initdb and pg_ctl: on PATH, else the newest of Debian's.

    Raises:
        FileNotFoundError: There is none; the tests that need it must fail.
    """
    found = shutil.which("pg_ctl")
    if found and (Path(found).parent / "initdb").exists():
        return Path(found).parent
    versions = Path("/usr/lib/postgresql").glob("*/bin/pg_ctl")
    newest = max(versions, key=lambda path: int(re.sub(r"\D", "", path.parts[-3]) or 0), default=None)
    if newest is None:
        raise FileNotFoundError(
            "initdb and pg_ctl are neither on PATH nor in /usr/lib/postgresql/*/bin: "
            "install Postgres (Debian: apt-get install postgresql); its tests are not skipped without it"
        )
    return newest.parent


def run_as_postgres(command: list[str]) -> None:
    """Runs a command, as the user postgres when we are root.

    Raises:
        RuntimeError: It failed; with its output.
    """
    if os.geteuid() == 0:
        command = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--", *command]
    # Output goes to a file: the server inherits it, and a pipe would never end.
    with tempfile.TemporaryFile() as output:
        result = subprocess.run(
            command, stdout=output, stderr=output, timeout=_TIMEOUT_S, check=False, cwd="/"
        )
        output.seek(0)
        if result.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} failed:\n{output.read().decode(errors='replace')}")
