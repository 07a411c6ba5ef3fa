"""The disk is full, a commit fails, or its answer is lost: what callers get, and what is stored then."""

import asyncio
import resource
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from agentteams.session.v1 import session_service_pb2 as pb

from servicekit.errors import Unavailable
from servicekit.ids import new_id
from servicekit.testing import FakeClock, rpc_as
from session.adapters.database import Database, PoolLimits, open_database
from session.adapters.store import SqlSessionStore
from session.core.model import RunState
from session.core.user_data import NewFork
from tests.support.cutting_proxy import Cut, CuttingProxy
from tests.support.postgres import shared_postgres
from tests.support.session_processes import environment, serving
from tests.support.session_service import Client, acting, append, begin, tool_call
from tests.support.session_store import (
    ADA,
    Kit,
    all_events,
    all_messages,
    answer,
    finish,
    new_session,
    question,
    step,
    whole_turn,
)
from tests.support.sessions import PLAIN_ROLE, Databases, migrated_file, opened

__all__ = ["migrated_file"]

FULL = "53100"


def store_of(database: Database) -> SqlSessionStore:
    return SqlSessionStore(database=database, clock=FakeClock(), new_id=new_id)


async def refused(awaitable: Awaitable[Any]) -> None:
    """UNAVAILABLE with the reason and the time after which to come again."""
    with pytest.raises(Unavailable) as caught:
        await awaitable
    assert caught.value.reason == "DEPENDENCY_UNAVAILABLE"
    assert caught.value.metadata == {"dependency": "database"}
    assert caught.value.retry_after is not None


# A statement that finds no room, on both; a commit that finds none, on Postgres


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """A database whose disk can be full."""

    databases: Databases
    fill: Callable[[], Awaitable[None]]
    free: Callable[[], Awaitable[None]]


@pytest.fixture(params=["sqlite", "postgres", "postgres at commit"])
async def disk(request: pytest.FixtureRequest, migrated_file: Path, tmp_path: Path) -> AsyncIterator[Disk]:
    backend, _, at_commit = request.param.partition(" ")
    async with opened(backend, file=tmp_path / "session.db", template=migrated_file) as databases:
        make = _sqlite_disk if backend == "sqlite" else _postgres_disk
        yield make(databases, bool(at_commit))


def _sqlite_disk(databases: Databases, _: bool) -> Disk:
    def limit(pages: str) -> Callable[[], Awaitable[None]]:
        def set_(connection: sa.Connection) -> None:
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")

        return lambda: databases.plain.write(set_)

    # It cannot become smaller than the file is.
    return Disk(databases=databases, fill=limit("1"), free=limit("1000000"))


def _postgres_disk(databases: Databases, at_commit: bool) -> Disk:
    when = "DEFERRABLE INITIALLY DEFERRED" if at_commit else ""

    async def fill() -> None:
        function = f"BEGIN RAISE EXCEPTION 'no space left on device' USING ERRCODE = '{FULL}'; END"
        for statement in (
            f"CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ {function} $$",
            *(
                f"CREATE CONSTRAINT TRIGGER full_disk AFTER INSERT ON {table} {when}"
                " FOR EACH ROW EXECUTE FUNCTION full_disk()"
                for table in ("run_events", "messages", "sessions", "blobs")
            ),
        ):
            await databases.admin.write(lambda c, s=statement: c.exec_driver_sql(s))  # type: ignore[misc]

    async def free() -> None:
        await databases.admin.write(lambda c: c.exec_driver_sql("DROP FUNCTION full_disk CASCADE"))

    return Disk(databases=databases, fill=fill, free=free)


async def test_a_full_disk_is_unavailable_stores_nothing_half_and_the_same_again_works(disk: Disk) -> None:
    plain = disk.databases.plain
    store = store_of(plain)
    kit = Kit(store=store, database=disk.databases.admin, clock=FakeClock())
    waiting = await store.begin_run(ADA, question())
    run, session = waiting.run.id, waiting.run.session
    queued = await store.begin_run(ADA, question("next", session=session))
    # Large enough for a file that has some room left in its pages.
    text = " ".join(str(n) for n in range(200_000))
    events = [step(2), answer(3, text), finish(4)]
    new = question(text)
    before = await kit.rows()
    await disk.fill()
    for _ in range(2):
        await refused(store.append_events(ADA, run, fencing_token=1, events=events))
        await refused(store.begin_run(ADA, new))
        assert await kit.rows() == before
        assert (await store.get_run(ADA, run)).last_sequence == 1  # reading goes on
        assert len(await all_events(store, ADA, run)) == 1
    await disk.free()
    ended = await store.append_events(ADA, run, fencing_token=1, events=events)
    assert ended.next_run is not None
    assert ended.next_run.run.id == queued.run.id
    again = await store.append_events(ADA, run, fencing_token=1, events=events)
    assert (again.last_sequence, again.next_run) == (4, ended.next_run)
    assert [m.content for m in await all_messages(store, ADA, session)] == ["why?", text, "next"]
    assert (await store.begin_run(ADA, new)).created
    assert (await store.get_run(ADA, run)).state is RunState.SUCCEEDED


async def test_a_session_can_be_deleted_while_the_disk_is_full(disk: Disk) -> None:
    store = store_of(disk.databases.plain)
    done = await whole_turn(store, ADA, "x" * 500_000)
    await disk.fill()
    await store.delete_session(ADA, done.run.session)
    await disk.free()
    assert await store.list_sessions(ADA, team="", before=None, limit=9) == ()


async def test_a_process_whose_files_cannot_grow_answers_and_goes_on_when_they_can(
    migrated_file: Path, tmp_path: Path
) -> None:
    """The kernel refuses the writes of SQLite itself: EFBIG instead of ENOSPC, the rest is the same."""
    url = f"sqlite:///{tmp_path / 'session.db'}"
    env = environment(tmp_path, url, {"AGENTTEAMS_SESSION_AUTO_MIGRATE": "1"})
    async with serving("session", tmp_path, env) as process, rpc_as(process.target) as rpc:
        client = Client(rpc)
        with acting("ada"):
            run = (await client.BeginRun(begin())).run.name
            none = resource.RLIM_INFINITY
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (0, none))
            sent = append(run, tool_call(2))
            with pytest.raises(Unavailable) as caught:
                await client.AppendRunEvents(sent)
            assert caught.value.reason == "DEPENDENCY_UNAVAILABLE"
            assert (await client.GetRun(pb.GetRunRequest(name=run))).last_sequence == 1
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (none, none))
            assert (await client.AppendRunEvents(sent)).last_sequence == 2
            log = await client.ListRunEvents(pb.ListRunEventsRequest(run=run))
            assert [event.sequence for event in log.events] == [1, 2]


# The connection is cut at the commit


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A store whose connection to Postgres can be cut."""

    kit: Kit
    proxy: CuttingProxy
    url: str


@asynccontextmanager
async def line(migrated_file: Path, tmp_path: Path) -> AsyncIterator[Line]:
    async with opened("postgres", file=tmp_path / "unused", template=migrated_file) as databases:
        name = await databases.admin.read(lambda c: c.exec_driver_sql("SELECT current_database()").scalar())
        async with CuttingProxy(shared_postgres().port) as proxy:
            url = f"postgresql://{PLAIN_ROLE}@127.0.0.1:{proxy.port}/{name}"
            database = open_database(url, PoolLimits(connections=2, timeout=timedelta(seconds=2)))
            store = store_of(database)
            yield Line(
                kit=Kit(store=store, database=databases.admin, clock=FakeClock()), proxy=proxy, url=url
            )
            await database.close()


@pytest.mark.parametrize("cut", list(Cut))
async def test_who_does_not_know_whether_it_was_committed_asks_again(
    cut: Cut, migrated_file: Path, tmp_path: Path
) -> None:
    async with line(migrated_file, tmp_path) as cutting:
        kit, store = cutting.kit, cutting.kit.store

        async def twice(call: Callable[[], Awaitable[Any]]) -> Any:
            """The first time its commit is lost, or the answer to it."""
            before = await kit.rows()
            cutting.proxy.cut(cut)
            await refused(call())
            assert (await kit.rows() != before) == (cut is Cut.AFTER)
            return await call()

        made = new_session()
        session = (await twice(lambda: store.create_session(ADA, made))).id
        new = question(session=session)
        begun = await twice(lambda: store.begin_run(ADA, new))
        assert (begun.created, begun.fencing_token) == (True, 1)  # it may work on it
        waits = question("next", session=session)
        queued = await twice(lambda: store.begin_run(ADA, waits))
        run = begun.run.id
        events = [step(2), answer(3), finish(4)]
        ended = await twice(lambda: store.append_events(ADA, run, fencing_token=1, events=events))
        assert ended.next_run is not None
        assert ended.next_run.run.id == queued.run.id
        assert ended.last_sequence == 4
        fork = NewFork(request_id=new_id(), body_hash=b"", session=session, sequence=2, display_name="")
        await twice(lambda: store.fork_session(ADA, fork))
        assert [e.sequence for e in await all_events(store, ADA, run)] == [1, 2, 3, 4]
        assert [m.content for m in await all_messages(store, ADA, session)] == ["why?", "because", "next"]
        rows = await kit.rows()
        assert (rows["sessions"], rows["runs"], rows["messages"]) == (2, 2, 5)
        assert cutting.proxy.done == 5


async def test_a_caller_over_grpc_does_not_notice(migrated_file: Path, tmp_path: Path) -> None:
    """UNAVAILABLE is repeated by every client of ours."""
    async with line(migrated_file, tmp_path) as cutting:
        env = environment(tmp_path, cutting.url)
        async with serving("session", tmp_path, env) as process, rpc_as(process.target) as rpc:
            client = Client(rpc)
            with acting("ada"):
                run = (await client.BeginRun(begin())).run.name
                for sequence in range(2, 12):
                    cutting.proxy.cut(list(Cut)[sequence % 2])
                    async with asyncio.timeout(10):
                        appended = await client.AppendRunEvents(append(run, tool_call(sequence)))
                    assert appended.last_sequence == sequence
                log = await client.ListRunEvents(pb.ListRunEventsRequest(run=run))
                assert [event.sequence for event in log.events] == list(range(1, 12))
        assert cutting.proxy.done == 10
