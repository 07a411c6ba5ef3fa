"""How many runs a tenant may have, over all its teams, users and orchestrators: on SQLite and Postgres."""

import asyncio
from dataclasses import replace

import pytest
import sqlalchemy as sa

from servicekit.errors import ResourceExhausted
from servicekit.ids import new_id
from session.adapters.access import Bypass
from session.adapters.database import PostgresDatabase
from session.adapters.store import SqlSessionStore
from session.adapters.tables import run_quotas
from session.core.model import BegunRun, Lease, Owner, RunState
from session.core.quotas import Quota
from tests.support.session_store import (
    ADA,
    BOB,
    EVE,
    LEASE,
    OTHER,
    Kit,
    all_messages,
    answer,
    asks,
    finish,
    kit,
    question,
    reason_of,
    whole_turn,
)
from tests.support.sessions import Databases, databases, migrated_file

__all__ = ["databases", "kit", "migrated_file"]

TWO = Quota(most=2, source="the annotation of the Namespace")


async def test_one_run_more_than_the_tenant_may_have_is_refused_with_what_to_do(kit: Kit) -> None:
    await kit.store.set_run_quota("acme", TWO)
    first = question()
    begun = await kit.store.begin_run(ADA, first)
    await kit.store.begin_run(BOB, question(team="travel"))  # of all users and teams
    before = await kit.rows()
    with pytest.raises(ResourceExhausted) as caught:
        await kit.store.begin_run(ADA, question(team="third"))
    error = caught.value
    assert error.reason == "QUOTA_EXHAUSTED"
    assert error.metadata == {"tenant": "acme", "limit": "2", "active": "2", "source": TWO.source}
    assert f'"acme" has 2 runs at a time already, and its quota is 2 ({TWO.source})' in error.message
    assert "cancel one, or have the quota raised" in error.message
    assert error.retry_after is not None
    assert await kit.rows() == before  # nothing is left of it
    # Another tenant's do not count, and a repeated question gets its run, whatever is full by now.
    assert (await kit.store.begin_run(EVE, question())).created
    assert (await kit.store.begin_run(ADA, first)).run.id == begun.run.id
    await kit.store.append_events(ADA, begun.run.id, fencing_token=1, events=[finish(2)])
    assert (await kit.store.begin_run(BOB, question())).created  # one that ends makes room
    assert (await kit.store.begin_run(ADA, first)).run.id == begun.run.id


async def test_a_change_holds_for_the_next_run_and_stops_none(kit: Kit) -> None:
    runs = [await kit.store.begin_run(ADA, question()) for _ in range(3)]
    await kit.store.set_run_quota("acme", TWO)
    with pytest.raises(ResourceExhausted) as caught:
        await kit.store.begin_run(ADA, question())
    assert caught.value.metadata["active"] == "3"  # as it is, and not as it may be
    for run in runs[:2]:
        await kit.store.append_events(ADA, run.run.id, fencing_token=1, events=[finish(2)])
    assert (await kit.store.begin_run(ADA, question())).created
    assert await reason_of(kit.store.begin_run(ADA, question())) == "QUOTA_EXHAUSTED"
    await kit.store.set_run_quota("acme", replace(TWO, most=3))
    assert (await kit.store.begin_run(ADA, question())).created
    await kit.store.set_run_quota("acme", Quota(most=0))
    assert await reason_of(kit.store.begin_run(ADA, question())) == "QUOTA_EXHAUSTED"
    await kit.store.set_run_quota("acme", None)
    assert (await kit.store.begin_run(ADA, question())).created


async def test_the_default_holds_for_tenants_of_which_nobody_has_said_a_number(kit: Kit) -> None:
    default = Quota(most=1, source="the default")
    store = SqlSessionStore(
        database=kit.store._database, clock=kit.clock, new_id=new_id, default_quota=default
    )
    await store.set_run_quota("acme", TWO)
    assert [(await store.begin_run(owner, question())).created for owner in (ADA, BOB, EVE)] == [True] * 3
    with pytest.raises(ResourceExhausted) as caught:
        await store.begin_run(EVE, question())
    assert (caught.value.metadata["limit"], caught.value.metadata["source"]) == ("1", "the default")


async def test_a_refused_question_of_a_session_leaves_nothing(kit: Kit) -> None:
    done = await whole_turn(kit.store, ADA, "one")
    await kit.store.set_run_quota("acme", Quota(most=1))
    await kit.store.begin_run(BOB, question())
    new = question("two", session=done.run.session)
    assert await reason_of(kit.store.begin_run(ADA, new)) == "QUOTA_EXHAUSTED"
    assert len(await all_messages(kit.store, ADA, done.run.session)) == 2


async def test_a_question_that_waits_is_not_refused_and_takes_the_place_of_the_one_before(kit: Kit) -> None:
    await kit.store.set_run_quota("acme", Quota(most=1))
    first = await kit.store.begin_run(ADA, question())
    second = await kit.store.begin_run(ADA, question(session=first.run.session))
    assert second.run.state is RunState.PENDING
    done = await kit.store.append_events(ADA, first.run.id, fencing_token=1, events=[answer(2), finish(3)])
    assert done.next_run is not None
    assert await reason_of(kit.store.begin_run(BOB, question())) == "QUOTA_EXHAUSTED"


async def test_runs_that_wait_for_a_person_or_were_cancelled_do_not_count(kit: Kit) -> None:
    await kit.store.set_run_quota("acme", Quota(most=1))
    first = await kit.store.begin_run(ADA, question())
    done = await kit.store.append_events(
        ADA, first.run.id, fencing_token=1, events=[asks(2)], park_until=kit.clock.now()
    )
    assert done.parked
    second = await kit.store.begin_run(BOB, question())
    # It goes on in any case: there is one more for a while.
    (taken,) = await kit.store.acquire_expired_runs(lease=OTHER, limit=9)
    assert taken.run.id == first.run.id
    await kit.store.append_events(
        ADA, taken.run.id, fencing_token=taken.fencing_token, events=[finish(3, RunState.CANCELLED)]
    )
    assert await reason_of(kit.store.begin_run(ADA, question())) == "QUOTA_EXHAUSTED"
    # One whose owner is lost counts until somebody has ended it.
    kit.clock.advance(2 * LEASE.duration)
    assert await reason_of(kit.store.begin_run(ADA, question())) == "QUOTA_EXHAUSTED"
    (lost,) = await kit.store.acquire_expired_runs(lease=OTHER, limit=9)
    assert lost.run.id == second.run.id
    await kit.store.append_events(BOB, lost.run.id, fencing_token=lost.fencing_token, events=[finish(2)])
    assert (await kit.store.begin_run(ADA, question())).created


async def test_of_many_questions_at_once_exactly_as_many_begin_as_may(kit: Kit) -> None:
    """Of all teams, users and orchestrators, beside another bound and another tenant."""
    await kit.store.set_run_quota("acme", Quota(most=5))

    async def ask(n: int) -> BegunRun | str:
        owner = Owner(tenant="acme" if n % 10 else "globex", user=f"user-{n % 7}")
        new = question(str(n), team=f"t{n % 4}", lease=Lease(owner=f"o{n % 3}", duration=LEASE.duration))
        try:
            return await kit.store.begin_run(owner, replace(new, max_active_runs=4 * (n % 2)))
        except ResourceExhausted as error:
            return error.reason

    results = await asyncio.gather(*(ask(n) for n in range(60)))
    begun = [one.run.tenant for one in results if isinstance(one, BegunRun)]
    assert (begun.count("acme"), begun.count("globex")) == (5, 6)
    assert {one for one in results if isinstance(one, str)} <= {"QUOTA_EXHAUSTED", "TOO_MANY_RUNS"}


async def test_the_count_reads_an_index_of_what_runs_and_no_ended_run(kit: Kit) -> None:
    plan = "EXPLAIN" if isinstance(kit.database, PostgresDatabase) else "EXPLAIN QUERY PLAN"
    query = sa.text(f"{plan} SELECT count(*) FROM runs WHERE tenant = 'acme' AND state = 2")

    def explained(connection: sa.Connection) -> str:
        if isinstance(kit.database, PostgresDatabase):
            connection.execute(sa.text("SET LOCAL enable_seqscan = off"))  # as with more than a few rows
        return str(connection.execute(query).all())

    assert "ix_runs_running_tenant_team" in await kit.database.write(explained)


async def test_a_tenants_transaction_reads_its_own_quota_and_changes_none(databases: Databases) -> None:
    if not isinstance(databases.plain, PostgresDatabase):
        return  # SQLite has no such lock
    row = {"tenant": "acme", "max_concurrent_runs": 1, "source": ""}
    await databases.admin.write(lambda c: c.execute(sa.insert(run_quotas), [row, row | {"tenant": "globex"}]))
    seen = sa.select(run_quotas.c.tenant)
    assert await databases.plain.read(lambda c: c.execute(seen).scalars().all(), ADA) == ["acme"]
    for access in (ADA, Bypass.LEASES, None):
        change = sa.update(run_quotas).values(max_concurrent_runs=9)
        assert await databases.plain.write(lambda c: c.execute(change).rowcount, access) == 0  # noqa: B023
        assert await databases.plain.write(lambda c: c.execute(sa.delete(run_quotas)).rowcount, access) == 0
