"""Runs that wait, are interrupted and cancelled: on SQLite and Postgres alike."""

import asyncio
from datetime import timedelta

import pytest
from agentteams.session.v1 import run_pb2

from servicekit.errors import FailedPrecondition, ResourceExhausted
from session.core.model import MAX_WAITING_RUNS, AcquiredRun, BegunRun, BusyPolicy, RunState
from tests.support.session_runs import AT, ENQUEUE, INTERRUPT, REJECT, end, state, texts
from tests.support.session_store import (
    ADA,
    BOB,
    EVE,
    LEASE,
    OTHER,
    Kit,
    all_events,
    answer,
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
