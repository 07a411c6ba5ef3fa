"""What every session store must do for sessions and their owners: on SQLite and Postgres alike."""

import asyncio
import sqlite3
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from servicekit.errors import Conflict, FailedPrecondition, NotFound, ServiceError
from servicekit.ids import new_id
from servicekit.testing import FakeClock
from session.adapters.database import PoolLimits, open_database
from session.adapters.store import SqlSessionStore
from session.adapters.tables import metadata
from session.core.model import Event, NewEvent, Owner, Session
from tests.support.session_store import (
    ADA,
    BOB,
    EVE,
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
