"""How many runs of a team may run; what a session's history says in short: on SQLite and Postgres."""

import asyncio
from dataclasses import replace

import pytest

from servicekit.errors import InvalidArgument, ResourceExhausted
from session.adapters.database import POOL_WAIT, PostgresDatabase
from session.adapters.store import SqlSessionStore
from session.core.model import NO_SUMMARY, BegunRun, Lease, Owner, RunState, Summary
from session.core.user_data import NewFork
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
    step,
    sums_up,
    whole_turn,
)
from tests.support.sessions import databases, migrated_file

__all__ = ["databases", "kit", "migrated_file"]

# How many runs


async def test_one_run_more_than_the_team_may_have_is_refused_with_a_time_to_retry(kit: Kit) -> None:
    bounded = question(max_active_runs=2)
    first = await kit.store.begin_run(ADA, bounded)
    await kit.store.begin_run(BOB, bounded)  # a team's runs are everybody's
    before = await kit.rows()
    with pytest.raises(ResourceExhausted) as caught:
        await kit.store.begin_run(ADA, question(max_active_runs=2))
    error = caught.value
    assert (error.reason, error.metadata) == ("TOO_MANY_RUNS", {"team": "helpdesk", "limit": "2"})
    assert error.retry_after is not None
    assert await kit.rows() == before
    # What does not count: another tenant's, another team's, and a wider bound.
    for owner, new in (
        (EVE, question(max_active_runs=2)),
        (ADA, question(team="travel", max_active_runs=2)),
        (BOB, question(max_active_runs=3)),
    ):
        assert (await kit.store.begin_run(owner, new)).created
    # A repeated question gets its run, whatever is full by now.
    assert (await kit.store.begin_run(ADA, bounded)).run.id == first.run.id
    await kit.store.append_events(ADA, first.run.id, fencing_token=1, events=[finish(2)])
    assert await reason_of(kit.store.begin_run(ADA, question(max_active_runs=2))) == "TOO_MANY_RUNS"
    assert (await kit.store.begin_run(ADA, question(max_active_runs=3))).created
    assert (await kit.store.begin_run(ADA, question())).created  # no bound


async def test_a_refused_question_of_a_session_leaves_nothing(kit: Kit) -> None:
    done = await whole_turn(kit.store, ADA, "one")
    await kit.store.begin_run(BOB, question())
    new = question("two", session=done.run.session, max_active_runs=1)
    assert await reason_of(kit.store.begin_run(ADA, new)) == "TOO_MANY_RUNS"
    assert len(await all_messages(kit.store, ADA, done.run.session)) == 2
    assert (await kit.store.begin_run(ADA, replace(new, max_active_runs=2))).created


async def test_a_question_that_waits_is_not_refused_and_takes_the_place_of_the_one_before(kit: Kit) -> None:
    first = await kit.store.begin_run(ADA, question(max_active_runs=1))
    second = await kit.store.begin_run(ADA, question(session=first.run.session, max_active_runs=1))
    assert second.run.state is RunState.PENDING
    done = await kit.store.append_events(ADA, first.run.id, fencing_token=1, events=[answer(2), finish(3)])
    assert done.next_run is not None
    assert await reason_of(kit.store.begin_run(BOB, question(max_active_runs=1))) == "TOO_MANY_RUNS"


async def test_a_run_that_waits_for_a_person_does_not_count(kit: Kit) -> None:
    first = await kit.store.begin_run(ADA, question(max_active_runs=1))
    done = await kit.store.append_events(
        ADA, first.run.id, fencing_token=1, events=[asks(2)], park_until=kit.clock.now()
    )
    assert done.parked
    assert (await kit.store.begin_run(BOB, question(max_active_runs=1))).created
    # It goes on in any case: there is one more for a while.
    (taken,) = await kit.store.acquire_expired_runs(lease=OTHER, limit=9)
    assert taken.run.id == first.run.id


async def test_of_many_questions_at_once_exactly_as_many_begin_as_may(kit: Kit) -> None:
    async def ask(store: SqlSessionStore, n: int) -> BegunRun | str:
        owner = Owner(tenant="acme", user=f"user-{n % 7}")
        lease = Lease(owner=f"o{n % 3}", duration=LEASE.duration)
        try:
            return await store.begin_run(owner, question(str(n), lease=lease, max_active_runs=5))
        except ResourceExhausted as error:
            return error.reason

    results = await asyncio.gather(*(ask(kit.store, n) for n in range(60)))
    assert sum(isinstance(one, BegunRun) for one in results) == 5
    assert [one for one in results if isinstance(one, str)] == ["TOO_MANY_RUNS"] * 55
    assert (await kit.rows())["runs"] == 5


# Summaries


async def test_the_newest_summary_comes_with_the_next_run_and_with_a_take_over(kit: Kit) -> None:
    first = await whole_turn(kit.store, ADA, "one")
    session = first.run.session
    second = await kit.store.begin_run(ADA, question("two", session=session))
    assert second.summary == NO_SUMMARY
    append = kit.store.append_events
    await append(ADA, second.run.id, fencing_token=1, events=[sums_up(2, "they met", 2)])
    await append(ADA, second.run.id, fencing_token=1, events=[sums_up(3, "they", 1)])  # covers less
    newest = Summary(text="they met", through_sequence=2)
    third = await kit.store.begin_run(ADA, question("three", session=session))
    kit.clock.advance(2 * LEASE.duration)
    (taken,) = await kit.store.acquire_expired_runs(lease=LEASE, limit=9)
    assert (taken.run.id, taken.summary) == (second.run.id, newest)
    done = await append(ADA, second.run.id, fencing_token=2, events=[answer(4), finish(5)])
    again = await append(ADA, second.run.id, fencing_token=2, events=[answer(4), finish(5)])
    for one in (done, again):
        assert one.next_run is not None
        assert (one.next_run.run.id, one.next_run.summary) == (third.run.id, newest)
    events = [sums_up(2, "they met and parted", 4), finish(3)]
    await append(ADA, third.run.id, fencing_token=1, events=events)
    new = question("four", session=session)
    for _ in range(2):  # the second time as after a lost answer
        begun = await kit.store.begin_run(ADA, new)
        assert begun.summary == Summary(text="they met and parted", through_sequence=4)


async def test_a_summary_of_messages_that_are_not_there_is_refused(kit: Kit) -> None:
    begun = await kit.store.begin_run(ADA, question())
    with pytest.raises(InvalidArgument) as caught:
        await kit.store.append_events(
            ADA, begun.run.id, fencing_token=1, events=[step(2), sums_up(3, "all", 2)]
        )
    assert "through_message_sequence" in caught.value.violations[0].field
    assert (await kit.store.get_run(ADA, begun.run.id)).last_sequence == 1


async def test_a_summary_does_not_outlive_a_lost_lease(kit: Kit) -> None:
    begun = await kit.store.begin_run(ADA, question())
    refused = kit.store.append_events(ADA, begun.run.id, fencing_token=9, events=[sums_up(2, "all", 1)])
    assert await reason_of(refused) == "LEASE_LOST"
    await kit.store.append_events(ADA, begun.run.id, fencing_token=1, events=[finish(2)])
    assert (await kit.store.begin_run(ADA, question(session=begun.run.session))).summary == NO_SUMMARY


@pytest.mark.parametrize(("through", "copied"), [(2, True), (3, False)])
async def test_a_fork_has_the_summary_only_of_what_it_has(kit: Kit, through: int, copied: bool) -> None:
    first = await whole_turn(kit.store, ADA, "one")
    second = await kit.store.begin_run(ADA, question("two", session=first.run.session))
    await kit.store.append_events(
        ADA, second.run.id, fencing_token=1, events=[sums_up(2, "short", through), answer(3), finish(4)]
    )
    fork = NewFork(request_id="r", body_hash=b"", session=first.run.session, sequence=2, display_name="")
    forked = await kit.store.fork_session(ADA, fork)
    begun = await kit.store.begin_run(ADA, question("three", session=forked.id))
    assert begun.summary == (Summary(text="short", through_sequence=through) if copied else NO_SUMMARY)


async def test_the_wait_for_connections_is_measured_where_there_is_a_pool(kit: Kit) -> None:
    before = POOL_WAIT._sum.get()
    await kit.store.begin_run(ADA, question())
    assert (POOL_WAIT._sum.get() > before) == isinstance(kit.store._database, PostgresDatabase)
