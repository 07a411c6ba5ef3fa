"""Connections to the catalogue's database, and its errors as ours."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, event
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from servicekit.errors import Unavailable

# Execution option of a connection.
READ_ONLY = "agentteams_read_only"
_BUSY_TIMEOUT_S = 10
_DRIVERS = {
    "sqlite://": "sqlite+aiosqlite://",
    "postgresql://": "postgresql+asyncpg://",
    "postgres://": "postgresql+asyncpg://",
}


def new_engine(url: str) -> AsyncEngine:
    """An engine for `sqlite:///file` or `postgresql://…`; the caller disposes of it."""
    for plain, driver in _DRIVERS.items():
        if url.startswith(plain):
            url = driver + url.removeprefix(plain)
    if url.startswith("sqlite"):
        engine = create_async_engine(url, connect_args={"timeout": _BUSY_TIMEOUT_S})

        @event.listens_for(engine.sync_engine, "connect")
        def _pragmas(connection: Any, _: object) -> None:
            connection.isolation_level = None  # the driver must not begin by itself
            cursor = connection.cursor()
            for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
                cursor.execute(f"PRAGMA {pragma}")
            cursor.close()

        @event.listens_for(engine.sync_engine, "begin")
        def _begin(connection: Connection) -> None:
            # The driver would begin at the first write, too late to wait for another writer. What only
            # reads waits for none.
            reads = connection.get_execution_options().get(READ_ONLY)
            connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

        return engine
    return create_async_engine(url, pool_size=5, max_overflow=5, pool_timeout=5, pool_pre_ping=True)


@contextmanager
def mapped() -> Iterator[None]:
    """IntegrityErrors pass: they say who was first."""
    try:
        yield
    except IntegrityError:
        raise
    except (DBAPIError, PoolTimeout, OSError) as error:
        raise Unavailable(
            f"the catalogue's database failed: {type(error).__name__}",
            reason="DEPENDENCY_UNAVAILABLE",
            metadata={"dependency": "catalogue"},
        ) from error
