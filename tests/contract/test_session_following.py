"""Waiting for what comes next in a log: on SQLite and Postgres, and between processes."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import cast

import pytest
import sqlalchemy as sa

from servicekit.errors import ResourceExhausted
from servicekit.ids import new_id
from servicekit.testing import FakeClock
from session.adapters.database import PostgresDatabase
from session.adapters.listener import Listener
from session.adapters.news import CHANNEL, RunNews
from session.adapters.store import SqlSessionStore
from session.core.model import Event, Owner
from tests.support.session_store import (
    ADA,
    BOB,
    OTHER,
    Kit,
    answer,
    finish,
    kit,
    kit_on,
    question,
    reason_of,
    step,
)
from tests.support.sessions import Databases, databases, migrated_file, opened

__all__ = ["databases", "kit", "migrated_file"]

LONG = timedelta(seconds=30)  # nobody may come to its end
SHORT = timedelta(milliseconds=30)
SOON_S = 8
LISTENING = {"beat": timedelta(milliseconds=200), "patience": timedelta(seconds=2)}


@asynccontextmanager
async def follower(
    store: "WatchedStore", run: str, after: int, wait: timedelta = LONG, owner: Owner = ADA
) -> AsyncIterator["asyncio.Task[tuple[Event, ...]]"]:
    """A call that waits already."""
    task = asyncio.ensure_future(store.list_run_events(owner, run, after_sequence=after, limit=10, wait=wait))
    async with asyncio.timeout(SOON_S):
        await store.news.begun.wait()
        store.news.begun.clear()
        yield task
        if not task.done():
            await task


class WatchedNews(RunNews):
    """Says when somebody begins to wait, and when it hears."""

    def __init__(self, *, most: int = 9) -> None:
        super().__init__(most=most)
        self.begun = asyncio.Event()
        self.heard = {True: asyncio.Event(), False: asyncio.Event()}

    @contextmanager
    def following(self, run: str) -> Iterator[asyncio.Event]:
        self.begun.set()
        with super().following(run) as event:
            yield event

    def hears(self, others: bool) -> None:
        super().hears(others)
        self.heard[others].set()
        self.heard[not others].clear()


def watched(databases: Databases, clock: FakeClock, *, most: int = 9) -> "WatchedStore":
    return WatchedStore(database=databases.plain, clock=clock, new_id=new_id, news=WatchedNews(most=most))


class WatchedStore(SqlSessionStore):
    @property
    def news(self) -> WatchedNews:
        return cast(WatchedNews, self._news)


def sequences(events: tuple[Event, ...]) -> list[int]:
    return [event.sequence for event in events]


@pytest.fixture
def store(kit: Kit, databases: Databases) -> WatchedStore:
    return watched(databases, kit.clock)


async def test_an_append_ends_the_wait(store: WatchedStore) -> None:
    run = (await store.begin_run(ADA, question())).run.id
    async with follower(store, run, 1) as one, follower(store, run, 1) as other:
        await store.append_events(ADA, run, fencing_token=1, events=[step(2), step(3)])
        assert sequences(await one) == sequences(await other) == [2, 3]
    async with follower(store, run, 2) as task:  # it is there already
        assert sequences(await task) == [3]
    async with follower(store, run, 3) as task:
        await store.append_events(ADA, run, fencing_token=1, events=[answer(4), finish(5)])
        assert sequences(await task) == [4, 5]
    async with follower(store, run, 5) as task:  # nothing comes any more
        assert await task == ()
    assert store._news._followers == {}


async def test_a_wait_ends_with_nothing(store: WatchedStore) -> None:
    run = (await store.begin_run(ADA, question())).run.id
    async with follower(store, run, 1, wait=SHORT) as task:
        assert await task == ()


async def test_a_run_that_waits_is_followed_to_its_beginning_or_its_end(store: WatchedStore) -> None:
    first = await store.begin_run(ADA, question())
    runs = [(await store.begin_run(ADA, question(session=first.run.session))).run.id for _ in range(2)]
    async with follower(store, runs[0], 0) as begins, follower(store, runs[1], 0) as ends:
        await store.append_events(ADA, first.run.id, fencing_token=1, events=[finish(2)])
        assert sequences(await begins) == [1]
        await store.request_cancel(ADA, runs[1])
        assert sequences(await ends) == [1, 2]


async def test_a_queued_run_that_is_begun_by_whoever_looks_is_followed(kit: Kit, store: WatchedStore) -> None:
    first = await store.begin_run(ADA, question())
    second = (await store.begin_run(ADA, question(session=first.run.session))).run.id
    # As code of revision 0001 ends a run: it knows nothing of queues.
    await kit.database.write(lambda c: c.execute(sa.text("UPDATE runs SET state = 3 WHERE state = 2")))
    async with follower(store, second, 0) as task:
        assert len(await store.acquire_expired_runs(lease=OTHER, limit=9)) == 1
        assert sequences(await task) == [1]


async def test_nobody_waits_for_what_is_anothers(store: WatchedStore) -> None:
    run = (await store.begin_run(ADA, question())).run.id
    call = store.list_run_events(BOB, run, after_sequence=1, limit=9, wait=LONG)
    assert await reason_of(call) == "RUN_NOT_FOUND"


async def test_only_so_many_wait_and_all_go_when_the_process_stops(kit: Kit, databases: Databases) -> None:
    store = watched(databases, kit.clock, most=2)
    run = (await store.begin_run(ADA, question())).run.id
    async with follower(store, run, 1) as one, follower(store, run, 1) as other:
        with pytest.raises(ResourceExhausted) as caught:
            await store.list_run_events(ADA, run, after_sequence=1, limit=9, wait=LONG)
        assert (caught.value.reason, caught.value.metadata) == ("TOO_MANY_FOLLOWERS", {"waiting": "2"})
        assert sequences(await store.list_run_events(ADA, run, after_sequence=0, limit=9)) == [1]
        store.news.stop()
        assert (await one, await other) == ((), ())
    assert await store.list_run_events(ADA, run, after_sequence=1, limit=9, wait=LONG) == ()


# Several processes on one Postgres


@pytest.fixture
async def postgres(migrated_file: Path, tmp_path: Path) -> AsyncIterator[Databases]:
    async with opened("postgres", file=tmp_path / "unused", template=migrated_file) as databases:
        yield databases


@asynccontextmanager
async def listening(databases: Databases, other: Kit) -> AsyncIterator[WatchedStore]:
    """The store of a process that listens."""
    store, database = watched(databases, other.clock), cast(PostgresDatabase, databases.plain)
    listener = asyncio.ensure_future(Listener(database=database, news=store.news, **LISTENING).run())
    try:
        await until_heard(store.news)
        yield store
    finally:
        listener.cancel()
        with suppress(asyncio.CancelledError):
            await listener


async def until_heard(news: "WatchedNews", *, heard: bool = True) -> None:
    async with asyncio.timeout(SOON_S):
        await news.heard[heard].wait()


@pytest.fixture
def other(postgres: Databases) -> Kit:
    """Another process."""
    return kit_on(postgres)


async def test_an_append_of_another_process_ends_the_wait(postgres: Databases, other: Kit) -> None:
    async with listening(postgres, other) as store:
        run = (await other.store.begin_run(ADA, question())).run.id
        async with follower(store, run, 1) as task:
            await other.store.append_events(ADA, run, fencing_token=1, events=[step(2)])
            async with asyncio.timeout(0.9):  # less than a look without being told would take
                assert sequences(await task) == [2]


async def test_a_listener_that_loses_its_connection_finds_another_and_misses_nothing(
    postgres: Databases, other: Kit
) -> None:
    kill = sa.text(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
        " WHERE datname = current_database() AND query LIKE 'LISTEN%'"
    )
    async with listening(postgres, other) as store:
        run = (await other.store.begin_run(ADA, question())).run.id
        for sequence in (2, 3):
            async with follower(store, run, sequence - 1) as task:
                killed = await postgres.admin.read(lambda c: c.execute(kill).scalar_one())
                assert killed == 1
                await until_heard(store.news, heard=False)
                await other.store.append_events(ADA, run, fencing_token=1, events=[step(sequence)])
                assert sequences(await task) == [sequence]
            await until_heard(store.news)


async def test_appends_to_runs_that_nobody_follows_notify_nobody(postgres: Databases, other: Kit) -> None:
    heard: list[object] = []
    database = cast(PostgresDatabase, postgres.plain)
    async with database.own_connection() as connection:
        await connection.add_listener(CHANNEL, lambda *told: heard.append(told[-1]))
        quiet = (await other.store.begin_run(ADA, question())).run.id
        followed = (await other.store.begin_run(ADA, question())).run.id
        await other.store.list_run_events(ADA, followed, after_sequence=1, limit=9, wait=SHORT)
        for run in (quiet, followed):
            await other.store.append_events(ADA, run, fencing_token=1, events=[step(2)])
        await connection.execute("SELECT 1")  # what was sent before has arrived
        assert heard == [followed]
        other.clock.advance(timedelta(minutes=2))  # the mark is old
        await other.store.append_events(ADA, followed, fencing_token=1, events=[step(3)])
        await connection.execute("SELECT 1")
        assert heard == [followed]
