"""Forks, filters, memories, retention and erasure: the same suite against SQLite and Postgres."""

import asyncio
import uuid
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from prometheus_client import REGISTRY

from servicekit.errors import Unavailable
from servicekit.ids import new_id
from session.adapters.retention import SqlRetentionStore
from session.adapters.store import SqlSessionStore
from session.adapters.tables import memories, messages, metadata, sessions
from session.core.model import NewMessage, Owner, Role, RunState
from session.core.user_data import MAX_MEMORIES, Erased, NewFork, NewMemory, SessionTimes
from session.core.words import words_of
from session.sweeper import BATCH_SESSIONS, Sweeper
from tests.support.session_store import (
    ADA,
    BOB,
    EVE,
    Kit,
    all_messages,
    answer,
    finish,
    kit,
    new_session,
    question,
    reason_of,
    whole_turn,
)
from tests.support.sessions import Databases, databases, migrated_file

__all__ = ["databases", "kit", "migrated_file"]

DAY = timedelta(days=1)


def fork(session: str, sequence: int, *, name: str = "", request_id: str = "", body: str = "") -> NewFork:
    return NewFork(
        request_id=request_id or str(uuid.uuid4()),
        body_hash=body.encode(),
        session=session,
        sequence=sequence,
        display_name=name,
    )


def memory(text: str, *, team: str = "", request_id: str = "", body: str = "") -> NewMemory:
    return NewMemory(
        request_id=request_id or str(uuid.uuid4()), body_hash=body.encode(), team=team, text=text
    )


# Nothing of a user is in them: what a namespace may do, and what its teams are asked by schedule.
OF_NAMESPACES = {"run_quotas", "team_golden_sets"}


async def count(kit: Kit, table: sa.Table, owner: Owner) -> int:
    query = sa.select(sa.func.count()).where(table.c.tenant == owner.tenant, table.c.owner == owner.user)
    return int(await kit.database.read(lambda c: c.execute(query).scalar_one()))


# Forks


async def test_a_fork_has_the_messages_up_to_the_one_named_and_goes_its_own_way(kit: Kit) -> None:
    first = await whole_turn(kit.store, ADA, "one")
    source = first.run.session
    await whole_turn(kit.store, ADA, "two", session=source)
    kit.clock.advance(DAY)
    forked = await kit.store.fork_session(ADA, fork(source, 3))
    assert forked.id != source
    assert (forked.team, forked.display_name, forked.message_count) == ("helpdesk", "one", 3)
    assert forked.create_time == forked.update_time == kit.clock.now()
    assert await kit.store.get_session(ADA, forked.id) == forked

    copies = await all_messages(kit.store, ADA, forked.id)
    originals = await all_messages(kit.store, ADA, source)
    assert [(m.session, m.content) for m in copies] == [(forked.id, c) for c in ("one", "re: one", "two")]
    for copy, original in zip(copies, originals[:3], strict=True):
        assert (copy.sequence, copy.role, copy.run) == (original.sequence, original.role, original.run)
        assert (copy.citations, copy.create_time) == (original.citations, original.create_time)

    begun = await kit.store.begin_run(ADA, question("three", session=forked.id, history=10))
    assert [m.content for m in begun.history] == ["one", "re: one", "two"]
    assert [m.content for m in await all_messages(kit.store, ADA, source)] == [
        "one",
        "re: one",
        "two",
        "re: two",
    ]
    await kit.store.delete_session(ADA, source)
    assert len(await all_messages(kit.store, ADA, forked.id)) == 4


async def test_a_session_that_works_can_be_forked(kit: Kit) -> None:
    run = (await kit.store.begin_run(ADA, question("one"))).run
    forked = await kit.store.fork_session(ADA, fork(run.session, 1, name="mine"))
    assert forked.display_name == "mine"
    await kit.store.delete_session(ADA, forked.id)


async def test_forking_is_idempotent_per_request_id_whatever_became_of_the_source(kit: Kit) -> None:
    source = (await whole_turn(kit.store, ADA, "one")).run.session
    new = fork(source, 2, body="a")
    first, second = await asyncio.gather(kit.store.fork_session(ADA, new), kit.store.fork_session(ADA, new))
    assert first == second
    await kit.store.delete_session(ADA, source)
    assert await kit.store.fork_session(ADA, new) == first
    assert await count(kit, sessions, ADA) == 1
    other = fork(source, 1, body="b", request_id=new.request_id)
    assert await reason_of(kit.store.fork_session(ADA, other)) == "REQUEST_ID_REUSED"
    created = new_session(request_id=new.request_id, body="c")
    assert await reason_of(kit.store.create_session(ADA, created)) == "REQUEST_ID_REUSED"


async def test_what_cannot_be_forked(kit: Kit) -> None:
    source = (await whole_turn(kit.store, ADA, "one")).run.session
    assert await reason_of(kit.store.fork_session(ADA, fork(source, 3))) == "INVALID_FIELD"
    assert await reason_of(kit.store.fork_session(ADA, fork("nosuch", 1))) == "SESSION_NOT_FOUND"
    for stranger in (BOB, EVE):
        assert await reason_of(kit.store.fork_session(stranger, fork(source, 1))) == "SESSION_NOT_FOUND"
    assert await count(kit, sessions, ADA) == 1
    assert await count(kit, messages, BOB) == 0


# Filters


async def test_sessions_are_listed_by_their_times(kit: Kit) -> None:
    start = kit.clock.now()
    made = []
    for day in range(4):
        made.append((await kit.store.create_session(ADA, new_session(name=str(day)))).id)
        kit.clock.advance(DAY)
    run = await kit.store.begin_run(ADA, question(session=made[0]))  # day 4
    assert run.created

    async def days(**times: Any) -> list[int]:
        found = await kit.store.list_sessions(
            ADA, team="", before=None, limit=10, times=SessionTimes(**times)
        )
        return [made.index(session.id) for session in found]

    assert await days() == [0, 3, 2, 1]
    assert await days(updated_after=start + 3 * DAY) == [0, 3]
    assert await days(updated_before=start + 3 * DAY) == [2, 1]
    assert await days(created_before=start + 1 * DAY) == [0]
    assert await days(created_after=start + 1 * DAY, created_before=start + 3 * DAY) == [2, 1]
    assert await days(created_after=start + 1 * DAY, updated_after=start + 4 * DAY) == []


# Memories


async def test_a_memory_is_listed_found_and_forgotten(kit: Kit) -> None:
    first = await kit.store.add_memory(ADA, memory("Prefers trains to planes"))
    kit.clock.advance(DAY)
    second = await kit.store.add_memory(ADA, memory("Her dog's name is Ümit"))
    assert (first.user, first.team, first.text) == ("ada", "", "Prefers trains to planes")

    async def listed(owner: Owner = ADA) -> list[str]:
        return [m.id for m in await kit.store.list_memories(owner, team="", before=None, limit=10)]

    async def found(query: str, owner: Owner = ADA) -> list[str]:
        hits = await kit.store.search_memories(owner, words=words_of(query), team="", limit=10)
        return [hit.id for hit in hits]

    assert await listed() == [second.id, first.id]
    page = await kit.store.list_memories(ADA, team="", before=(second.create_time, second.id), limit=1)
    assert page == (first,)
    assert await found("Which TRAIN?") == [first.id]  # the beginning of a longer word
    assert await found("ümIt") == [second.id]
    assert await found("U\u0308mit") == [second.id]  # composed otherwise
    assert await found("rain") == []  # the end of one is another word
    assert await found("100% _ '") == []
    for stranger in (BOB, EVE):
        assert await listed(stranger) == []
        assert await found("train", stranger) == []
        assert await reason_of(kit.store.forget_memory(stranger, first.id)) == "MEMORY_NOT_FOUND"
    await kit.store.forget_memory(ADA, first.id)
    assert await listed() == [second.id]
    assert await found("train") == []
    assert await reason_of(kit.store.forget_memory(ADA, first.id)) == "MEMORY_NOT_FOUND"


async def test_rare_words_count_more_than_common_ones(kit: Kit) -> None:
    for number in range(5):
        kit.clock.advance(DAY)
        await kit.store.add_memory(ADA, memory(f"the user said the thing number{number}"))
    zurich = await kit.store.add_memory(ADA, memory("Lives in Zürich"))
    kit.clock.advance(DAY)
    newest = await kit.store.add_memory(ADA, memory("the user likes it short"))
    words = words_of("the user of Zürich")
    hits = await kit.store.search_memories(ADA, words=words, team="", limit=3)
    assert hits[0] == zurich
    assert hits[1] == newest  # among equals the newest
    assert len(hits) == 3


async def test_a_team_sees_its_memories_and_those_for_every_team(kit: Kit) -> None:
    common = await kit.store.add_memory(ADA, memory("Speaks German"))
    own = await kit.store.add_memory(ADA, memory("German invoices only", team="billing"))
    both = {common.id, own.id}
    for team, visible in (("billing", both), ("travel", {common.id}), ("", both)):
        listed = await kit.store.list_memories(ADA, team=team, before=None, limit=10)
        found = await kit.store.search_memories(ADA, words=["german"], team=team, limit=10)
        assert {m.id for m in listed} == {m.id for m in found} == visible


async def test_adding_is_idempotent_per_request_id(kit: Kit) -> None:
    new = memory("Speaks German", body="a")
    first, second = await asyncio.gather(kit.store.add_memory(ADA, new), kit.store.add_memory(ADA, new))
    assert first == second
    other = memory("Speaks French", body="b", request_id=new.request_id)
    assert await reason_of(kit.store.add_memory(ADA, other)) == "REQUEST_ID_REUSED"
    assert (await kit.store.add_memory(BOB, other)).text == "Speaks French"  # ids are the owner's own
    assert await count(kit, memories, ADA) == 1


async def test_a_user_has_a_bounded_number_of_memories(kit: Kit) -> None:
    last = memory("the last one", body="z")
    rows = [
        {
            "id": new_id(),
            "tenant": ADA.tenant,
            "owner": ADA.user,
            "team": "",
            "content": "x",
            "words": " x ",
            "create_time_us": 1,
            "request_id": str(number),
            "body_hash": b"",
        }
        for number in range(MAX_MEMORIES - 1)
    ]
    await kit.database.write(lambda c: c.execute(sa.insert(memories), rows))
    # Two at once, and room for one.
    results = await asyncio.gather(
        kit.store.add_memory(ADA, last),
        kit.store.add_memory(ADA, memory("one too many")),
        return_exceptions=True,
    )
    reasons = sorted(getattr(result, "reason", "added") for result in results)
    assert reasons == ["MEMORY_LIMIT_REACHED", "added"]
    assert await count(kit, memories, ADA) == MAX_MEMORIES
    await kit.store.add_memory(BOB, memory("somebody else's"))
    known = next(r for r in results if not isinstance(r, BaseException))
    if known.text == last.text:  # a repeated request is answered at the limit too
        assert await kit.store.add_memory(ADA, last) == known


# Retention


def sweeper_of(kit: Kit, databases: Databases) -> Sweeper:
    store = SqlRetentionStore(database=databases.plain, clock=kit.clock)
    return Sweeper(store=store, pause=timedelta())


async def test_a_session_is_swept_when_it_was_not_used_for_its_retention(
    kit: Kit, databases: Databases
) -> None:
    sweeper = sweeper_of(kit, databases)
    begun = await kit.store.begin_run(ADA, question("short", retention=DAY))
    end = [answer(2), finish(3)]
    await kit.store.append_events(ADA, begun.run.id, fencing_token=1, events=end)
    for_ever = (await whole_turn(kit.store, ADA, "for ever")).run.session
    made = await kit.store.create_session(EVE, new_session(retention=3 * DAY))
    assert made.retention == 3 * DAY
    assert (await kit.store.get_session(ADA, begun.run.session)).retention == DAY

    assert await sweeper.sweep() == 0
    kit.clock.advance(DAY)
    assert await sweeper.sweep() == 0  # not a moment too early
    kit.clock.advance(timedelta(microseconds=1))
    assert await sweeper.sweep() == 1
    assert await reason_of(kit.store.get_session(ADA, begun.run.session)) == "SESSION_NOT_FOUND"
    assert await reason_of(kit.store.get_run(ADA, begun.run.id)) == "RUN_NOT_FOUND"
    assert await count(kit, metadata.tables["run_events"], ADA) == 3  # those of the other one
    kit.clock.advance(3 * DAY)
    assert await sweeper.sweep() == 1
    assert await reason_of(kit.store.get_session(EVE, made.id)) == "SESSION_NOT_FOUND"
    kit.clock.advance(10_000 * DAY)
    assert await sweeper.sweep() == 0
    assert (await kit.store.get_session(ADA, for_ever)).retention is None


async def test_using_a_session_prolongs_it_and_a_shorter_retention_counts_at_once(
    kit: Kit, databases: Databases
) -> None:
    sweeper = sweeper_of(kit, databases)
    session = (await kit.store.create_session(ADA, new_session(retention=10 * DAY))).id
    kit.clock.advance(9 * DAY)
    await whole_turn(kit.store, ADA, "still here", session=session)
    kit.clock.advance(9 * DAY)
    assert await sweeper.sweep() == 0
    assert (await kit.store.get_session(ADA, session)).retention == 10 * DAY
    begun = await kit.store.begin_run(ADA, question(session=session, retention=DAY))
    await kit.store.append_events(ADA, begun.run.id, fencing_token=1, events=[finish(2)])
    assert (await kit.store.get_session(ADA, session)).retention == DAY
    kit.clock.advance(DAY + timedelta(seconds=1))
    assert await sweeper.sweep() == 1


async def test_a_session_with_a_run_that_is_not_finished_is_never_swept(
    kit: Kit, databases: Databases
) -> None:
    sweeper = sweeper_of(kit, databases)
    begun = await kit.store.begin_run(ADA, question(retention=DAY))
    kit.clock.advance(5 * DAY)
    assert await sweeper.sweep() == 0
    await kit.store.append_events(ADA, begun.run.id, fencing_token=1, events=[finish(2, RunState.CANCELLED)])
    kit.clock.advance(5 * DAY)
    assert await sweeper.sweep() == 1


async def test_two_sweepers_at_once_sweep_each_session_once(kit: Kit, databases: Databases) -> None:
    total = BATCH_SESSIONS + 30
    now_us = 1_000_000
    rows = [
        {
            "id": f"s{number}",
            "tenant": f"tenant{number % 3}",
            "owner": "ada",
            "team": "helpdesk",
            "display_name": "",
            "create_time_us": now_us,
            "update_time_us": now_us,
            "message_count": 0,
            "retention_us": 1,
            "sweep_time_us": now_us + 1,
        }
        for number in range(total)
    ]
    await kit.database.write(lambda c: c.execute(sa.insert(sessions), rows))
    name = "agentteams_session_swept_sessions_total"
    before = REGISTRY.get_sample_value(name) or 0.0
    one, two = sweeper_of(kit, databases), sweeper_of(kit, databases)
    swept = await asyncio.gather(one.sweep(), two.sweep())
    left = await one.sweep()  # what one of them skipped because the other one held it
    assert sum(swept) + left == total
    assert (REGISTRY.get_sample_value(name) or 0.0) - before == total
    assert await kit.database.read(lambda c: c.execute(sa.select(sessions.c.id)).all()) == []


class Failing:
    """A store that does not answer the first time."""

    def __init__(self) -> None:
        self.calls = 0
        self.answered = asyncio.Event()

    async def sweep(self, *, limit: int) -> tuple[int, int]:
        self.calls += 1
        if self.calls == 1:
            raise Unavailable("x", reason="DEPENDENCY_UNAVAILABLE")
        self.answered.set()
        return 0, 0


async def test_the_sweeper_waits_for_the_schema_and_survives_a_database_that_is_away() -> None:
    store = Failing()
    sweeper = Sweeper(store=store, interval=timedelta(milliseconds=1), pause=timedelta())
    task = asyncio.ensure_future(sweeper.run())
    await asyncio.sleep(0)
    assert store.calls == 0
    sweeper.begin()
    async with asyncio.timeout(10):
        await store.answered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# Erasure


async def erase(store: SqlSessionStore, owner: Owner) -> Erased:
    total = Erased()
    while (some := await store.erase_some(owner)) != Erased():
        total += some
    return total


async def test_erasing_deletes_all_of_one_user_and_nothing_of_others(kit: Kit) -> None:
    for owner in (ADA, BOB, EVE):
        for number in range(25):  # more than a batch
            await whole_turn(kit.store, owner, f"question {number}")
        await kit.store.add_memory(owner, memory("something"))
    erased = await erase(kit.store, ADA)
    assert erased == Erased(sessions=25, messages=50, runs=25, run_events=75, memories=1)
    for table in metadata.sorted_tables:
        if table.name not in OF_NAMESPACES:
            assert await count(kit, table, ADA) == 0
    for owner in (BOB, EVE):
        assert await count(kit, sessions, owner) == 25
        assert await count(kit, metadata.tables["run_events"], owner) == 75
        assert await count(kit, memories, owner) == 1
    assert await erase(kit.store, ADA) == Erased()


async def test_erasing_is_refused_while_a_run_is_not_finished(kit: Kit) -> None:
    await whole_turn(kit.store, ADA, "done")
    begun = await kit.store.begin_run(ADA, question())
    assert await reason_of(kit.store.erase_some(ADA)) == "SESSION_BUSY"
    assert await count(kit, sessions, ADA) == 2
    await kit.store.append_events(ADA, begun.run.id, fencing_token=1, events=[finish(2)])
    assert (await erase(kit.store, ADA)).sessions == 2


async def test_a_long_log_is_erased_in_bounded_steps(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("session.adapters.user_rows._ERASE_ROWS", 2)
    await whole_turn(kit.store, ADA, "three events")
    steps = []
    while (some := await kit.store.erase_some(ADA)) != Erased():
        steps.append((some.run_events, some.messages, some.sessions))
    assert steps == [(2, 0, 0), (1, 2, 0), (0, 0, 1)]


# Reading all


async def test_sessions_come_in_the_order_of_their_use(kit: Kit) -> None:
    made = []
    for number in range(3):
        made.append(await kit.store.create_session(ADA, new_session(name=str(number))))
        kit.clock.advance(DAY)
    page = await kit.store.sessions_by_use(ADA, after=None, limit=2)
    assert [s.id for s in page] == [made[0].id, made[1].id]
    await kit.store.begin_run(ADA, question(session=made[0].id))  # used meanwhile: it comes again
    rest = await kit.store.sessions_by_use(ADA, after=(page[1].update_time, page[1].id), limit=10)
    assert [s.id for s in rest] == [made[2].id, made[0].id]
    assert await kit.store.sessions_by_use(EVE, after=None, limit=10) == ()


async def test_runs_of_a_session_come_oldest_first(kit: Kit) -> None:
    session = (await whole_turn(kit.store, ADA, "one")).run.session
    made = []
    for text in ("two", "three"):
        kit.clock.advance(DAY)
        made.append((await whole_turn(kit.store, ADA, text, session=session)).run.id)
    await whole_turn(kit.store, ADA, "elsewhere")
    runs = await kit.store.runs_of_session(ADA, session, after=None, limit=10)
    assert [run.id for run in runs][1:] == made
    rest = await kit.store.runs_of_session(ADA, session, after=(runs[1].create_time, runs[1].id), limit=10)
    assert [run.id for run in rest] == made[1:]
    assert await kit.store.runs_of_session(BOB, session, after=None, limit=10) == ()


async def test_a_message_longer_than_before_is_copied_whole(kit: Kit) -> None:
    long = NewMessage(role=Role.USER, content="x" * 100_000)
    source = (await kit.store.begin_run(ADA, question("one", before=[long]))).run.session
    forked = await kit.store.fork_session(ADA, fork(source, 2))
    assert [len(m.content) for m in await all_messages(kit.store, ADA, forked.id)] == [100_000, 3]
