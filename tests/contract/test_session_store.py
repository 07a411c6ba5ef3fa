"""What every session store must do: the same suite against SQLite and Postgres."""

import asyncio
import sqlite3
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from agentteams.session.v1 import run_pb2
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from servicekit.errors import Conflict, FailedPrecondition, InvalidArgument, NotFound, ServiceError
from servicekit.ids import new_id
from servicekit.testing import FakeClock
from session.adapters.database import PoolLimits, open_database
from session.adapters.schema import SchemaBehind, check_schema, migrate
from session.adapters.store import SqlSessionStore
from session.adapters.tables import metadata
from session.core.model import (
    BegunRun,
    Event,
    Lease,
    NewEvent,
    NewMessage,
    Owner,
    Role,
    Run,
    RunState,
    Session,
)
from tests.support.session_store import (
    ADA,
    BOB,
    EVE,
    LEASE,
    OTHER,
    Kit,
    all_events,
    all_messages,
    answer,
    appended,
    finish,
    kit,
    new_session,
    question,
    reason_of,
    step,
    whole_turn,
)
from tests.support.sessions import BACKENDS, databases, fill, migrated_file, opened

__all__ = ["databases", "kit", "migrated_file"]

EMPTY = {table.name: 0 for table in metadata.sorted_tables if table.name != "memories"}

# Schema


async def test_migrations_build_what_the_code_expects(kit: Kit) -> None:
    def differences(connection: sa.Connection) -> list[Any]:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return list(compare_metadata(context, metadata))

    assert await kit.database.read(differences) == []


async def test_migrating_twice_changes_nothing(kit: Kit) -> None:
    await whole_turn(kit.store, ADA, "hello")
    before = await kit.rows()
    first, second = await migrate(kit.database)
    assert first == second
    assert await kit.rows() == before
    await check_schema(kit.database)


async def test_an_empty_database_is_refused_with_the_command_that_helps(tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path / 'empty.db'}", PoolLimits(connections=1))
    with pytest.raises(SchemaBehind, match="python -m session migrate"):
        await check_schema(database)
    await database.close()


async def test_a_newer_schema_is_accepted(kit: Kit) -> None:
    await kit.database.write(
        lambda c: c.execute(sa.text("UPDATE alembic_version SET version_num = 'from_the_future'"))
    )
    await check_schema(kit.database)


async def test_two_running_runs_of_one_session_are_impossible_whatever_the_code_does(kit: Kit) -> None:
    begun = await kit.store.begin_run(ADA, question())
    copy = sa.text(
        "INSERT INTO runs (id, tenant, owner, session_id, team, team_revision, state, create_time_us,"
        " end_time_us, last_sequence, summary, status, request_id, body_hash, lease_owner, lease_duration_us,"
        " lease_expire_time_us, fencing_token)"
        " SELECT 'copy', tenant, owner, session_id, team, team_revision, state, create_time_us,"
        " end_time_us, last_sequence, summary, status, 'another', body_hash, lease_owner, lease_duration_us,"
        " lease_expire_time_us, fencing_token FROM runs WHERE id = :id"
    )
    with pytest.raises(Exception, match=r"(?i)unique") as caught:
        async with asyncio.timeout(10):
            await kit.database.write(lambda c: _raise_cause(c, copy, begun.run.id))
    assert caught.value is not None


def _raise_cause(connection: sa.Connection, statement: sa.TextClause, run: str) -> None:
    try:
        connection.execute(statement, {"id": run})
    except sa.exc.IntegrityError as error:
        raise ValueError(str(error.orig)) from error


# Sessions


async def test_a_created_session_can_be_read(kit: Kit) -> None:
    created = await kit.store.create_session(ADA, new_session(name="Travel"))
    assert created.message_count == 0
    assert created.create_time == created.update_time == kit.clock.now()
    assert (created.team, created.display_name, created.user) == ("helpdesk", "Travel", "ada")
    assert await kit.store.get_session(ADA, created.id) == created


async def test_create_session_is_idempotent_per_request_id(kit: Kit) -> None:
    new = new_session(body="a")
    first = await kit.store.create_session(ADA, new)
    assert await kit.store.create_session(ADA, new) == first
    again = new_session(request_id=new.request_id, body="b")
    assert await reason_of(kit.store.create_session(ADA, again)) == "REQUEST_ID_REUSED"
    # Another owner's ids are another matter.
    assert (await kit.store.create_session(BOB, again)).id != first.id
    assert (await kit.store.create_session(EVE, again)).id != first.id


async def test_one_request_id_sent_20_times_at_once_makes_one_session(kit: Kit) -> None:
    new = new_session()
    made = await asyncio.gather(*(kit.store.create_session(ADA, new) for _ in range(20)))
    assert len({session.id for session in made}) == 1
    assert (await kit.rows())["sessions"] == 1


async def test_sessions_come_last_used_first_and_filtered_by_team(kit: Kit) -> None:
    made: list[Session] = []
    for team in ("a", "b", "a"):
        kit.clock.advance(timedelta(seconds=1))
        made.append(await kit.store.create_session(ADA, new_session(team=team)))
    kit.clock.advance(timedelta(seconds=1))
    await kit.store.begin_run(ADA, question(session=made[0].id, team="a"))
    listed = await kit.store.list_sessions(ADA, team="", before=None, limit=10)
    assert [s.id for s in listed] == [made[0].id, made[2].id, made[1].id]
    only_a = await kit.store.list_sessions(ADA, team="a", before=None, limit=10)
    assert [s.id for s in only_a] == [made[0].id, made[2].id]


async def test_paging_of_sessions_is_stable_while_others_are_made(kit: Kit) -> None:
    made = []
    for index in range(9):
        if index % 3 == 0:  # three at a time have the same update time
            kit.clock.advance(timedelta(microseconds=1))
        made.append((await kit.store.create_session(ADA, new_session())).id)
    seen: list[str] = []
    before: tuple[datetime, str] | None = None
    while page := await kit.store.list_sessions(ADA, team="", before=before, limit=2):
        seen += [session.id for session in page]
        before = (page[-1].update_time, page[-1].id)
        kit.clock.advance(timedelta(seconds=1))
        await kit.store.create_session(ADA, new_session())
    assert sorted(seen) == sorted(made)
    assert len(seen) == len(set(seen))


async def test_a_session_can_be_renamed_which_is_no_use_of_it(kit: Kit) -> None:
    created = await kit.store.create_session(ADA, new_session(name="old"))
    kit.clock.advance(timedelta(seconds=1))
    renamed = await kit.store.update_session(ADA, created.id, display_name="new")
    assert renamed.display_name == "new"
    assert renamed.update_time == created.update_time
    assert await kit.store.get_session(ADA, created.id) == renamed


async def test_the_first_question_names_a_session_that_has_no_name(kit: Kit) -> None:
    unnamed = await kit.store.create_session(ADA, new_session())
    named = await kit.store.create_session(ADA, new_session(name="mine"))
    for session in (unnamed, named):
        await whole_turn(kit.store, ADA, "first", session.id)
    await whole_turn(kit.store, ADA, "second", unnamed.id)
    assert (await kit.store.get_session(ADA, unnamed.id)).display_name == "first"
    assert (await kit.store.get_session(ADA, named.id)).display_name == "mine"


async def test_deleting_a_session_leaves_no_row_in_any_table(kit: Kit) -> None:
    begun = await whole_turn(kit.store, ADA, "hello")
    await whole_turn(kit.store, ADA, "and", begun.run.session)
    counted = await kit.rows()
    assert all(counted[table] for table in ("sessions", "messages", "runs", "run_events"))
    await kit.store.delete_session(ADA, begun.run.session)
    assert not any((await kit.rows()).values()), await kit.rows()
    assert await reason_of(kit.store.delete_session(ADA, begun.run.session)) == "SESSION_NOT_FOUND"
    assert await reason_of(kit.store.get_run(ADA, begun.run.id)) == "RUN_NOT_FOUND"


async def test_deleting_leaves_other_sessions_alone(kit: Kit) -> None:
    first = await whole_turn(kit.store, ADA, "one")
    second = await whole_turn(kit.store, ADA, "two")
    await kit.store.delete_session(ADA, first.run.session)
    assert len(await all_messages(kit.store, ADA, second.run.session)) == 2
    assert len(await all_events(kit.store, ADA, second.run.id)) == 3


async def test_a_session_with_a_run_that_is_not_finished_cannot_be_deleted(kit: Kit) -> None:
    begun = await kit.store.begin_run(ADA, question())
    with pytest.raises(FailedPrecondition) as caught:
        await kit.store.delete_session(ADA, begun.run.session)
    assert caught.value.reason == "SESSION_BUSY"
    assert caught.value.metadata["run"] == f"runs/{begun.run.id}"
    assert (await all_messages(kit.store, ADA, begun.run.session))[0].content == "why?"


# Runs begin


async def test_begin_run_stores_session_message_run_and_event_together(kit: Kit) -> None:
    begun = await kit.store.begin_run(ADA, question("hello"))
    assert (begun.created, begun.fencing_token, begun.history) == (True, 1, ())
    run = begun.run
    assert (run.state, run.last_sequence, run.end_time) == (RunState.RUNNING, 1, None)
    assert await kit.store.get_run(ADA, run.id) == run
    session = await kit.store.get_session(ADA, run.session)
    assert (session.message_count, session.display_name) == (1, "hello")
    (message,) = await all_messages(kit.store, ADA, run.session)
    assert (message.sequence, message.role, message.content, message.run) == (1, Role.USER, "hello", run.id)
    (event,) = await all_events(kit.store, ADA, run.id)
    assert (event.sequence, event.kind) == (1, "run_started")
    started = run_pb2.RunEvent.FromString(event.payload).run_started
    assert started.team_revision == "r1"
    assert started.input_messages == [f"sessions/{run.session}/messages/1"]
    assert event.create_time == kit.clock.now()


async def test_a_conversation_kept_elsewhere_is_stored_in_order(kit: Kit) -> None:
    before = [
        NewMessage(role=Role.SYSTEM, content="be brief"),
        NewMessage(role=Role.USER, content="hi"),
        NewMessage(role=Role.ASSISTANT, content="hello", citations=b"c"),
    ]
    begun = await kit.store.begin_run(ADA, question("and now?", before=before))
    stored = await all_messages(kit.store, ADA, begun.run.session)
    assert [(m.sequence, m.role, m.content) for m in stored] == [
        (1, Role.SYSTEM, "be brief"),
        (2, Role.USER, "hi"),
        (3, Role.ASSISTANT, "hello"),
        (4, Role.USER, "and now?"),
    ]
    assert stored[2].citations == b"c"


async def test_the_next_run_gets_the_newest_history_oldest_first(kit: Kit) -> None:
    begun = await whole_turn(kit.store, ADA, "one")
    await whole_turn(kit.store, ADA, "two", begun.run.session)
    next_run = await kit.store.begin_run(ADA, question("three", session=begun.run.session, history=3))
    assert [m.content for m in next_run.history] == ["re: one", "two", "re: two"]
    event = run_pb2.RunEvent.FromString((await all_events(kit.store, ADA, next_run.run.id))[0].payload)
    assert event.run_started.input_messages == [f"sessions/{begun.run.session}/messages/5"]
    assert [m.sequence for m in await all_messages(kit.store, ADA, begun.run.session)] == [1, 2, 3, 4, 5]


async def test_begin_run_is_idempotent_per_request_id(kit: Kit) -> None:
    new = question(body="a")
    first = await kit.store.begin_run(ADA, new)
    second = await kit.store.begin_run(ADA, replace(new, lease=OTHER))
    assert second == BegunRun(run=first.run, created=False, fencing_token=0, history=())
    other_body = question("other", request_id=new.request_id, body="b")
    assert await reason_of(kit.store.begin_run(ADA, other_body)) == "REQUEST_ID_REUSED"
    counted = await kit.rows()
    assert counted == {**EMPTY, "sessions": 1, "messages": 1, "runs": 1, "run_events": 1}
    assert (await kit.store.begin_run(BOB, new)).created
    assert (await kit.store.begin_run(EVE, new)).created


async def test_a_repeated_question_in_a_session_stores_no_second_message(kit: Kit) -> None:
    begun = await whole_turn(kit.store, ADA, "one")
    new = question("two", session=begun.run.session, body="x")
    first = await kit.store.begin_run(ADA, new)
    again = await kit.store.begin_run(ADA, replace(new, lease=OTHER))
    assert (again.created, again.run.id) == (False, first.run.id)
    await kit.store.append_events(ADA, first.run.id, fencing_token=1, events=[finish(2)])
    ended = await kit.store.begin_run(ADA, new)
    assert (ended.created, ended.run.state) == (False, RunState.SUCCEEDED)
    assert (await kit.store.get_session(ADA, begun.run.session)).message_count == 3
    assert [m.sequence for m in await all_messages(kit.store, ADA, begun.run.session)] == [1, 2, 3]


async def test_one_request_id_sent_20_times_at_once_makes_one_run(kit: Kit) -> None:
    new = question()
    leases = [Lease(owner=f"o{n}", duration=timedelta(seconds=30)) for n in range(20)]
    begun = await asyncio.gather(*(kit.store.begin_run(ADA, replace(new, lease=lease)) for lease in leases))
    assert len({one.run.id for one in begun}) == 1
    assert sum(one.created for one in begun) == 1
    counted = await kit.rows()
    assert counted == {**EMPTY, "sessions": 1, "messages": 1, "runs": 1, "run_events": 1}


async def test_a_session_belongs_to_its_team(kit: Kit) -> None:
    session = await kit.store.create_session(ADA, new_session(team="helpdesk"))
    with pytest.raises(InvalidArgument) as caught:
        await kit.store.begin_run(ADA, question(session=session.id, team="sales"))
    assert caught.value.violations[0].field == "team"
    assert "helpdesk" in caught.value.message
    assert (await kit.store.get_session(ADA, session.id)).message_count == 0


async def test_a_run_in_a_session_that_is_not_there(kit: Kit) -> None:
    assert await reason_of(kit.store.begin_run(ADA, question(session="nosuch"))) == "SESSION_NOT_FOUND"
    assert not any((await kit.rows()).values())


# Logs grow


async def test_events_are_stored_as_they_were_sent(kit: Kit) -> None:
    run = (await kit.store.begin_run(ADA, question())).run
    events = [step(n) for n in range(2, 258)]
    assert await appended(kit.store, run.id, events) == 257
    stored = await all_events(kit.store, ADA, run.id)
    assert list(stored[1:]) == [new.event for new in events]
    assert (await kit.store.get_run(ADA, run.id)).last_sequence == 257
    page = await kit.store.list_run_events(ADA, run.id, after_sequence=100, limit=3)
    assert [event.sequence for event in page] == [101, 102, 103]
    assert await kit.store.list_run_events(ADA, run.id, after_sequence=257, limit=3) == ()


async def test_an_answer_becomes_a_message_and_the_end_ends_the_run(kit: Kit) -> None:
    run = (await kit.store.begin_run(ADA, question())).run
    kit.clock.advance(timedelta(seconds=3))
    await kit.store.append_events(
        ADA, run.id, fencing_token=1, events=[step(2), answer(3, "forty-two"), finish(4)]
    )
    message = (await all_messages(kit.store, ADA, run.session))[-1]
    assert (message.sequence, message.role, message.content) == (2, Role.ASSISTANT, "forty-two")
    assert (message.run, message.citations, message.create_time) == (run.id, b"cites", kit.clock.now())
    session = await kit.store.get_session(ADA, run.session)
    assert (session.message_count, session.update_time) == (2, kit.clock.now())
    ended = await kit.store.get_run(ADA, run.id)
    assert (ended.state, ended.summary, ended.status) == (RunState.SUCCEEDED, b"sum", b"")
    assert (ended.end_time, ended.last_sequence) == (kit.clock.now(), 4)


@pytest.mark.parametrize("state", [RunState.FAILED, RunState.CANCELLED])
async def test_a_run_that_ends_without_an_answer_says_why(kit: Kit, state: RunState) -> None:
    run = (await kit.store.begin_run(ADA, question())).run
    await kit.store.append_events(ADA, run.id, fencing_token=1, events=[finish(2, state)])
    ended = await kit.store.get_run(ADA, run.id)
    assert ended.state is state
    assert ended.status == (b"why" if state is RunState.FAILED else b"")


async def test_events_that_are_stored_already_are_skipped(kit: Kit) -> None:
    run = (await kit.store.begin_run(ADA, question())).run
    first = [step(2), answer(3, "once")]
    for _ in range(3):
        assert await appended(kit.store, run.id, first) == 3
    # A longer batch that overlaps: only its new part is stored.
    longer = [*first, step(4), finish(5)]
    assert await appended(kit.store, run.id, longer) == 5
    # The last append again, after the run has ended.
    assert await appended(kit.store, run.id, longer) == 5
    assert [event.sequence for event in await all_events(kit.store, ADA, run.id)] == [1, 2, 3, 4, 5]
    assert [m.content for m in await all_messages(kit.store, ADA, run.session)] == ["why?", "once"]


async def test_another_event_under_a_stored_sequence_is_no_repetition(kit: Kit) -> None:
    run = (await kit.store.begin_run(ADA, question())).run
    await kit.store.append_events(ADA, run.id, fencing_token=1, events=[step(2, member="writer")])
    other = [step(2, member="analyst"), step(3)]
    with pytest.raises(InvalidArgument) as caught:
        await kit.store.append_events(ADA, run.id, fencing_token=1, events=other)
    assert caught.value.violations[0].field == "events[0].sequence"
    assert len(await all_events(kit.store, ADA, run.id)) == 2


async def test_a_gap_is_refused_and_nothing_of_it_stored(kit: Kit) -> None:
    run = (await kit.store.begin_run(ADA, question())).run
    with pytest.raises(FailedPrecondition) as caught:
        await kit.store.append_events(ADA, run.id, fencing_token=1, events=[answer(3), step(4)])
    assert caught.value.reason == "SEQUENCE_GAP"
    assert caught.value.metadata["last_sequence"] == "1"
    assert len(await all_events(kit.store, ADA, run.id)) == 1
    assert len(await all_messages(kit.store, ADA, run.session)) == 1


async def test_nothing_follows_the_end_of_a_run(kit: Kit) -> None:
    run = (await whole_turn(kit.store, ADA, "hello")).run
    for events in ([step(4)], [finish(3), step(4)], [step(9)]):
        append = kit.store.append_events(ADA, run.id, fencing_token=1, events=events)
        assert await reason_of(append) == "RUN_FINISHED"
    assert len(await all_events(kit.store, ADA, run.id)) == 3


async def test_of_20_writers_of_one_sequence_exactly_one_wins(kit: Kit) -> None:
    run = (await kit.store.begin_run(ADA, question())).run
    results = await asyncio.gather(
        *(appended(kit.store, run.id, [step(2, member=f"m{n}"), answer(3, f"m{n}")]) for n in range(20)),
        return_exceptions=True,
    )
    assert sum(result == 3 for result in results) == 1
    assert sum(isinstance(result, InvalidArgument) for result in results) == 19
    stored = await all_events(kit.store, ADA, run.id)
    messages = await all_messages(kit.store, ADA, run.session)
    assert [m.content for m in messages] == ["why?", stored[1].member]


async def test_20_runs_append_side_by_side_without_a_gap(kit: Kit) -> None:
    begun = await asyncio.gather(*(kit.store.begin_run(ADA, question(str(n))) for n in range(20)))

    async def work(run: Run) -> None:
        for sequence in range(2, 6):
            await kit.store.append_events(ADA, run.id, fencing_token=1, events=[step(sequence)])
        await kit.store.append_events(ADA, run.id, fencing_token=1, events=[answer(6), finish(7)])

    await asyncio.gather(*(work(one.run) for one in begun))
    for one in begun:
        assert [e.sequence for e in await all_events(kit.store, ADA, one.run.id)] == list(range(1, 8))
        assert [m.sequence for m in await all_messages(kit.store, ADA, one.run.session)] == [1, 2]


# Leases


async def test_an_expired_run_is_taken_over_and_the_old_owner_locked_out(kit: Kit) -> None:
    run = (await kit.store.begin_run(ADA, question())).run
    await kit.store.append_events(ADA, run.id, fencing_token=1, events=[step(2)])
    assert await kit.store.acquire_expired_runs(lease=OTHER, limit=50) == ()
    kit.clock.advance(timedelta(seconds=31))
    (taken,) = await kit.store.acquire_expired_runs(lease=OTHER, limit=50)
    assert (taken.run.id, taken.fencing_token, taken.run.last_sequence) == (run.id, 2, 2)
    assert (taken.run.tenant, taken.run.user) == ("acme", "ada")
    # It is not offered twice.
    assert await kit.store.acquire_expired_runs(lease=LEASE, limit=50) == ()
    # The old owner can store nothing, not even repeat itself.
    for events in ([step(3)], [step(2)], [finish(3)]):
        with pytest.raises(Conflict) as caught:
            await kit.store.append_events(ADA, run.id, fencing_token=1, events=events)
        assert caught.value.reason == "LEASE_LOST"
    assert (await kit.store.renew_leases(None, [run.id], lease=LEASE)).lost == {run.id}
    assert len(await all_events(kit.store, ADA, run.id)) == 2
    # The new one goes on from the last stored event.
    assert await appended(kit.store, run.id, [answer(3), finish(4)], token=2) == 4
    late = kit.store.append_events(ADA, run.id, fencing_token=1, events=[step(3)])
    assert await reason_of(late) == "LEASE_LOST"


async def test_each_append_renews_the_lease(kit: Kit) -> None:
    run = (await kit.store.begin_run(ADA, question())).run
    for events in ([step(2)], [step(3)], [step(3)]):  # the last one is a repetition
        kit.clock.advance(timedelta(seconds=20))
        await kit.store.append_events(ADA, run.id, fencing_token=1, events=events)
    kit.clock.advance(timedelta(seconds=29))
    assert await kit.store.acquire_expired_runs(lease=OTHER, limit=50) == ()
    kit.clock.advance(timedelta(seconds=2))
    assert len(await kit.store.acquire_expired_runs(lease=OTHER, limit=50)) == 1


async def test_renewing_keeps_a_silent_run(kit: Kit) -> None:
    run = (await kit.store.begin_run(ADA, question())).run
    kit.clock.advance(timedelta(seconds=20))
    assert (await kit.store.renew_leases(None, [run.id], lease=LEASE)).lost == frozenset()
    kit.clock.advance(timedelta(seconds=20))
    assert await kit.store.acquire_expired_runs(lease=OTHER, limit=50) == ()
    kit.clock.advance(timedelta(seconds=11))
    assert len(await kit.store.acquire_expired_runs(lease=OTHER, limit=50)) == 1


async def test_lost_runs_are_those_of_others_ended_and_unknown(kit: Kit) -> None:
    mine = (await kit.store.begin_run(ADA, question())).run.id
    others = (await kit.store.begin_run(BOB, question(lease=OTHER))).run.id
    ended = (await whole_turn(kit.store, EVE, "x")).run.id
    lost = await kit.store.renew_leases(None, [mine, others, ended, "nosuch"], lease=LEASE)
    assert lost.lost == {others, ended, "nosuch"}
    # A caller with an owner renews only what is that owner's.
    assert (await kit.store.renew_leases(EVE, [mine], lease=LEASE)).lost == {mine}
    assert (await kit.store.renew_leases(ADA, [mine], lease=LEASE)).lost == frozenset()


async def test_ended_runs_are_not_taken_over(kit: Kit) -> None:
    await whole_turn(kit.store, ADA, "done")
    kit.clock.advance(timedelta(days=1))
    assert await kit.store.acquire_expired_runs(lease=OTHER, limit=50) == ()


async def test_two_orchestrators_share_expired_runs_of_all_tenants(kit: Kit) -> None:
    runs = set()
    for owner in (ADA, BOB, EVE) * 4:
        runs.add((await kit.store.begin_run(owner, question())).run.id)
    kit.clock.advance(timedelta(minutes=1))
    taken = await asyncio.gather(
        *(
            kit.store.acquire_expired_runs(
                lease=Lease(owner=f"o{n}", duration=timedelta(seconds=30)), limit=4
            )
            for n in range(6)
        )
    )
    ids = [one.run.id for some in taken for one in some]
    # Nobody gets one that another has; who finds all locked comes again.
    assert len(ids) == len(set(ids))
    rest = await kit.store.acquire_expired_runs(lease=OTHER, limit=50)
    assert {*ids, *(one.run.id for one in rest)} == runs
    assert all(one.fencing_token == 2 for some in (*taken, rest) for one in some)


async def test_the_limit_takes_those_that_expired_first(kit: Kit) -> None:
    runs = []
    for _ in range(3):
        runs.append((await kit.store.begin_run(ADA, question())).run.id)
        kit.clock.advance(timedelta(seconds=1))
    kit.clock.advance(timedelta(minutes=1))
    taken = await kit.store.acquire_expired_runs(lease=OTHER, limit=2)
    assert {one.run.id for one in taken} == set(runs[:2])


# Lists of runs


async def test_runs_come_newest_first_by_session_and_team(kit: Kit) -> None:
    first = (await whole_turn(kit.store, ADA, "one")).run
    kit.clock.advance(timedelta(seconds=1))
    second = (await whole_turn(kit.store, ADA, "two", first.session)).run
    kit.clock.advance(timedelta(seconds=1))
    third = (await kit.store.begin_run(ADA, question(team="sales"))).run

    async def ids(session: str = "", team: str = "") -> list[str]:
        listed = await kit.store.list_runs(ADA, session=session, team=team, before=None, limit=10)
        return [run.id for run in listed]

    assert await ids() == [third.id, second.id, first.id]
    assert await ids(session=first.session) == [second.id, first.id]
    assert await ids(team="sales") == [third.id]
    after = await kit.store.list_runs(
        ADA, session="", team="", before=(second.create_time, second.id), limit=10
    )
    assert [run.id for run in after] == [first.id]


# Tenancy


@pytest.mark.parametrize("stranger", [BOB, EVE], ids=["other user", "other tenant"])
async def test_what_is_anothers_is_not_found(kit: Kit, stranger: Owner) -> None:
    run = (await kit.store.begin_run(ADA, question())).run
    store = kit.store
    before = await kit.rows()
    assert await reason_of(store.get_session(stranger, run.session)) == "SESSION_NOT_FOUND"
    renamed = store.update_session(stranger, run.session, display_name="mine")
    assert await reason_of(renamed) == "SESSION_NOT_FOUND"
    assert await reason_of(store.delete_session(stranger, run.session)) == "SESSION_NOT_FOUND"
    assert await reason_of(all_messages(store, stranger, run.session)) == "SESSION_NOT_FOUND"
    begun = store.begin_run(stranger, question(session=run.session))
    assert await reason_of(begun) == "SESSION_NOT_FOUND"
    assert await reason_of(store.get_run(stranger, run.id)) == "RUN_NOT_FOUND"
    assert await reason_of(all_events(store, stranger, run.id)) == "RUN_NOT_FOUND"
    for events in ([step(2)], [step(1)], [answer(2), finish(3)]):
        append = store.append_events(stranger, run.id, fencing_token=1, events=events)
        assert await reason_of(append) == "RUN_NOT_FOUND"
    assert await store.list_sessions(stranger, team="", before=None, limit=10) == ()
    assert await store.list_runs(stranger, session=run.session, team="", before=None, limit=10) == ()
    assert await kit.rows() == before


OPERATIONS = ["create", "begin", "append", "finish", "rename", "delete", "list", "read"]


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    script=st.lists(
        st.tuples(st.sampled_from([ADA, BOB, EVE]), st.sampled_from(OPERATIONS), st.integers(0, 50)),
        min_size=10,
        max_size=30,
    )
)
def test_random_work_of_three_owners_never_shows_one_the_others_rows(
    script: list[tuple[Owner, str, int]], tmp_path_factory: pytest.TempPathFactory, migrated_file: Path
) -> None:
    async def play() -> None:
        path = tmp_path_factory.mktemp("random") / "session.db"
        for backend in BACKENDS:
            async with opened(backend, file=path, template=migrated_file) as databases:
                store = SqlSessionStore(database=databases.plain, clock=FakeClock(), new_id=new_id)
                await _play(store, script)

    asyncio.run(play())


async def _play(store: SqlSessionStore, script: list[tuple[Owner, str, int]]) -> None:
    """Everybody tries everybody's ids; a row that is shown must be the caller's."""
    sessions: list[tuple[str, Owner]] = []
    runs: list[tuple[str, Owner]] = []

    async def one(owner: Owner, operation: str, pick: int) -> None:
        session, session_owner = sessions[pick % len(sessions)] if sessions else ("none", None)
        run, run_owner = runs[pick % len(runs)] if runs else ("none", None)
        match operation:
            case "create":
                made = await store.create_session(owner, new_session(name=f"{owner}"))
                sessions.append((made.id, owner))
            case "begin":
                begun = await store.begin_run(
                    owner, question(f"{owner}", session=session if pick % 2 and sessions else "", history=9)
                )
                assert all(m.content == f"{owner}" for m in begun.history)
                runs.append((begun.run.id, owner))
                sessions.append((begun.run.session, owner))
            case "append" | "finish":
                last = (await store.get_run(run_owner or owner, run)).last_sequence
                new = finish(last + 1) if operation == "finish" else answer(last + 1, f"{owner}")
                await store.append_events(owner, run, fencing_token=1, events=[new])
                assert run_owner == owner
            case "rename":
                await store.update_session(owner, session, display_name=f"{owner}")
                assert session_owner == owner
            case "delete":
                await store.delete_session(owner, session)
                assert session_owner == owner
            case "list":
                for listed in await store.list_sessions(owner, team="", before=None, limit=100):
                    assert listed.display_name == f"{owner}"
                for row in await store.list_runs(owner, session="", team="", before=None, limit=100):
                    assert (row.tenant, row.user) == (owner.tenant, owner.user)
            case "read":
                for message in await all_messages(store, owner, session):
                    assert message.content == f"{owner}"
                await all_events(store, owner, run)
                assert run_owner == owner

    for owner, operation, pick in script:
        try:
            await one(owner, operation, pick)
        except (NotFound, FailedPrecondition, Conflict):
            continue


# Edges of the databases


async def test_texts_survive_as_they_are(kit: Kit) -> None:
    text = "Grüße 🐘 '; DROP TABLE sessions; -- %s :x \\ \t\n" * 50
    begun = await kit.store.begin_run(ADA, question(text))
    assert (await all_messages(kit.store, ADA, begun.run.session))[0].content == text


async def test_a_full_or_locked_file_is_unavailable_not_a_lost_write(tmp_path: Path) -> None:
    path = tmp_path / "session.db"
    url = f"sqlite:///{path}"
    await fill(url)
    database = open_database(url, PoolLimits(connections=1))
    store = SqlSessionStore(database=database, clock=FakeClock(), new_id=new_id)
    run = (await store.begin_run(ADA, question())).run
    pages = sqlite3.connect(path)
    await database.write(lambda c: c.exec_driver_sql("PRAGMA max_page_count=1"))
    big = NewEvent(
        event=Event(sequence=2, kind="x", member="", create_time=FakeClock().now(), payload=b"x" * 1_000_000)
    )
    with pytest.raises(ServiceError) as caught:
        await store.append_events(ADA, run.id, fencing_token=1, events=[big])
    assert caught.value.reason == "DEPENDENCY_UNAVAILABLE"
    await database.write(lambda c: c.exec_driver_sql("PRAGMA max_page_count=1000000"))
    assert await appended(store, run.id, [big]) == 2
    pages.close()
    await database.close()
