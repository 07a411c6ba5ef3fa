"""Runs that wait, are interrupted, cancelled, lost and taken over: on SQLite and Postgres alike."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from agentteams.session.v1 import run_pb2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from servicekit.errors import Conflict, FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted
from servicekit.ids import new_id
from servicekit.testing import FakeClock
from session.adapters.store import SqlSessionStore
from session.core.model import (
    MAX_WAITING_RUNS,
    AcquiredRun,
    BegunRun,
    BusyPolicy,
    Lease,
    NewInput,
    NewMessage,
    Owner,
    Role,
    Run,
    RunState,
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
    asks,
    finish,
    kit,
    new_session,
    question,
    reason_of,
    step,
    whole_turn,
)
from tests.support.sessions import BACKENDS, databases, migrated_file, opened

__all__ = ["databases", "kit", "migrated_file"]

AT = Lease(owner="orchestrator-1", duration=timedelta(seconds=30), address="10.0.0.1:50054")
GIVEN_BACK = Lease(owner="orchestrator-1", duration=timedelta(0))
REJECT, ENQUEUE, INTERRUPT = BusyPolicy.REJECT, BusyPolicy.ENQUEUE, BusyPolicy.INTERRUPT


async def end(kit: Kit, run: AcquiredRun | BegunRun, text: str = "because") -> AcquiredRun | None:
    """Answers a run and ends it."""
    last = (await kit.store.get_run(ADA, run.run.id)).last_sequence
    done = await kit.store.append_events(
        ADA,
        run.run.id,
        fencing_token=run.fencing_token,
        events=[answer(last + 1, text), finish(last + 2)],
    )
    return done.next_run


async def texts(kit: Kit, session: str) -> list[str]:
    """The conversation; its numbers have no gap."""
    messages = await all_messages(kit.store, ADA, session)
    assert [m.sequence for m in messages] == list(range(1, len(messages) + 1))
    return [m.content for m in messages]


async def state(kit: Kit, run: str) -> RunState:
    return (await kit.store.get_run(ADA, run)).state


# The queue


async def test_a_question_of_a_busy_session_waits_and_begins_with_the_end_of_the_one_before(
    kit: Kit,
) -> None:
    first = await kit.store.begin_run(ADA, question("one", lease=AT))
    session = first.run.session
    kit.clock.advance(timedelta(seconds=1))
    second = await kit.store.begin_run(ADA, question("two", session=session, history=9, lease=OTHER))
    assert (second.created, second.fencing_token, second.history, second.started) == (True, 0, (), None)
    waiting = second.run
    assert (waiting.state, waiting.last_sequence, waiting.attempt) == (RunState.PENDING, 0, 0)
    assert waiting.owner_address == ""
    assert await kit.store.get_run(ADA, waiting.id) == waiting
    assert await all_events(kit.store, ADA, waiting.id) == ()
    assert await texts(kit, session) == ["one"]

    kit.clock.advance(timedelta(seconds=1))
    begun = await end(kit, first)
    assert begun is not None
    assert (begun.run.id, begun.fencing_token, begun.run.tenant) == (waiting.id, 1, "acme")
    # It has the lease of the run before it, not that of whoever asked.
    run = begun.run
    assert (run.state, run.attempt, run.owner_address) == (RunState.RUNNING, 1, "10.0.0.1:50054")
    assert [m.content for m in begun.history] == ["one", "because"]
    assert [(m.content, m.sequence, m.run) for m in begun.input] == [("two", 3, waiting.id)]
    assert await texts(kit, session) == ["one", "because", "two"]
    (event,) = await all_events(kit.store, ADA, waiting.id)
    started = run_pb2.RunEvent.FromString(event.payload).run_started
    assert started.team_revision == "r1"
    assert started.input_messages == [f"sessions/{session}/messages/3"]
    assert event.create_time == kit.clock.now()
    assert (await kit.store.renew_leases(None, [run.id], lease=LEASE)).lost == frozenset()
    assert (await kit.rows())["queued_messages"] == 0
    assert await end(kit, begun, "done") is None
    assert await texts(kit, session) == ["one", "because", "two", "done"]


async def test_the_queue_keeps_its_order_and_an_interruption_goes_before_all(kit: Kit) -> None:
    first = await kit.store.begin_run(ADA, question("first"))
    session = first.run.session
    for text, policy in (
        ("a", ENQUEUE),
        ("b", ENQUEUE),
        ("now", INTERRUPT),
        ("c", ENQUEUE),
        ("sooner", INTERRUPT),
    ):
        await kit.store.begin_run(ADA, question(text, session=session, on_busy=policy))
    assert (await kit.store.get_run(ADA, first.run.id)).cancel_requested
    assert await state(kit, first.run.id) is RunState.RUNNING
    current: AcquiredRun | BegunRun | None = first
    while current is not None:
        assert not current.run.cancel_requested
        current = await end(kit, current)
    asked = [text for text in await texts(kit, session) if text != "because"]
    assert asked == ["first", "sooner", "now", "a", "b", "c"]


async def test_an_interruption_reaches_the_owner_with_its_next_append_and_renewal(kit: Kit) -> None:
    first = await kit.store.begin_run(ADA, question())
    run = first.run
    before = await kit.store.append_events(ADA, run.id, fencing_token=1, events=[step(2)])
    assert not before.cancel_requested
    assert (await kit.store.renew_leases(None, [run.id], lease=LEASE)).cancelled == frozenset()
    await kit.store.begin_run(ADA, question("now", session=run.session, on_busy=INTERRUPT))
    for _ in range(2):  # the second one is a repetition
        after = await kit.store.append_events(ADA, run.id, fencing_token=1, events=[step(3)])
        assert after.cancel_requested
    assert (await kit.store.renew_leases(None, [run.id], lease=LEASE)).cancelled == {run.id}
    ended = await kit.store.append_events(
        ADA, run.id, fencing_token=1, events=[finish(4, RunState.CANCELLED)]
    )
    assert ended.next_run is not None
    assert ended.next_run.input[0].content == "now"
    assert not ended.next_run.run.cancel_requested


async def test_reject_refuses_while_a_run_works_or_waits(kit: Kit) -> None:
    first = await kit.store.begin_run(ADA, question())
    session = first.run.session
    refused = question(session=session, on_busy=REJECT)
    with pytest.raises(FailedPrecondition) as caught:
        await kit.store.begin_run(ADA, refused)
    assert (caught.value.reason, caught.value.metadata["run"]) == ("SESSION_BUSY", f"runs/{first.run.id}")
    assert caught.value.retry_after is not None
    await kit.store.append_events(ADA, first.run.id, fencing_token=1, events=[finish(2)])
    assert (await kit.store.begin_run(ADA, refused)).fencing_token == 1


async def test_a_full_queue_says_so_and_interrupts_nobody(kit: Kit) -> None:
    first = await kit.store.begin_run(ADA, question())
    session = first.run.session
    for n in range(MAX_WAITING_RUNS):
        await kit.store.begin_run(ADA, question(str(n), session=session))
    before = await kit.rows()
    for policy in (ENQUEUE, INTERRUPT):
        with pytest.raises(ResourceExhausted) as caught:
            await kit.store.begin_run(ADA, question("more", session=session, on_busy=policy))
        assert (caught.value.reason, caught.value.metadata["waiting"]) == ("SESSION_QUEUE_FULL", "16")
        assert caught.value.retry_after is not None
    assert await kit.rows() == before
    assert not (await kit.store.get_run(ADA, first.run.id)).cancel_requested
    await end(kit, first)
    assert (await kit.store.begin_run(ADA, question("more", session=session))).created


async def test_of_20_questions_at_once_one_begins_and_the_others_wait_in_order(kit: Kit) -> None:
    session = (await kit.store.create_session(ADA, new_session())).id
    results = await asyncio.gather(
        *(kit.store.begin_run(ADA, question(str(n), session=session)) for n in range(20)),
        return_exceptions=True,
    )
    begun = [r for r in results if isinstance(r, BegunRun)]
    (current,) = [one for one in begun if one.run.state is RunState.RUNNING]
    assert sum(one.run.state is RunState.PENDING for one in begun) == MAX_WAITING_RUNS
    refused = [r for r in results if isinstance(r, BaseException)]
    assert {getattr(error, "reason", error) for error in refused} == {"SESSION_QUEUE_FULL"}
    answered = [current.run.id]
    following = await end(kit, current)
    while following is not None:
        answered.append(following.run.id)
        following = await end(kit, following)
    assert sorted(answered) == sorted(one.run.id for one in begun)
    assert len(await texts(kit, session)) == 2 * (MAX_WAITING_RUNS + 1)


async def test_questions_that_meet_the_end_of_a_run_are_neither_lost_nor_doubled(kit: Kit) -> None:
    current: AcquiredRun | BegunRun | None = await kit.store.begin_run(ADA, question("0"))
    assert current is not None
    session = current.run.session
    for n in range(1, 9):
        assert current is not None
        asked, following = await asyncio.gather(
            kit.store.begin_run(ADA, question(str(n), session=session)), end(kit, current)
        )
        # One of the two has told its caller to work on it, at once.
        tokens = (asked.fencing_token, 0 if following is None else following.fencing_token)
        assert sorted(tokens) == [0, 1]
        current = following or asked
    assert [t for t in await texts(kit, session) if t != "because"] == [str(n) for n in range(9)]


async def test_answers_and_interruptions_never_wait_for_one_another_in_a_circle(kit: Kit) -> None:
    run = (await kit.store.begin_run(ADA, question())).run

    async def answers() -> None:
        for sequence in range(2, 42):
            await kit.store.append_events(ADA, run.id, fencing_token=1, events=[answer(sequence)])

    async def interruptions() -> None:
        for _ in range(30):
            asked = await kit.store.begin_run(ADA, question(session=run.session, on_busy=INTERRUPT))
            await kit.store.request_cancel(ADA, asked.run.id)

    # Postgres would undo one of two transactions that do: Unavailable.
    await asyncio.gather(answers(), interruptions(), interruptions(), interruptions())
    assert len(await texts(kit, run.session)) == 41


@pytest.mark.parametrize("policy", [ENQUEUE, INTERRUPT])
async def test_a_repeated_question_that_waits_is_the_same_run(kit: Kit, policy: BusyPolicy) -> None:
    first = await kit.store.begin_run(ADA, question())
    new = question("two", session=first.run.session, on_busy=policy)
    second = await kit.store.begin_run(ADA, new)
    before = await kit.rows()
    again = await kit.store.begin_run(ADA, new)
    assert again == BegunRun(run=second.run, created=False, fencing_token=0, history=())
    assert await kit.rows() == before
    await end(kit, first)
    # Who asked first is not told twice that the run is its own: next_run said so.
    assert (await kit.store.begin_run(ADA, new)).created is False


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


# Cancelling


async def test_a_run_that_waits_is_cancelled_at_once_and_leaves_no_message(kit: Kit) -> None:
    first = await kit.store.begin_run(ADA, question("one"))
    session = first.run.session
    second = await kit.store.begin_run(ADA, question("two", session=session))
    third = await kit.store.begin_run(ADA, question("three", session=session))
    kit.clock.advance(timedelta(seconds=2))
    cancelled = await kit.store.request_cancel(ADA, second.run.id)
    assert (cancelled.state, cancelled.last_sequence) == (RunState.CANCELLED, 2)
    assert (cancelled.end_time, cancelled.cancel_requested) == (kit.clock.now(), True)
    assert await kit.store.get_run(ADA, second.run.id) == cancelled
    summary = run_pb2.RunSummary.FromString(cancelled.summary)
    assert summary.duration.ToTimedelta() == timedelta(seconds=2)
    events = [run_pb2.RunEvent.FromString(e.payload) for e in await all_events(kit.store, ADA, second.run.id)]
    assert [e.sequence for e in events] == [1, 2]
    assert list(events[0].run_started.input_messages) == []
    assert events[1].run_finished.state == run_pb2.RUN_STATE_CANCELLED
    assert await kit.store.request_cancel(ADA, second.run.id) == cancelled  # safe to repeat
    following = await end(kit, first)
    assert following is not None
    assert following.run.id == third.run.id
    assert await texts(kit, session) == ["one", "because", "three"]
    assert (await kit.rows())["queued_messages"] == 0


async def test_a_running_run_is_asked_and_ends_by_its_owner(kit: Kit) -> None:
    run = (await kit.store.begin_run(ADA, question())).run
    for _ in range(2):
        asked = await kit.store.request_cancel(ADA, run.id)
        assert (asked.state, asked.cancel_requested) == (RunState.RUNNING, True)
    assert (await kit.store.renew_leases(None, [run.id], lease=LEASE)).cancelled == {run.id}
    kit.clock.advance(timedelta(seconds=31))
    (taken,) = await kit.store.acquire_expired_runs(lease=OTHER, limit=9)
    assert taken.run.cancel_requested  # a new owner knows at once
    await kit.store.append_events(ADA, run.id, fencing_token=2, events=[finish(2, RunState.CANCELLED)])
    assert (await kit.store.request_cancel(ADA, run.id)).state is RunState.CANCELLED


async def test_what_has_ended_or_is_anothers_cannot_be_cancelled(kit: Kit) -> None:
    done = await whole_turn(kit.store, ADA, "one")
    assert await reason_of(kit.store.request_cancel(ADA, done.run.id)) == "RUN_FINISHED"
    first = await kit.store.begin_run(ADA, question("two", session=done.run.session))
    second = await kit.store.begin_run(ADA, question("three", session=done.run.session))
    for stranger in (BOB, EVE):
        for run in (first.run.id, second.run.id, "nosuch"):
            assert await reason_of(kit.store.request_cancel(stranger, run)) == "RUN_NOT_FOUND"
    assert not (await kit.store.get_run(ADA, first.run.id)).cancel_requested
    assert await state(kit, second.run.id) is RunState.PENDING


async def test_a_session_with_runs_that_wait_is_busy_until_they_are_cancelled(kit: Kit) -> None:
    first = await kit.store.begin_run(ADA, question("one"))
    session = first.run.session
    second = await kit.store.begin_run(ADA, question("two", session=session))
    assert await reason_of(kit.store.delete_session(ADA, session)) == "SESSION_BUSY"
    following = await end(kit, first)
    assert following is not None
    third = await kit.store.begin_run(ADA, question("three", session=session))
    assert {
        run.id for run in await kit.store.list_runs(ADA, session=session, team="", before=None, limit=9)
    } == {
        first.run.id,
        second.run.id,
        third.run.id,
    }
    await kit.store.request_cancel(ADA, third.run.id)
    await end(kit, following)
    await kit.store.delete_session(ADA, session)
    assert not any((await kit.rows()).values())


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


# Everything at once

OPERATIONS = ["ask", "ask", "interrupt", "step", "finish", "cancel", "tick", "expire", "acquire", "give_back"]
OPERATIONS += ["park", "say"]


@dataclass(slots=True)
class World:
    """What the callers of a store know."""

    store: SqlSessionStore
    clock: FakeClock
    sessions: dict[Owner, list[str]] = field(default_factory=dict)
    held: dict[str, tuple[Owner, int]] = field(default_factory=dict)  # run -> whose, token
    asked: list[tuple[Owner, str]] = field(default_factory=list)

    def hold(self, owner: Owner, run: Run, token: int) -> None:
        """Somebody was told to work on a run."""
        assert (run.tenant, run.user) == (owner.tenant, owner.user)
        assert run.state is RunState.RUNNING
        self.held[run.id] = (owner, token)


async def ask(world: World, owner: Owner, pick: int, policy: BusyPolicy) -> None:
    known = world.sessions.setdefault(owner, [])
    session = known[pick % len(known)] if known and pick % 4 else ""
    begun = await world.store.begin_run(
        owner, question(f"{owner}", session=session, history=5, on_busy=policy)
    )
    if not session:
        known.append(begun.run.session)
    world.asked.append((owner, begun.run.id))
    assert all(m.content in (f"{owner}", "because") for m in begun.history)
    if begun.fencing_token:
        world.hold(owner, begun.run, begun.fencing_token)


async def work(world: World, pick: int, *, last: bool) -> None:
    if not world.held:
        return
    run = sorted(world.held)[pick % len(world.held)]
    owner, token = world.held[run]
    stored = (await world.store.get_run(owner, run)).last_sequence
    events = [answer(stored + 1), finish(stored + 2)] if last else [step(stored + 1)]
    done = await world.store.append_events(owner, run, fencing_token=token, events=events)
    if last:
        del world.held[run]
    if done.next_run is not None:
        assert all(m.content in (f"{owner}", "because") for m in done.next_run.history)
        world.hold(owner, done.next_run.run, done.next_run.fencing_token)


async def park(world: World, pick: int) -> None:
    if not world.held:
        return
    run = sorted(world.held)[pick % len(world.held)]
    owner, token = world.held[run]
    last = (await world.store.get_run(owner, run)).last_sequence
    until = world.clock.now() + timedelta(seconds=100 * pick)
    done = await world.store.append_events(
        owner, run, fencing_token=token, events=[asks(last + 1)], park_until=until
    )
    if done.parked:
        del world.held[run]
        assert not done.said
        assert not done.cancel_requested


async def acquire(world: World) -> None:
    for taken in await world.store.acquire_expired_runs(lease=LEASE, limit=50):
        owner = Owner(tenant=taken.run.tenant, user=taken.run.user)
        assert [m.content for m in taken.input] == [f"{owner}"]
        world.hold(owner, taken.run, taken.fencing_token)


async def play(world: World, script: Sequence[tuple[Owner, str, int]]) -> None:
    for owner, operation, pick in script:
        try:
            match operation:
                case "ask" | "interrupt":
                    await ask(world, owner, pick, INTERRUPT if operation == "interrupt" else ENQUEUE)
                case "step" | "finish":
                    await work(world, pick, last=operation == "finish")
                case "cancel" if world.asked:
                    whose, run = world.asked[pick % len(world.asked)]
                    await world.store.request_cancel(owner, run)
                    assert whose == owner
                case "park":
                    await park(world, pick)
                case "say" if world.asked:
                    whose, run = world.asked[pick % len(world.asked)]
                    said = NewInput(call_id="0.0", body=b"yes", user="ada")
                    await world.store.provide_input(owner, run, said, check=lambda _: None)
                    assert whose == owner
                    assert (await world.store.get_run(owner, run)).state is not RunState.WAITING
                case "tick":
                    world.clock.advance(timedelta(seconds=pick % 7))
                case "expire":
                    world.clock.advance(timedelta(seconds=95))
                case "acquire":
                    await acquire(world)
                case "give_back":
                    await world.store.renew_leases(None, sorted(world.held) or ["none"], lease=GIVEN_BACK)
        except (NotFound, FailedPrecondition, ResourceExhausted, Conflict, InvalidArgument):
            continue
        await check(world)


async def check(world: World) -> None:
    for owner, sessions in world.sessions.items():
        for session in sessions:
            runs = await world.store.list_runs(owner, session=session, team="", before=None, limit=200)
            assert sum(run.state in (RunState.RUNNING, RunState.WAITING) for run in runs) <= 1
            assert {(run.tenant, run.user) for run in runs} == {(owner.tenant, owner.user)}
            messages = await all_messages(world.store, owner, session)
            assert [m.sequence for m in messages] == list(range(1, len(messages) + 1))
            assert {m.content for m in messages} <= {f"{owner}", "because"}
            # A question and its answer stand together: the next one begins afterwards.
            answered = [m.run for m in messages]
            assert answered == [
                r for n, r in enumerate(answered) if n == 0 or r in (answered[n - 1], *answered[n:])
            ]
            for n, message in enumerate(messages):
                if message.role is Role.ASSISTANT:
                    assert messages[n - 1].run == message.run
            for run in runs:
                events = await all_events(world.store, owner, run.id)
                assert [e.sequence for e in events] == list(range(1, run.last_sequence + 1))


async def settle(world: World) -> None:
    """Whoever comes last finishes everything."""
    for _ in range(200):
        world.clock.advance(timedelta(seconds=95))
        await acquire(world)  # also what waits for a person, in the end
        for run in sorted(world.held):
            owner, token = world.held.pop(run)
            last = (await world.store.get_run(owner, run)).last_sequence
            try:
                done = await world.store.append_events(
                    owner, run, fencing_token=token, events=[answer(last + 1), finish(last + 2)]
                )
            except (Conflict, FailedPrecondition):
                continue
            if done.next_run is not None:
                world.hold(owner, done.next_run.run, done.next_run.fencing_token)
        states = [(await world.store.get_run(owner, run)).state for owner, run in world.asked]
        if all(one.terminal for one in states):
            return
    pytest.fail("not every run has ended")


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    script=st.lists(
        st.tuples(st.sampled_from([ADA, BOB, EVE]), st.sampled_from(OPERATIONS), st.integers(0, 50)),
        min_size=15,
        max_size=40,
    )
)
def test_whatever_happens_one_runs_nothing_is_lost_and_all_ends(
    script: list[tuple[Owner, str, int]], tmp_path_factory: pytest.TempPathFactory, migrated_file: Path
) -> None:
    async def run() -> None:
        path = tmp_path_factory.mktemp("random") / "session.db"
        for backend in BACKENDS:
            async with opened(backend, file=path, template=migrated_file) as databases:
                clock = FakeClock()
                store = SqlSessionStore(database=databases.plain, clock=clock, new_id=new_id)
                world = World(store=store, clock=clock)
                await play(world, script)
                await settle(world)
                await check(world)

    asyncio.run(run())
