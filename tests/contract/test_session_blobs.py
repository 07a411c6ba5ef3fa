"""Large contents: out of their rows, back when they are read, gone with their session."""

import random
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from servicekit.ids import new_id
from session.adapters.access import Bypass
from session.adapters.blobs import OFFLOAD_BYTES, PART_BYTES, BlobDamaged, BlobMissing
from session.adapters.database import PoolLimits, open_database
from session.adapters.retention import SqlRetentionStore
from session.adapters.store import SqlSessionStore
from session.adapters.tables import blobs, messages, queued_messages, run_events
from session.core.model import Event, NewEvent, NewMessage, Owner, Role
from session.core.pages import PAGE_BYTES
from session.core.user_data import Erased, NewFork
from tests.support.session_store import (
    ADA,
    BOB,
    EVE,
    OTHER,
    Kit,
    all_events,
    all_messages,
    answer,
    finish,
    kit,
    question,
    reason_of,
    step,
    whole_turn,
)
from tests.support.sessions import Databases, databases, migrated_file

__all__ = ["databases", "kit", "migrated_file"]

_random = random.Random(5)
LARGE = "Ω and more. " * 30_000  # 390 kB
NOISE = _random.randbytes(700_000)  # does not shrink; three parts


def result(sequence: int, payload: bytes = NOISE) -> NewEvent:
    """A tool's large result."""
    event: Event = step(sequence, "tool_call_finished").event
    return NewEvent(event=replace(event, payload=payload))


async def stored(kit: Kit, owner: Owner = ADA, session: str = "") -> str:
    """A finished run with a large question, result and answer; the run's id."""
    begun = await kit.store.begin_run(owner, question(LARGE, session=session))
    events = [result(2), answer(3, LARGE + "!"), finish(4)]
    await kit.store.append_events(owner, begun.run.id, fencing_token=1, events=events)
    return begun.run.id


async def parts(kit: Kit) -> list[Any]:
    """(session, owner, digest, size) of each part, whoever owns it."""
    query = sa.select(blobs.c.session_id, blobs.c.owner, blobs.c.digest, sa.func.length(blobs.c.data))
    return list(await kit.database.read(lambda c: c.execute(query).all()))


async def longest(kit: Kit, column: sa.Column[Any]) -> int:
    """How much the longest value has."""
    query = sa.select(sa.func.max(sa.func.length(column)))
    return int(await kit.database.read(lambda c: c.execute(query).scalar()) or 0)


async def test_what_is_large_comes_back_as_it_was_and_no_row_holds_it(kit: Kit) -> None:
    run = await kit.store.get_run(ADA, await stored(kit))
    found = await all_messages(kit.store, ADA, run.session)
    assert [m.content for m in found] == [LARGE, LARGE + "!"]
    assert [m.citations for m in found] == [b"", b"cites"]
    log = await all_events(kit.store, ADA, run.id)
    assert [e.payload for e in log[1:]] == [NOISE, b"step 3", b"step 4"]
    for column in (messages.c.content, messages.c.citations, run_events.c.payload):
        assert await longest(kit, column) < 1_000
    assert await longest(kit, blobs.c.data) == PART_BYTES
    kept = await parts(kit)
    assert len(kept) == 2 * 2 + 3  # two texts in two parts each, compressed; the noise in three
    assert sum(size for *_, size in kept) < len(NOISE) + 20_000


@pytest.mark.parametrize(("size", "rows"), [(OFFLOAD_BYTES, 0), (OFFLOAD_BYTES + 1, 1)])
async def test_the_limit_is_64_kib_of_payload(kit: Kit, size: int, rows: int) -> None:
    begun = await kit.store.begin_run(ADA, question())
    payload = b"x" * size
    await kit.store.append_events(ADA, begun.run.id, fencing_token=1, events=[result(2, payload)])
    assert len(await parts(kit)) == rows
    assert (await all_events(kit.store, ADA, begun.run.id))[1].payload == payload


async def test_long_citations_leave_their_row_too(kit: Kit) -> None:
    begun = await kit.store.begin_run(ADA, question())
    said = NewEvent(
        event=step(2, "message_completed", "").event,
        answer=NewMessage(role=Role.ASSISTANT, content="short", citations=NOISE),
    )
    await kit.store.append_events(ADA, begun.run.id, fencing_token=1, events=[said])
    found = await all_messages(kit.store, ADA, begun.run.session)
    assert (found[1].content, found[1].citations) == ("short", NOISE)
    assert await longest(kit, messages.c.citations) == 0


async def test_who_begins_or_takes_over_gets_texts_whole(kit: Kit) -> None:
    run = await kit.store.get_run(ADA, await stored(kit))
    new = question(LARGE + "?", session=run.session, history=10)
    begun = await kit.store.begin_run(ADA, new)
    assert [m.content for m in begun.history] == [LARGE, LARGE + "!"]
    again = await kit.store.begin_run(ADA, new)
    assert again.created
    assert again.history == begun.history
    kit.clock.advance(timedelta(minutes=5))
    (taken,) = await kit.store.acquire_expired_runs(lease=OTHER, limit=5)
    assert taken.history == begun.history
    assert [m.content for m in taken.input] == [LARGE + "?"]


async def test_a_large_question_that_waits_gets_its_place_or_leaves_nothing(kit: Kit) -> None:
    first = await kit.store.begin_run(ADA, question())
    session = first.run.session
    waits = await kit.store.begin_run(ADA, question(LARGE, session=session))
    cancelled = await kit.store.begin_run(ADA, question(LARGE + "2", session=session))
    assert await parts(kit) == []
    await kit.store.request_cancel(ADA, cancelled.run.id)
    ended = await kit.store.append_events(ADA, first.run.id, fencing_token=1, events=[finish(2)])
    assert ended.next_run is not None
    assert ended.next_run.run.id == waits.run.id
    assert [m.content for m in ended.next_run.input] == [LARGE]
    assert len(await parts(kit)) == 2
    assert await longest(kit, queued_messages.c.content) == 0


async def test_equal_contents_are_stored_once_a_session_and_shared_with_nobody(kit: Kit) -> None:
    run = await kit.store.get_run(ADA, await stored(kit))
    once = await parts(kit)
    await stored(kit, session=run.session)
    assert await parts(kit) == once
    await stored(kit, BOB)
    assert sorted({owner for _, owner, *_ in await parts(kit)}) == ["ada", "bob"]
    assert len(await parts(kit)) == 2 * len(once)


async def test_a_repeated_append_stores_nothing_twice_and_a_late_one_nothing(kit: Kit) -> None:
    begun = await kit.store.begin_run(ADA, question())
    for _ in range(2):
        await kit.store.append_events(ADA, begun.run.id, fencing_token=1, events=[result(2)])
    assert len(await parts(kit)) == 3
    late = [result(3, NOISE[::-1])]
    append = kit.store.append_events(ADA, begun.run.id, fencing_token=7, events=late)
    assert await reason_of(append) == "LEASE_LOST"
    assert len(await parts(kit)) == 3


async def test_deleting_sweeping_and_erasing_leave_no_blob(kit: Kit, databases: Databases) -> None:
    await stored(kit, EVE)
    others = await parts(kit)
    run = await kit.store.get_run(ADA, await stored(kit))
    await kit.store.delete_session(ADA, run.session)
    assert await parts(kit) == others

    begun = await kit.store.begin_run(ADA, question(LARGE, retention=timedelta(days=1)))
    await kit.store.append_events(ADA, begun.run.id, fencing_token=1, events=[result(2), finish(3)])
    kit.clock.advance(timedelta(days=2))
    assert await SqlRetentionStore(database=databases.plain, clock=kit.clock).sweep(limit=9) == (1, 1)
    assert await parts(kit) == others

    await stored(kit)
    await stored(kit)
    while await kit.store.erase_some(ADA) != Erased():
        pass
    assert await parts(kit) == others


async def test_erasing_much_takes_many_transactions_and_no_reader_meets_a_text_without_its_content(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("session.adapters.user_rows._ERASE_PARTS", 2)
    monkeypatch.setattr("session.adapters.user_rows._ERASE_ROWS", 3)
    run = await kit.store.get_run(ADA, await stored(kit))
    steps = 0
    while await kit.store.erase_some(ADA) != Erased():
        steps += 1
        if await kit.store.list_sessions(ADA, team="", before=None, limit=1):
            for message in await all_messages(kit.store, ADA, run.session):
                assert message.content in (LARGE, LARGE + "!")
            for event in await all_events(kit.store, ADA, run.id):
                assert event.payload
    assert steps >= 5  # four events, two messages, seven parts
    assert await parts(kit) == []


async def test_a_fork_has_the_blobs_of_its_beginning_and_keeps_them(kit: Kit) -> None:
    run = await kit.store.get_run(ADA, await stored(kit))
    new = NewFork(request_id=new_id(), body_hash=b"", session=run.session, sequence=1, display_name="")
    fork = await kit.store.fork_session(ADA, new)
    copied = [part for part in await parts(kit) if part[0] == fork.id]
    assert len(copied) == 2  # the question's, not the answer's nor the tool's
    await kit.store.delete_session(ADA, run.session)
    assert [m.content for m in await all_messages(kit.store, ADA, fork.id)] == [LARGE]
    assert await parts(kit) == copied


async def test_a_page_reads_no_more_than_fits(kit: Kit) -> None:
    begun = await kit.store.begin_run(ADA, question())
    run, session = begun.run.id, begun.run.session
    half = 4 * 1024 * 1024
    for n in range(2, 6):
        text = str(n) * half
        said = replace(answer(n, text), event=result(n, text.encode()).event)
        await kit.store.append_events(ADA, run, fencing_token=1, events=[said])
    page = await kit.store.list_messages(ADA, session, after_sequence=0, limit=200)
    assert ([m.sequence for m in page.items], page.more) == ([1, 2], True)
    page = await kit.store.list_messages(ADA, session, after_sequence=4, limit=200)
    assert ([m.sequence for m in page.items], page.more) == ([5], False)
    log = await kit.store.list_run_events(ADA, run, after_sequence=1, limit=500)
    assert [e.sequence for e in log] == [2]
    assert sum(len(e.payload) for e in log) <= PAGE_BYTES
    again = await kit.store.list_run_events(ADA, run, after_sequence=5, limit=500)
    assert again == ()


async def test_a_content_that_is_gone_or_damaged_is_an_error_and_no_empty_text(kit: Kit) -> None:
    run = await kit.store.get_run(ADA, await stored(kit))
    spoil = sa.update(blobs).where(blobs.c.compressed).values(data=b"nonsense")
    await kit.database.write(lambda c: c.execute(spoil))
    with pytest.raises(BlobDamaged):
        await all_messages(kit.store, ADA, run.session)
    cut = sa.delete(blobs).where(blobs.c.part == 1)
    await kit.database.write(lambda c: c.execute(cut))
    with pytest.raises(BlobDamaged):
        await all_events(kit.store, ADA, run.id)
    await kit.database.write(lambda c: c.execute(sa.delete(blobs)))
    with pytest.raises(BlobMissing):
        await all_events(kit.store, ADA, run.id)
    with pytest.raises(BlobMissing):
        await kit.store.begin_run(ADA, question(session=run.session, history=10))


async def test_only_owners_and_who_takes_over_see_blobs(kit: Kit, databases: Databases) -> None:
    if databases.plain is databases.admin:
        return  # SQLite has no second lock
    for owner in (ADA, BOB):
        await stored(kit, owner)
    seen = sa.select(blobs.c.owner).distinct()

    async def owners(access: Owner | Bypass | None) -> set[str]:
        return set(await databases.plain.read(lambda c: c.execute(seen).scalars().all(), access))

    assert await owners(ADA) == {"ada"}
    assert await owners(EVE) == set()
    assert await owners(None) == set()
    assert await owners(Bypass.RETENTION) == set()
    assert await owners(Bypass.LEASES) == {"ada", "bob"}
    gone = await databases.plain.write(lambda c: c.execute(sa.delete(blobs)).rowcount, Bypass.LEASES)
    assert gone == 0


async def test_with_0_nothing_leaves_its_row(kit: Kit, databases: Databases) -> None:
    """As during a roll-out, while code before schema 0005 runs beside this one."""
    if databases.plain is not databases.admin:
        return  # the option is the same on both; one is enough
    engine = databases.plain._reading.engine  # type: ignore[attr-defined]
    whole = open_database(str(engine.url), PoolLimits(connections=1), offload_bytes=0)
    store = SqlSessionStore(database=whole, clock=kit.clock, new_id=new_id)
    begun = await whole_turn(store, ADA, LARGE)
    await whole.close()
    assert await parts(kit) == []
    found = await all_messages(kit.store, ADA, begun.run.session)
    assert [m.content for m in found] == [LARGE, f"re: {LARGE}"]
