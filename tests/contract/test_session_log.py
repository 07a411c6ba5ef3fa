"""Runs, their logs and leases in the session store: on SQLite and Postgres alike."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
from agentteams.session.v1 import run_pb2

from servicekit.errors import Conflict, FailedPrecondition, InvalidArgument
from session.core.model import BegunRun, Lease, NewMessage, Role, Run, RunState
from tests.contract.test_session_store import EMPTY
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
from tests.support.sessions import databases, migrated_file

__all__ = ["databases", "kit", "migrated_file"]

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
