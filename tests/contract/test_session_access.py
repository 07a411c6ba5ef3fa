"""Postgres keeps the rows of others from a transaction, whatever its statements say."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import exc

from servicekit.ids import new_id
from servicekit.testing import FakeClock
from session.adapters.access import Access, Bypass
from session.adapters.store import SqlSessionStore
from session.adapters.tables import metadata, runs, sessions
from session.core.model import Lease, Owner
from tests.support.session_store import question, whole_turn
from tests.support.sessions import Databases, migrated_file, opened

__all__ = ["migrated_file"]

ADA = Owner(tenant="acme", user="ada")
BOB = Owner(tenant="acme", user="bob")
EVE = Owner(tenant="globex", user="ada")
NOBODY: list[Access] = [None, Owner(tenant="", user=""), Owner(tenant="acme", user="")]


@pytest.fixture
async def databases(migrated_file: Path, tmp_path: Path) -> AsyncIterator[Databases]:
    """Postgres with a finished and an active run of each of three owners."""
    async with opened("postgres", file=tmp_path / "unused", template=migrated_file) as databases:
        store = SqlSessionStore(database=databases.plain, clock=FakeClock(), new_id=new_id)
        for owner in (ADA, BOB, EVE):
            await whole_turn(store, owner, f"{owner}")
            await store.begin_run(owner, question(f"{owner}"))
        yield databases


def owners_seen(table: sa.Table) -> Any:
    # No WHERE clause: the first lock is open.
    return lambda c: {Owner(tenant=t, user=o) for t, o in c.execute(sa.select(table.c.tenant, table.c.owner))}


@pytest.mark.parametrize("table", metadata.sorted_tables, ids=lambda t: t.name)
async def test_every_table_is_locked_for_its_owner_too(databases: Databases, table: sa.Table) -> None:
    query = sa.text("SELECT relrowsecurity, relforcerowsecurity FROM pg_class WHERE relname = :name")
    flags = await databases.admin.read(lambda c: c.execute(query, {"name": table.name}).one())
    assert tuple(flags) == (True, True)


@pytest.mark.parametrize("name", ["sessions", "messages", "runs", "run_events"])
async def test_a_query_without_a_condition_sees_the_announced_owner_only(
    databases: Databases, name: str
) -> None:
    table = metadata.tables[name]
    assert await databases.admin.read(owners_seen(table)) == {ADA, BOB, EVE}
    for owner in (ADA, BOB, EVE):
        assert await databases.plain.read(owners_seen(table), owner) == {owner}
        assert await databases.plain.write(owners_seen(table), owner) == {owner}
    for nobody in NOBODY:
        assert await databases.plain.read(owners_seen(table), nobody) == set()


async def test_a_change_without_a_condition_reaches_the_announced_owner_only(databases: Databases) -> None:
    rename = sa.update(sessions).values(display_name="changed")
    changed = await databases.plain.write(lambda c: c.execute(rename).rowcount, ADA)
    assert changed == 2
    assert await databases.plain.write(lambda c: c.execute(sa.delete(sessions)).rowcount, BOB) == 2
    left = await databases.admin.read(
        lambda c: c.execute(sa.select(sessions.c.tenant, sessions.c.owner, sessions.c.display_name)).all()
    )
    assert {(t, o, "changed" if n == "changed" else "") for t, o, n in left} == {
        ("acme", "ada", "changed"),
        ("globex", "ada", ""),
    }


async def test_rows_cannot_be_made_or_moved_to_another_owner(databases: Databases) -> None:
    for statement in (
        sa.update(sessions).values(owner="bob"),
        sa.update(runs).values(tenant="globex"),
    ):
        with pytest.raises(exc.DBAPIError, match="row-level security"):
            await databases.plain.write(lambda c, s=statement: c.execute(s), ADA)  # type: ignore[misc]


@pytest.mark.parametrize(
    "name",
    ["o'brien", "'; SELECT set_config('agentteams.bypass', 'leases', true); --", "a\\'b\\", "$$ Ω \n", '"'],
)
async def test_names_are_announced_as_they_are(databases: Databases, name: str) -> None:
    store = SqlSessionStore(database=databases.plain, clock=FakeClock(), new_id=new_id)
    for owner in (Owner(tenant=name, user="ada"), Owner(tenant="acme", user=name)):
        begun = await whole_turn(store, owner, "why?")
        assert (await store.get_run(owner, begun.run.id)).user == owner.user
        assert await databases.plain.read(owners_seen(runs), owner) == {owner}
    assert ADA not in await databases.plain.read(owners_seen(runs), Owner(tenant="acme", user=name))


async def test_a_name_that_would_end_the_message_is_refused(databases: Databases) -> None:
    with pytest.raises(ValueError, match="NUL"):
        await databases.plain.read(owners_seen(runs), Owner(tenant="acme", user="ada\0"))


async def test_an_announcement_ends_with_its_transaction(databases: Databases) -> None:
    # Twenty times, so that each connection of the pool has been somebody's.
    for owner in (ADA, BOB, EVE, ADA) * 5:
        assert await databases.plain.read(owners_seen(runs), owner) == {owner}
        assert await databases.plain.read(owners_seen(runs)) == set()


async def test_the_orchestrators_bypass_renews_and_reads_but_neither_deletes_nor_creates(
    databases: Databases,
) -> None:
    lease, plain = Bypass.LEASES, databases.plain
    assert await plain.read(owners_seen(runs), lease) == {ADA, BOB, EVE}
    for hidden in ("sessions", "run_events", "queued_messages", "memories"):
        assert await plain.read(owners_seen(metadata.tables[hidden]), lease) == set()
    for table in (sessions, runs, metadata.tables["messages"], metadata.tables["run_events"]):
        assert await plain.write(lambda c, t=table: c.execute(sa.delete(t)).rowcount, lease) == 0  # type: ignore[misc]
    store = SqlSessionStore(database=plain, clock=FakeClock(), new_id=new_id)
    taken = await store.acquire_expired_runs(
        lease=Lease(owner="o2", duration=timedelta(seconds=30)), limit=50
    )
    assert taken == ()  # the clock stands still: nothing has expired
    later = FakeClock()
    later.advance(timedelta(minutes=5))
    store = SqlSessionStore(database=plain, clock=later, new_id=new_id)
    taken = await store.acquire_expired_runs(
        lease=Lease(owner="o2", duration=timedelta(seconds=30)), limit=50
    )
    assert {(t.run.tenant, t.run.user) for t in taken} == {
        ("acme", "ada"),
        ("acme", "bob"),
        ("globex", "ada"),
    }


async def test_the_sweepers_bypass_sees_sessions_and_runs_and_changes_no_run(databases: Databases) -> None:
    plain, sweep = databases.plain, Bypass.RETENTION
    assert await plain.read(owners_seen(sessions), sweep) == {ADA, BOB, EVE}
    assert await plain.read(owners_seen(metadata.tables["messages"]), sweep) == set()
    assert await plain.read(owners_seen(metadata.tables["run_events"]), sweep) == set()
    assert await plain.write(lambda c: c.execute(sa.delete(runs)).rowcount, sweep) == 0
    assert await plain.write(lambda c: c.execute(sa.update(runs).values(team="x")).rowcount, sweep) == 0


async def test_whoever_scores_claims_and_sums_up_but_reads_no_conversation(databases: Databases) -> None:
    plain, scoring = databases.plain, Bypass.SCORING
    waiting = metadata.tables["run_scorings"]
    columns = "run_id, tenant, owner, team, priority, request, create_time_us, attempt, lease_owner,"
    fill = sa.text(
        f"INSERT INTO run_scorings ({columns} lease_expire_time_us)"
        " SELECT id, tenant, owner, team, 1, '', 1, 0, '', 0 FROM runs"
    )
    await databases.admin.write(lambda c: c.execute(fill))
    assert await plain.read(owners_seen(waiting), scoring) == {ADA, BOB, EVE}
    for hidden in ("sessions", "messages", "runs", "run_events", "memories", "team_evaluations"):
        assert await plain.read(owners_seen(metadata.tables[hidden]), scoring) == set()
    assert await plain.write(lambda c: c.execute(sa.delete(waiting)).rowcount, scoring) == 0
    assert await plain.write(lambda c: c.execute(sa.update(runs).values(team="x")).rowcount, scoring) == 0
    assert await plain.read(owners_seen(waiting), ADA) == {ADA}
