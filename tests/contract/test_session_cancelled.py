"""A caller that goes away in the middle of a transaction: nothing is half done, no connection is lost."""

import asyncio
from contextlib import suppress

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from servicekit.ids import new_id
from servicekit.testing import FakeClock
from session.adapters.database import PoolLimits, open_database
from session.adapters.store import SqlSessionStore
from tests.support.postgres import shared_postgres
from tests.support.session_store import ADA, all_events, all_messages, question
from tests.support.sessions import PLAIN_ROLE, fill, migrated_file

__all__ = ["migrated_file"]


@pytest.mark.timeout(60)
async def test_a_transaction_that_is_cancelled_at_any_moment_is_done_or_not_done() -> None:
    server = shared_postgres()
    name = await server.create_from("session_template", fill)
    # One connection: if it got lost, the next transaction would wait in vain.
    database = open_database(server.url(name, user=PLAIN_ROLE), PoolLimits(connections=1))
    store = SqlSessionStore(database=database, clock=FakeClock(), new_id=new_id)
    cancelled = 0
    for turns in range(60):
        task = asyncio.ensure_future(store.begin_run(ADA, question(f"{turns}")))
        for _ in range(turns):
            await asyncio.sleep(0)
        cancelled += task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    assert cancelled > 10
    runs = await store.list_runs(ADA, session="", team="", before=None, limit=200)
    for run in runs:
        assert len(await all_events(store, ADA, run.id)) == 1
        assert len(await all_messages(store, ADA, run.session)) == 1
    sessions = await store.list_sessions(ADA, team="", before=None, limit=200)
    assert {session.id for session in sessions} == {run.session for run in runs}
    await database.close()
    await server.drop(name)


async def test_a_slow_statement_of_a_caller_that_went_away_is_ended() -> None:
    server = shared_postgres()
    name = await server.create_from("session_template", fill)
    database = open_database(server.url(name, user=PLAIN_ROLE), PoolLimits(connections=1))
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()

    def slow(connection: Connection) -> None:
        loop.call_soon(begun.set)
        connection.execute(sa.text("SELECT pg_sleep(30)"))

    for transact in (database.write, database.read):
        begun.clear()
        task = asyncio.ensure_future(transact(slow, ADA))
        await begun.wait()
        task.cancel()
        async with asyncio.timeout(5):
            with suppress(asyncio.CancelledError):
                await task
            assert await database.read(lambda c: c.execute(sa.text("SELECT 1")).scalar_one(), ADA) == 1
    await database.close()
    await server.drop(name)
