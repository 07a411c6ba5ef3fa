"""Session databases for tests: migrated, and on Postgres used by a role that row level security holds."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa

from session.adapters.database import Database, PoolLimits, open_database
from session.adapters.schema import migrate
from tests.support.postgres import shared_postgres

BACKENDS = ["sqlite", "postgres"]
# Policies do not hold superusers, so the service is none; neither in tests.
PLAIN_ROLE = "agentteams_session"
_ROLE_EXISTS = f"SELECT count(*) FROM pg_roles WHERE rolname = '{PLAIN_ROLE}'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Databases:
    """One database, opened twice.

    Attributes:
        plain: As the service opens it.
        admin: As somebody whom no policy holds; for what a test looks up itself.
    """

    plain: Database
    admin: Database


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file to copy."""
    path = tmp_path_factory.mktemp("session") / "template.db"
    asyncio.run(fill(f"sqlite:///{path}"))
    return path


@pytest.fixture(params=BACKENDS)
async def databases(
    request: pytest.FixtureRequest, migrated_file: Path, tmp_path: Path
) -> AsyncIterator[Databases]:
    """A fresh database of each kind."""
    async with opened(request.param, file=tmp_path / "session.db", template=migrated_file) as databases:
        yield databases


@asynccontextmanager
async def opened(backend: str, *, file: Path, template: Path) -> AsyncIterator[Databases]:
    """A migrated database on `sqlite` (a copy of `template` at `file`) or `postgres`."""
    if backend == "sqlite":
        shutil.copy(template, file)
        database = open_database(f"sqlite:///{file}", PoolLimits(connections=4))
        yield Databases(plain=database, admin=database)
        await database.close()
        return
    server = shared_postgres()
    name = await server.create_from("session_template", fill)
    plain = open_database(server.url(name, user=PLAIN_ROLE), PoolLimits(connections=10))
    admin = open_database(server.url(name), PoolLimits(connections=2))
    yield Databases(plain=plain, admin=admin)
    await plain.close()
    await admin.close()
    await server.drop(name)


async def fill(url: str) -> None:
    """Migrates an empty database and lets the plain role use it."""
    database = open_database(url, PoolLimits(connections=1))
    await migrate(database)
    if url.startswith("postgresql"):
        await database.write(_grant)
    await database.close()


def _grant(connection: sa.Connection) -> None:
    if not connection.exec_driver_sql(_ROLE_EXISTS).scalar():
        connection.exec_driver_sql(f"CREATE ROLE {PLAIN_ROLE} LOGIN")
    tables = "SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public"
    connection.exec_driver_sql(f"GRANT {tables} TO {PLAIN_ROLE}")
