"""Runs the store's transactions on SQLite or on Postgres.

A transaction is a plain function of a SQLAlchemy connection, so there is one
set of statements. On Postgres it runs in a greenlet over asyncpg; on SQLite
it runs whole in a thread: one hop a transaction instead of one a statement.
README.md has the figures.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol, TypeVar

import asyncpg
import sqlalchemy as sa
from prometheus_client import Histogram
from sqlalchemy import exc
from sqlalchemy.engine import URL, Connection, make_url
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.util import greenlet_spawn

from servicekit.errors import ResourceExhausted, ServiceError, Unavailable
from session.adapters.access import Access, AnnouncingConnection, announce
from session.adapters.blobs import OFFLOAD_BYTES, OPTION

T = TypeVar("T")

POOL_WAIT = Histogram(
    "agentteams_session_pool_wait_seconds",
    "How long a transaction waits for a connection to Postgres",
    buckets=(0.0005, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolLimits:
    """How much of the database one process may use.

    Attributes:
        connections: To Postgres, or reading threads on SQLite.
        timeout: How long a call waits for a connection, and for the writer.
        statement_timeout: How long a statement may take on Postgres.
        waiting: How many calls may wait for the writer on SQLite.
    """

    connections: int = 10
    timeout: timedelta = timedelta(seconds=5)
    statement_timeout: timedelta = timedelta(seconds=15)
    waiting: int = 1000


class Duplicate(Exception):
    """A unique constraint was violated; the store says what that means."""


class BoundReached(Exception):
    """As many runs as allowed are running."""


class QuotaReached(Exception):
    """The tenant has as many runs as its quota allows.

    Attributes:
        active: How many are RUNNING.
        most: How many may.
    """

    def __init__(self, *, active: int, most: int) -> None:
        super().__init__(f"{active} of {most}")
        self.active = active
        self.most = most


class Database(Protocol):
    """Where transactions run. `access` says whose rows they may see (on Postgres; see access.py)."""

    async def write(self, work: Callable[[Connection], T], access: Access = None) -> T:
        """Runs `work` in one transaction, committed unless it raises.

        Raises:
            Duplicate: A unique constraint was violated.
            BoundReached: Too many runs would run.
            QuotaReached: Too many of the tenant would.
            Unavailable: The database does not answer.
        """
        ...

    async def read(self, work: Callable[[Connection], T], access: Access = None) -> T:
        """Runs `work` for reading only; its statements may see different moments. Raises Unavailable."""
        ...

    async def close(self) -> None:
        """Closes all connections."""
        ...


def open_database(url: str, limits: PoolLimits, *, offload_bytes: int = OFFLOAD_BYTES) -> Database:
    """The database behind `sqlite:///path` or `postgresql://user@host/name`.

    A driver in the URL (`sqlite+aiosqlite`, `postgresql+asyncpg`) is accepted
    and makes no difference. Contents of more than `offload_bytes` leave their rows;
    0: none does.

    Raises:
        ValueError: Another kind of URL.
    """
    try:
        parsed = make_url(url)
    except exc.ArgumentError:
        raise ValueError(_URL_HELP) from None  # the text may hold a password: it is not repeated
    match parsed.get_backend_name():
        case "sqlite" if parsed.database and parsed.database != ":memory:":
            return SqliteDatabase(parsed, limits, offload_bytes)
        case "postgresql":
            return PostgresDatabase(parsed, limits, offload_bytes)
    raise ValueError(_URL_HELP)


_URL_HELP = (
    "database_url must be sqlite:///path/to/file.db or postgresql+asyncpg://user:password@host:5432/name"
)


class PostgresDatabase:
    """Postgres over asyncpg."""

    def __init__(self, url: URL, limits: PoolLimits, offload_bytes: int) -> None:
        statement_timeout_ms = int(limits.statement_timeout.total_seconds() * 1000)
        self._url = url.set(drivername="postgresql+asyncpg")
        self._connect_args: dict[str, Any] = {
            "connection_class": AnnouncingConnection,
            "timeout": limits.timeout.total_seconds(),
            # The server's own limit ends a slow statement; this one is
            # for a server that does not answer at all.
            "command_timeout": limits.statement_timeout.total_seconds() + 5,
            "server_settings": {
                "application_name": "agentteams-session",
                "standard_conforming_strings": "on",
                "statement_timeout": str(statement_timeout_ms),
                "lock_timeout": str(statement_timeout_ms // 2),
                "idle_in_transaction_session_timeout": str(2 * statement_timeout_ms),
            },
        }
        self._engine = create_async_engine(
            self._url,
            pool_size=limits.connections,
            max_overflow=0,
            pool_timeout=limits.timeout.total_seconds(),
            pool_recycle=1800,
            execution_options={OPTION: offload_bytes},
            connect_args=self._connect_args,
        )

    async def write(self, work: Callable[[Connection], T], access: Access = None) -> T:
        """See Database."""

        def transaction() -> T:
            with self._connect() as connection, connection.begin():
                announce(connection, access)
                return work(connection)

        return await self._run(transaction)

    async def read(self, work: Callable[[Connection], T], access: Access = None) -> T:
        """See Database."""

        def statements() -> T:
            with self._connect() as connection:
                announce(connection, access)
                return work(connection)

        return await self._run(statements)

    def _connect(self) -> Connection:
        with POOL_WAIT.time():
            return self._engine.sync_engine.connect()

    async def _run(self, work: Callable[[], T]) -> T:
        """In one greenlet from the pool's connection to its return: one a step costs a third more."""
        with map_errors():
            return await greenlet_spawn(work)

    @asynccontextmanager
    async def own_connection(self) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
        """A connection outside of the pool. Raises what the driver raises."""
        engine = create_async_engine(self._url, poolclass=sa.NullPool, connect_args=self._connect_args)
        async with engine.connect() as connection:
            driver = (await connection.get_raw_connection()).driver_connection
            assert driver is not None
            yield driver

    async def close(self) -> None:
        """See Database."""
        await self._engine.dispose()


class SqliteDatabase:
    """A SQLite file in WAL mode: one thread writes, a few read beside it."""

    def __init__(self, url: URL, limits: PoolLimits, offload_bytes: int) -> None:
        self._limits = limits
        url = url.set(drivername="sqlite+pysqlite")
        self._writing = _sqlite_engine(url, connections=1, readonly=False).execution_options(
            **{OPTION: offload_bytes}
        )
        self._reading = _sqlite_engine(url, connections=limits.connections, readonly=True)
        self._writer = ThreadPoolExecutor(1, "sqlite-writer")
        self._connection: Connection | None = None  # the writer's
        self._readers = ThreadPoolExecutor(limits.connections, "sqlite-reader")
        self._waiting = 0

    async def write(self, work: Callable[[Connection], T], access: Access = None) -> T:
        """See Database. Raises ResourceExhausted when too many calls wait already."""

        def transaction() -> T:
            if self._connection is None:
                # Kept: to fetch it from the pool and back cost more than an INSERT.
                self._connection = self._writing.connect()
            with self._connection.begin():
                return work(self._connection)

        return await self._run(self._writer, transaction)

    async def read(self, work: Callable[[Connection], T], access: Access = None) -> T:
        """See Database. Raises ResourceExhausted when too many calls wait already."""

        def statements() -> T:
            with self._reading.connect() as connection:
                return work(connection)

        return await self._run(self._readers, statements)

    async def close(self) -> None:
        """See Database."""
        for executor in (self._writer, self._readers):
            await asyncio.to_thread(executor.shutdown)
        if self._connection is not None:
            self._connection.close()
        for engine in (self._writing, self._reading):
            engine.dispose()

    async def _run(self, executor: Executor, work: Callable[[], T]) -> T:
        if self._waiting >= self._limits.waiting:
            raise ResourceExhausted(
                f"{self._waiting} calls wait for the database already",
                reason="DEPENDENCY_UNAVAILABLE",
                metadata={"waiting": str(self._waiting)},
                retry_after=timedelta(seconds=1),
            )
        self._waiting += 1
        try:
            with map_errors():
                return await asyncio.get_running_loop().run_in_executor(executor, work)
        finally:
            self._waiting -= 1


def _sqlite_engine(url: URL, *, connections: int, readonly: bool) -> sa.Engine:
    engine = sa.create_engine(
        url,
        poolclass=sa.QueuePool,
        pool_size=connections,
        max_overflow=0,
        # Another process (a migration, a backup) may hold the lock for a moment.
        connect_args={"timeout": 5.0, "check_same_thread": False},
    )

    @sa.event.listens_for(engine, "connect")
    def _configure(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None  # we send BEGIN ourselves
        if not readonly:
            connection.execute("PRAGMA journal_mode=WAL")  # stays in the file
        # NORMAL syncs at checkpoints, not at each commit. A killed process
        # loses nothing: what is committed is in the kernel's hands. A power
        # cut can lose the last commits, but never damages the file. Whoever
        # must survive that runs Postgres, or pays for FULL: a disk flush (1
        # to 10 ms) in every append.
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute(f"PRAGMA query_only={'ON' if readonly else 'OFF'}")

    if not readonly:

        @sa.event.listens_for(engine, "begin")
        def _begin(connection: Connection) -> None:
            # IMMEDIATE: a transaction that would first read and then write
            # could otherwise fail in the middle.
            driver = connection.connection.driver_connection
            assert driver is not None
            driver.execute("BEGIN IMMEDIATE")

    return engine


_UNIQUE = {sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY, "23505"}
_BOUND_REACHED = "AT001"  # of the trigger of migration 0006
_QUOTA_REACHED = "AT002"  # of the trigger of migration 0009
# Classes of SQLSTATE that mean "not now": connection, rollback (deadlock),
# resources, object state (lock timeout), operator intervention (shutdown,
# statement timeout), system.
_TRANSIENT_CLASSES = {"08", "40", "53", "55", "57", "58"}
_TRANSIENT_SQLITE = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_READONLY,
}


@contextmanager
def map_errors() -> Iterator[None]:
    """Makes typed errors of what the drivers raise. A bug stays what it is.

    Raises:
        Duplicate: A unique constraint was violated.
        BoundReached: Too many runs would run.
        QuotaReached: Too many of the tenant would.
        Unavailable: The database does not answer, is too busy or out of space.
    """
    try:
        yield
    except ServiceError:
        raise
    except exc.IntegrityError as error:
        if _code(error.orig) in _UNIQUE:
            raise Duplicate from error
        raise
    except exc.DBAPIError as error:
        if _code(error.orig) == _BOUND_REACHED:
            raise BoundReached from error
        if _code(error.orig) == _QUOTA_REACHED:
            active, most = _quota_detail(error.orig)
            raise QuotaReached(active=active, most=most) from error
        if error.connection_invalidated or _transient(error.orig):
            raise _unavailable() from error
        raise
    except sqlite3.Error as error:  # of BEGIN and the PRAGMAs, which do not pass through SQLAlchemy
        if _transient(error):
            raise _unavailable() from error
        raise
    except (exc.TimeoutError, OSError, TimeoutError) as error:
        raise _unavailable() from error


def _unavailable() -> Unavailable:
    return Unavailable(
        "the session database does not answer; try again",
        reason="DEPENDENCY_UNAVAILABLE",
        metadata={"dependency": "database"},
        retry_after=timedelta(seconds=1),
    )


def _code(error: BaseException | None) -> Any:
    """The driver's own code: an extended result code of SQLite or a SQLSTATE."""
    return getattr(error, "sqlite_errorcode", None) or getattr(error, "sqlstate", None)


def _quota_detail(error: BaseException | None) -> tuple[int, int]:
    """What the trigger says: `5 of 5`. The driver's own error lies below SQLAlchemy's."""
    active, _, most = str(getattr(getattr(error, "__cause__", None), "detail", "")).partition(" of ")
    return int(active), int(most)


def _transient(error: BaseException | None) -> bool:
    code = _code(error)
    if isinstance(code, int):
        return code & 0xFF in _TRANSIENT_SQLITE
    if isinstance(code, str):
        return code[:2] in _TRANSIENT_CLASSES
    # Without a code asyncpg speaks of the connection itself (closed, in use, lost).
    return type(error).__name__ == "InterfaceError"
