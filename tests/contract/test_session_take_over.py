"""Runs whose answers got lost, and runs that others take over: on SQLite and Postgres alike."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from servicekit.errors import Conflict
from session.core.model import Lease, NewMessage, Role, RunFilter, RunState
from tests.support.session_runs import AT, GIVEN_BACK, INTERRUPT, REJECT, end
from tests.support.session_store import (
    ADA,
    EVE,
    LEASE,
    OTHER,
    Kit,
    answer,
    finish,
    kit,
    question,
    reason_of,
    step,
    whole_turn,
)
from tests.support.sessions import databases, migrated_file

__all__ = ["databases", "kit", "migrated_file"]

# Answers that got lost


async def test_a_lost_answer_of_begin_run_is_given_again_to_the_owner(kit: Kit) -> None:
    before = await whole_turn(kit.store, ADA, "zero")
    new = question("one", session=before.run.session, history=9)
    first = await kit.store.begin_run(ADA, new)
    kit.clock.advance(timedelta(seconds=20))
    assert await kit.store.begin_run(ADA, new) == first
    kit.clock.advance(timedelta(seconds=20))  # the lease was renewed
    assert await kit.store.acquire_expired_runs(lease=OTHER, limit=9) == ()
    assert not (await kit.store.begin_run(ADA, replace(new, lease=OTHER))).created
    await kit.store.append_events(ADA, first.run.id, fencing_token=1, events=[step(2)])
    assert not (await kit.store.begin_run(ADA, new)).created


async def test_a_lost_answer_of_the_last_append_brings_the_next_run_again(kit: Kit) -> None:
    first = await kit.store.begin_run(ADA, question("one"))
    await kit.store.begin_run(ADA, question("two", session=first.run.session, history=9))
    events = [answer(2), finish(3)]
    results = [
        await kit.store.append_events(ADA, first.run.id, fencing_token=1, events=events) for _ in range(2)
    ]
    assert results[0].next_run is not None
    assert results[0] == results[1]
    following = results[0].next_run
    await kit.store.append_events(ADA, following.run.id, fencing_token=1, events=[step(2)])
    third = await kit.store.append_events(ADA, first.run.id, fencing_token=1, events=events)
    assert third.next_run is None  # somebody works on it: whoever asks has it already
    assert third.last_sequence == 3


async def test_a_late_repetition_does_not_hand_out_a_run_that_did_not_wait(kit: Kit) -> None:
    first = await whole_turn(kit.store, ADA, "one")
    await kit.store.begin_run(ADA, question("two", session=first.run.session))
    again = await kit.store.append_events(
        ADA, first.run.id, fencing_token=1, events=[answer(2, "re: one"), finish(3)]
    )
    assert again.next_run is None


async def test_a_run_that_began_with_a_process_that_died_is_taken_over(kit: Kit) -> None:
    first = await kit.store.begin_run(ADA, question("one"))
    second = await kit.store.begin_run(ADA, question("two", session=first.run.session, history=9))
    assert await end(kit, first) is not None  # and nobody hears it
    kit.clock.advance(timedelta(seconds=31))
    (taken,) = await kit.store.acquire_expired_runs(lease=OTHER, limit=9)
    assert (taken.run.id, taken.fencing_token, taken.run.attempt) == (second.run.id, 2, 2)
    assert [m.content for m in taken.history] == ["one", "because"]
    assert [m.content for m in taken.input] == ["two"]
    assert await end(kit, taken) is None


# Leases


async def test_lost_attempts_wait_ever_longer_and_are_never_refused(kit: Kit) -> None:
    run = (await kit.store.begin_run(ADA, question())).run
    kit.clock.advance(LEASE.duration)
    for lost, wait_s in enumerate([0, 2, 4, 8, 16, 32, 60, 60], 1):
        if wait_s:
            kit.clock.advance(timedelta(seconds=wait_s))
            assert await kit.store.acquire_expired_runs(lease=LEASE, limit=9) == (), wait_s
        kit.clock.advance(timedelta(microseconds=1))
        (taken,) = await kit.store.acquire_expired_runs(lease=LEASE, limit=9)
        assert (taken.run.attempt, taken.run.lost_attempts) == (lost + 1, lost)
        assert (taken.fencing_token, taken.run.state) == (lost + 1, RunState.RUNNING)
        kit.clock.advance(LEASE.duration)
    assert (await kit.store.get_run(ADA, run.id)).lost_attempts == 8


async def test_only_runs_of_the_pool_are_taken_over_and_renewed(kit: Kit) -> None:
    runs = {
        (owner.tenant, team): (await kit.store.begin_run(owner, question(team=team))).run.id
        for owner, team in ((ADA, "helpdesk"), (ADA, "own"), (EVE, "helpdesk"))
    }
    # One that waits behind another, which ends unheard: nobody was told to begin it.
    first = await kit.store.begin_run(EVE, question(team="own"))
    behind = (await kit.store.begin_run(EVE, question(team="own", session=first.run.session))).run.id
    await kit.store.append_events(EVE, first.run.id, fencing_token=1, events=[answer(2), finish(3)])
    acme = await kit.store.renew_leases(None, sorted(runs.values()), lease=LEASE, tenant="acme")
    assert acme.lost == {runs["globex", "helpdesk"]}
    kit.clock.advance(timedelta(seconds=31))

    async def take(which: RunFilter) -> set[str]:
        return {one.run.id for one in await kit.store.acquire_expired_runs(lease=OTHER, limit=9, which=which)}

    own = frozenset({"own"})
    assert await take(RunFilter(tenant="initech")) == set()
    assert await take(RunFilter(tenant="acme", teams=own)) == {runs["acme", "own"]}
    assert await take(RunFilter(tenant="acme", except_teams=own)) == {runs["acme", "helpdesk"]}
    assert await take(RunFilter(tenant="globex", except_teams=own)) == {runs["globex", "helpdesk"]}
    assert await take(RunFilter(tenant="globex")) == {behind}


async def test_a_lease_that_is_given_back_is_free_at_once_and_no_lost_attempt(kit: Kit) -> None:
    run = (await kit.store.begin_run(ADA, question(lease=AT))).run
    kit.clock.advance(timedelta(seconds=31))
    (lost,) = await kit.store.acquire_expired_runs(lease=AT, limit=9)
    assert lost.run.lost_attempts == 1  # the next loss would cost 2 s
    assert lost.owner_seen == lost.run.create_time
    assert (await kit.store.renew_leases(None, [run.id, "nosuch"], lease=GIVEN_BACK)).lost == {"nosuch"}
    assert (await kit.store.get_run(ADA, run.id)).owner_address == ""
    # The old owner can neither write nor renew any more.
    with pytest.raises(Conflict):
        await kit.store.append_events(ADA, run.id, fencing_token=2, events=[step(2)])
    for lease in (GIVEN_BACK, AT):
        assert (await kit.store.renew_leases(None, [run.id], lease=lease)).lost == {run.id}
    (taken,) = await kit.store.acquire_expired_runs(lease=replace(OTHER, address="b:1"), limit=9)
    assert taken.owner_seen is None
    assert (taken.run.attempt, taken.run.lost_attempts) == (3, 1)
    assert (taken.fencing_token, taken.run.owner_address) == (4, "b:1")
    assert await end(kit, taken) is None


async def test_a_queue_without_a_running_run_is_begun_by_whoever_looks(kit: Kit) -> None:
    first = await kit.store.begin_run(ADA, question("one"))
    session = first.run.session
    second = await kit.store.begin_run(ADA, question("two", session=session, history=9))
    third = await kit.store.begin_run(ADA, question("three", session=session))
    assert await kit.store.acquire_expired_runs(lease=OTHER, limit=9) == ()  # its session is not free
    # As code of revision 0001 ends a run: it knows nothing of queues.
    await kit.database.write(lambda c: c.execute(sa.text("UPDATE runs SET state = 3 WHERE state = 2")))
    # Nobody overtakes what waits ...
    assert (await kit.store.begin_run(ADA, question("four", session=session))).run.state is RunState.PENDING
    assert (
        await reason_of(kit.store.begin_run(ADA, question(session=session, on_busy=REJECT))) == "SESSION_BUSY"
    )
    rounds = await asyncio.gather(
        *(
            kit.store.acquire_expired_runs(lease=Lease(owner=f"o{n}", duration=LEASE.duration), limit=9)
            for n in range(5)
        )
    )
    (taken,) = [one for some in rounds for one in some]
    assert (taken.run.id, taken.fencing_token, taken.run.attempt) == (second.run.id, 1, 1)
    assert [m.content for m in taken.history] == ["one"]
    following = await end(kit, taken)
    assert following is not None
    assert following.run.id == third.run.id
    # ... but an interruption, which would be next anyhow.
    await kit.database.write(lambda c: c.execute(sa.text("UPDATE runs SET state = 3 WHERE state = 2")))
    now = await kit.store.begin_run(ADA, question("now", session=session, on_busy=INTERRUPT))
    assert (now.run.state, now.fencing_token) == (RunState.RUNNING, 1)


async def test_runs_with_long_texts_are_acquired_a_few_at_a_time(kit: Kit) -> None:
    big = NewMessage(role=Role.USER, content="x" * 6_000_000)
    for _ in range(3):
        await kit.store.begin_run(ADA, replace(question(history=9), input=(big,)))
    kit.clock.advance(timedelta(seconds=31))
    sizes = []
    while taken := await kit.store.acquire_expired_runs(lease=OTHER, limit=9):
        sizes.append(len(taken))
    assert sizes == [2, 1]


# Rows of the code before


async def test_rows_that_revision_0001_wrote_work(kit: Kit) -> None:
    begun = await whole_turn(kit.store, ADA, "zero")
    session = begun.run.session
    now_us = int(kit.clock.now().timestamp() * 1_000_000)
    run = (
        "INSERT INTO runs (id, tenant, owner, session_id, team, team_revision, state, create_time_us,"
        " last_sequence, summary, status, request_id, body_hash, lease_owner, lease_duration_us,"
        " lease_expire_time_us, fencing_token) VALUES ('old', 'acme', 'ada', :session, 'helpdesk', 'r0', 2,"
        " :now, 1, :empty, :empty, 'request', :empty, 'orchestrator-1', 30000000, :now + 30000000, 1)"
    )
    message = (
        "INSERT INTO messages (session_id, sequence, tenant, owner, role, content, run_id, create_time_us,"
        " citations) VALUES (:session, 3, 'acme', 'ada', 2, 'old question', 'old', :now, :empty)"
    )
    event = (
        "INSERT INTO run_events (run_id, sequence, tenant, owner, kind, member, create_time_us, payload)"
        " VALUES ('old', 1, 'acme', 'ada', 'run_started', '', :now, :empty)"
    )
    count = "UPDATE sessions SET message_count = 3 WHERE id = :session"

    def write(connection: sa.Connection) -> None:
        for statement in (run, message, event, count):
            text = sa.text(statement)
            binds: dict[str, sa.BindParameter[Any]] = {
                "session": sa.bindparam("session", type_=sa.String),
                "now": sa.bindparam("now", type_=sa.BigInteger),
                "empty": sa.bindparam("empty", type_=sa.LargeBinary),
            }
            used = [bind for name, bind in binds.items() if f":{name}" in statement]
            values = {"session": session, "now": now_us, "empty": b""}
            connection.execute(
                text.bindparams(*used), {k: v for k, v in values.items() if f":{k}" in statement}
            )

    await kit.database.write(write)
    old = await kit.store.get_run(ADA, "old")
    assert (old.state, old.attempt, old.lost_attempts) == (RunState.RUNNING, 1, 0)
    assert (old.cancel_requested, old.owner_address) == (False, "")
    second = await kit.store.begin_run(ADA, question("new", session=session, history=9))
    assert second.run.state is RunState.PENDING
    kit.clock.advance(timedelta(seconds=31))
    (taken,) = await kit.store.acquire_expired_runs(lease=OTHER, limit=9)
    assert (taken.run.id, taken.run.attempt) == ("old", 2)
    assert [m.content for m in taken.input] == ["old question"]
    assert [m.content for m in taken.history] == ["zero", "re: zero"]
    following = await end(kit, taken)
    assert following is not None
    assert following.run.id == second.run.id
