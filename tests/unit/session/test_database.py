"""Which driver errors mean "try again", which are bugs, and what bounds a wait."""

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import exc

from servicekit.errors import NotFound, ResourceExhausted, Unavailable
from session.adapters.database import (
    Database,
    Duplicate,
    PoolLimits,
    PostgresDatabase,
    SqliteDatabase,
    map_errors,
    open_database,
)


class PostgresError(Exception):
    """As asyncpg's errors reach SQLAlchemy's callers: with a SQLSTATE."""

    def __init__(self, sqlstate: str) -> None:
        super().__init__(sqlstate)
        self.sqlstate = sqlstate


class InterfaceError(Exception):
    """As asyncpg's, which has no code."""


def sqlite_error(code: int) -> sqlite3.Error:
    error = sqlite3.OperationalError("x")
    error.sqlite_errorcode = code
    return error


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    opened = open_database(f"sqlite:///{tmp_path / 'x.db'}", PoolLimits(connections=2, waiting=3))
    await opened.write(lambda c: c.exec_driver_sql("CREATE TABLE t (id TEXT PRIMARY KEY)"))
    yield opened
    await opened.close()


@pytest.mark.parametrize(
    "original",
    [
        PostgresError("08006"),  # connection failure
        PostgresError("40P01"),  # deadlock
        PostgresError("53300"),  # too many connections
        PostgresError("55P03"),  # lock timeout
        PostgresError("57P01"),  # shut down by the administrator
        PostgresError("57014"),  # statement timeout
        InterfaceError("connection is closed"),
        sqlite_error(sqlite3.SQLITE_BUSY_SNAPSHOT),
        sqlite_error(sqlite3.SQLITE_FULL),
        sqlite_error(sqlite3.SQLITE_IOERR_WRITE),
    ],
    ids=str,
)
def test_trouble_with_the_database_is_unavailable(original: Exception) -> None:
    with pytest.raises(Unavailable) as caught, map_errors():
        raise exc.DBAPIError("SELECT 1", {}, original)
    assert caught.value.reason == "DEPENDENCY_UNAVAILABLE"
    assert caught.value.retry_after is not None
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("error", [ConnectionRefusedError(), TimeoutError(), exc.TimeoutError()], ids=repr)
def test_no_connection_is_unavailable(error: Exception) -> None:
    with pytest.raises(Unavailable), map_errors():
        raise error


@pytest.mark.parametrize(
    "original",
    [PostgresError("42P01"), PostgresError("22021"), sqlite_error(sqlite3.SQLITE_ERROR), ValueError("x")],
    ids=str,
)
def test_a_bug_stays_a_bug(original: Exception) -> None:
    with pytest.raises(exc.DBAPIError), map_errors():
        raise exc.DBAPIError("SELECT 1", {}, original)


async def test_a_file_that_another_process_has_locked_is_unavailable(
    database: Database, tmp_path: Path
) -> None:
    # Our own wait for the lock is cut short, to not wait five seconds here.
    await database.write(lambda c: c.exec_driver_sql("PRAGMA busy_timeout=1"))
    with contextlib.closing(sqlite3.connect(tmp_path / "x.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable):
            await database.write(lambda c: c.exec_driver_sql("INSERT INTO t VALUES ('a')"))
        other.execute("ROLLBACK")
    await database.write(lambda c: c.exec_driver_sql("INSERT INTO t VALUES ('a')"))


def test_a_typed_error_passes_as_it_is() -> None:
    with pytest.raises(NotFound), map_errors():
        raise NotFound("x", reason="SESSION_NOT_FOUND")


async def test_a_duplicate_is_told_from_other_violations(database: Database) -> None:
    await database.write(lambda c: c.exec_driver_sql("INSERT INTO t VALUES ('a')"))
    with pytest.raises(Duplicate):
        await database.write(lambda c: c.exec_driver_sql("INSERT INTO t VALUES ('a')"))
    await database.write(lambda c: c.exec_driver_sql("CREATE TABLE u (t TEXT NOT NULL REFERENCES t (id))"))
    with pytest.raises(exc.IntegrityError):
        await database.write(lambda c: c.exec_driver_sql("INSERT INTO u VALUES ('nosuch')"))


async def test_a_transaction_that_raises_leaves_nothing(database: Database) -> None:
    def work(connection: sa.Connection) -> None:
        connection.exec_driver_sql("INSERT INTO t VALUES ('a')")
        raise NotFound("x", reason="SESSION_NOT_FOUND")

    with pytest.raises(NotFound):
        await database.write(work)
    assert await database.read(lambda c: c.exec_driver_sql("SELECT count(*) FROM t").scalar()) == 0


async def test_reading_cannot_write(database: Database) -> None:
    with pytest.raises(Unavailable, match="database"):  # SQLITE_READONLY
        await database.read(lambda c: c.exec_driver_sql("INSERT INTO t VALUES ('a')"))


async def test_reads_go_on_while_a_write_waits_and_the_queue_is_bounded(database: Database) -> None:
    gate = threading.Event()

    def slow(connection: sa.Connection) -> None:
        connection.exec_driver_sql("INSERT INTO t VALUES ('slow')")
        assert gate.wait(10)

    def fast(connection: sa.Connection) -> None:
        connection.exec_driver_sql("INSERT INTO t VALUES ('fast')")

    async with asyncio.TaskGroup() as group:
        group.create_task(database.write(slow))
        group.create_task(database.write(fast))
        await asyncio.sleep(0)  # both are handed over
        count: Any = await database.read(lambda c: c.exec_driver_sql("SELECT count(*) FROM t").scalar())
        assert count == 0
        group.create_task(database.write(lambda c: None))
        await asyncio.sleep(0)
        with pytest.raises(ResourceExhausted):  # three wait, and that is the limit here
            await database.read(lambda c: None)
        gate.set()
    assert await database.read(lambda c: c.exec_driver_sql("SELECT count(*) FROM t").scalar()) == 2


async def test_kinds_of_urls(tmp_path: Path) -> None:
    for url, kind in (
        (f"sqlite:///{tmp_path}/a.db", SqliteDatabase),
        (f"sqlite+aiosqlite:///{tmp_path}/a.db", SqliteDatabase),
        ("postgresql://u:p@127.0.0.1:1/x", PostgresDatabase),
        ("postgresql+asyncpg://u:p@127.0.0.1:1/x", PostgresDatabase),
    ):
        opened = open_database(url, PoolLimits())
        assert isinstance(opened, kind)
        await opened.close()


@pytest.mark.parametrize("url", ["", "sqlite://", "sqlite:///:memory:", "mysql://u:secret@h/x", "secret"])
def test_other_urls_are_refused_without_repeating_a_password(url: str) -> None:
    with pytest.raises(ValueError, match="sqlite:///path") as caught:
        open_database(url, PoolLimits())
    assert "secret" not in str(caught.value)


async def test_a_postgres_that_is_not_there_is_unavailable_at_once() -> None:
    limits = PoolLimits(timeout=timedelta(seconds=1))
    opened = open_database("postgresql://nobody@127.0.0.1:1/x", limits)
    with pytest.raises(Unavailable):
        await opened.read(lambda c: c.execute(sa.text("SELECT 1")))
    await opened.close()
