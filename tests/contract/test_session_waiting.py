"""Runs that wait for a person: on SQLite and Postgres alike."""

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from servicekit.errors import AlreadyExists, Conflict, FailedPrecondition, InvalidArgument, NotFound
from session.core.model import BegunRun, BusyPolicy, NewInput, Run, RunState
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
    question,
    reason_of,
    step,
    told,
)
from tests.support.sessions import databases, migrated_file

__all__ = ["databases", "kit", "migrated_file"]

HOUR = timedelta(hours=1)
WAITING, RUNNING, PENDING = RunState.WAITING, RunState.RUNNING, RunState.PENDING


def says(text: str = "yes", call_id: str = "0.0", user: str = "ada") -> NewInput:
    return NewInput(call_id=call_id, body=text.encode(), user=user)


def any_answer(_request: bytes) -> None:
    """Every input answers."""


async def provide(kit: Kit, run: str, new: NewInput) -> Run:
    return await kit.store.provide_input(ADA, run, new, check=any_answer)


async def parked(kit: Kit, text: str = "one", until: datetime | None = None, session: str = "") -> BegunRun:
    """A run that asks about the call 0.0 and waits, for an hour unless said otherwise."""
    begun = await kit.store.begin_run(ADA, question(text, session=session, history=9))
    done = await kit.store.append_events(
        ADA, begun.run.id, fencing_token=1, events=[asks(2)], park_until=until or kit.clock.now() + HOUR
    )
    assert done.parked
    return begun


async def test_a_run_that_asks_waits_without_an_owner_and_goes_on_when_it_is_answered(kit: Kit) -> None:
    begun = await kit.store.begin_run(ADA, question("one", history=9, answer_schema=b"\x0a\x00"))
    run, until = begun.run.id, kit.clock.now() + HOUR
    done = await kit.store.append_events(
        ADA, run, fencing_token=1, events=[step(2), asks(3)], park_until=until
    )
    assert (done.last_sequence, done.parked, done.said) == (3, True, ())
    waiting = await kit.store.get_run(ADA, run)
    assert (waiting.state, waiting.owner_address, waiting.wait_expire_time) == (WAITING, "", until)
    # Nobody's: not to renew, not to append to, not to take over.
    assert (await kit.store.renew_leases(None, [run], lease=LEASE)).lost == {run}
    with pytest.raises(Conflict):
        await kit.store.append_events(ADA, run, fencing_token=1, events=[step(4)])
    kit.clock.advance(HOUR - timedelta(seconds=1))
    assert await kit.store.acquire_expired_runs(lease=OTHER, limit=9) == ()

    woken = await provide(kit, run, says("yes"))
    assert (woken.state, woken.wait_expire_time, woken.owner_address) == (RUNNING, None, "")
    said_at = kit.clock.now()
    with pytest.raises(Conflict):  # whoever parked it has its token no longer
        await kit.store.append_events(ADA, run, fencing_token=1, events=[step(4)])
    (taken,) = await kit.store.acquire_expired_runs(lease=OTHER, limit=9)
    assert (taken.run.id, taken.run.attempt, taken.run.lost_attempts) == (run, 2, 0)
    assert [(one.body, one.user, one.create_time) for one in taken.said] == [(b"yes", "ada", said_at)]
    assert taken.answer_schema == b"\x0a\x00"
    assert [m.content for m in taken.input] == ["one"]
    # Said again until the log holds it.
    token = taken.fencing_token
    assert (await kit.store.renew_leases(None, [run], lease=OTHER)).said == {run: taken.said}
    assert (await kit.store.append_events(ADA, run, fencing_token=token, events=[step(4)])).said == taken.said
    for _ in range(2):
        done = await kit.store.append_events(ADA, run, fencing_token=token, events=[told(5)])
        assert done.said == ()
    assert (await kit.store.renew_leases(None, [run], lease=OTHER)).said == {}
    ended = await kit.store.append_events(ADA, run, fencing_token=token, events=[answer(6), finish(7)])
    assert ended.next_run is None
    assert [m.content for m in await all_messages(kit.store, ADA, begun.run.session)] == ["one", "because"]


async def test_an_answer_before_the_run_could_wait_keeps_it_running(kit: Kit) -> None:
    run = (await kit.store.begin_run(ADA, question())).run.id
    await kit.store.append_events(ADA, run, fencing_token=1, events=[asks(2), asks(3, "0.1")])
    assert (await provide(kit, run, says("no", "0.1"))).state is RUNNING
    until = kit.clock.now() + HOUR
    done = await kit.store.append_events(ADA, run, fencing_token=1, events=[step(4)], park_until=until)
    assert (done.parked, [one.body for one in done.said]) == (False, [b"no"])
    # The same again, as after a lost answer.
    again = await kit.store.append_events(ADA, run, fencing_token=1, events=[step(4)], park_until=until)
    assert again == done
    # With that in the log it waits for the other one.
    events = [told(5, "0.1")]
    done = await kit.store.append_events(ADA, run, fencing_token=1, events=events, park_until=until)
    assert (done.parked, done.said) == (True, ())
    again = await kit.store.append_events(ADA, run, fencing_token=1, events=events, park_until=until)
    assert again == done


async def test_answers_that_meet_the_parking_are_never_left_beside_a_run_that_waits(kit: Kit) -> None:
    for _ in range(8):
        run = (await kit.store.begin_run(ADA, question())).run.id
        await kit.store.append_events(ADA, run, fencing_token=1, events=[asks(2)])
        done, _said = await asyncio.gather(
            kit.store.append_events(
                ADA, run, fencing_token=1, events=[step(3)], park_until=kit.clock.now() + HOUR
            ),
            provide(kit, run, says()),
        )
        assert (await kit.store.get_run(ADA, run)).state is RUNNING
        if done.parked:
            (taken,) = await kit.store.acquire_expired_runs(lease=OTHER, limit=9)
            assert [one.body for one in taken.said] == [b"yes"]
            continue
        renewed = await kit.store.renew_leases(None, [run], lease=LEASE)
        assert [one.body for one in renewed.said[run]] == [b"yes"]


async def test_a_run_that_asks_nobody_cannot_wait(kit: Kit) -> None:
    run = (await kit.store.begin_run(ADA, question())).run.id
    until = kit.clock.now() + HOUR
    append = kit.store.append_events
    with pytest.raises(InvalidArgument) as caught:
        await append(ADA, run, fencing_token=1, events=[step(2)], park_until=until)
    assert [v.field for v in caught.value.violations] == ["park_until"]
    assert len(await all_events(kit.store, ADA, run)) == 1  # all or none
    await append(ADA, run, fencing_token=1, events=[asks(2), told(3)])
    assert await reason_of(append(ADA, run, fencing_token=1, events=[step(4)], park_until=until)) == (
        "INVALID_FIELD"
    )


async def test_what_was_said_cannot_be_changed_and_the_same_again_changes_nothing(kit: Kit) -> None:
    begun = await parked(kit)
    run = begun.run.id
    first = await provide(kit, run, says("yes"))
    assert await provide(kit, run, says("yes", user="bea")) == first
    with pytest.raises(AlreadyExists) as caught:
        await provide(kit, run, says("no"))
    assert (caught.value.reason, caught.value.metadata["call_id"]) == ("INPUT_PROVIDED", "0.0")
    (taken,) = await kit.store.acquire_expired_runs(lease=OTHER, limit=9)
    assert [(one.body, one.user) for one in taken.said] == [(b"yes", "ada")]
    await kit.store.append_events(
        ADA, run, fencing_token=taken.fencing_token, events=[told(3), answer(4), finish(5)]
    )
    assert (await provide(kit, run, says("yes"))).state is RunState.SUCCEEDED
    assert await reason_of(provide(kit, run, says("no"))) == "INPUT_PROVIDED"
    assert await reason_of(provide(kit, run, says("yes", "0.1"))) == "RUN_FINISHED"


async def test_nothing_is_taken_that_was_not_asked_for_or_not_any_more(kit: Kit) -> None:
    run = (await kit.store.begin_run(ADA, question())).run.id
    soon = kit.clock.now() + timedelta(seconds=5)
    events = [asks(2, "a", soon), asks(3, "b"), told(4, "b")]
    await kit.store.append_events(ADA, run, fencing_token=1, events=events)
    kit.clock.advance(timedelta(seconds=5))
    for call in ("a", "b", "c"):
        with pytest.raises(InvalidArgument) as caught:
            await provide(kit, run, says(call_id=call))
        assert (caught.value.reason, caught.value.metadata["call_id"]) == ("INPUT_NOT_REQUESTED", call)
    second = await kit.store.begin_run(ADA, question(session=(await kit.store.get_run(ADA, run)).session))
    assert second.run.state is PENDING
    assert await reason_of(provide(kit, second.run.id, says())) == "INPUT_NOT_REQUESTED"
    for stranger in (BOB, EVE):
        with pytest.raises(NotFound):
            await kit.store.provide_input(stranger, run, says(call_id="a"), check=any_answer)


async def test_an_input_that_does_not_answer_leaves_the_run_waiting(kit: Kit) -> None:
    run = (await parked(kit)).run.id
    seen: list[bytes] = []

    def refuse(request: bytes) -> None:
        seen.append(request)
        raise InvalidArgument.field("input", "is no answer")

    assert await reason_of(kit.store.provide_input(ADA, run, says(), check=refuse)) == "INVALID_FIELD"
    assert seen == [b"may 0.0?"]
    assert (await kit.store.get_run(ADA, run)).state is WAITING
    assert (await provide(kit, run, says())).state is RUNNING


async def test_a_wait_ends_by_itself(kit: Kit) -> None:
    late = (await parked(kit, until=kit.clock.now() + 2 * HOUR)).run.id
    early = (await parked(kit)).run.id
    kit.clock.advance(HOUR)
    (taken,) = await kit.store.acquire_expired_runs(lease=OTHER, limit=9)
    assert (taken.run.id, taken.run.state, taken.said) == (early, RUNNING, ())
    assert (taken.run.wait_expire_time, taken.run.lost_attempts) == (None, 0)
    assert (await kit.store.get_run(ADA, late)).state is WAITING


async def test_waits_that_end_at_once_are_taken_over_by_one_each(kit: Kit) -> None:
    runs = {(await parked(kit)).run.id for _ in range(9)}
    kit.clock.advance(HOUR)
    leases = [replace(LEASE, owner=f"o{n}") for n in range(4)]
    rounds = await asyncio.gather(*(kit.store.acquire_expired_runs(lease=one, limit=9) for one in leases))
    taken = [one.run.id for some in rounds for one in some]
    assert sorted(taken) == sorted(set(taken))
    rest = await kit.store.acquire_expired_runs(lease=OTHER, limit=9)
    assert {*taken, *(one.run.id for one in rest)} == runs


async def test_a_run_that_waits_keeps_its_place_in_the_session(kit: Kit) -> None:
    first = await parked(kit)
    session = first.run.session
    second = await kit.store.begin_run(ADA, question("two", session=session))
    assert second.run.state is PENDING
    refused = question("three", session=session, on_busy=BusyPolicy.REJECT)
    with pytest.raises(FailedPrecondition) as caught:
        await kit.store.begin_run(ADA, refused)
    assert caught.value.metadata["run"] == f"runs/{first.run.id}"
    assert await kit.store.acquire_expired_runs(lease=OTHER, limit=9) == ()  # the queue does not move
    assert await reason_of(kit.store.delete_session(ADA, session)) == "SESSION_BUSY"
    await provide(kit, first.run.id, says())
    (taken,) = await kit.store.acquire_expired_runs(lease=OTHER, limit=9)
    done = await kit.store.append_events(
        ADA, first.run.id, fencing_token=taken.fencing_token, events=[told(3), answer(4), finish(5)]
    )
    assert done.next_run is not None
    assert done.next_run.run.id == second.run.id


@pytest.mark.parametrize("how", ["cancel", "interrupt"])
async def test_a_run_that_waits_is_woken_to_be_cancelled(kit: Kit, how: str) -> None:
    first = await parked(kit)
    if how == "cancel":
        run = await kit.store.request_cancel(ADA, first.run.id)
    else:
        new = question("now", session=first.run.session, on_busy=BusyPolicy.INTERRUPT)
        assert (await kit.store.begin_run(ADA, new)).run.state is PENDING
        run = await kit.store.get_run(ADA, first.run.id)
    assert (run.state, run.cancel_requested, run.wait_expire_time) == (RUNNING, True, None)
    (taken,) = await kit.store.acquire_expired_runs(lease=OTHER, limit=9)
    assert (taken.run.cancel_requested, taken.run.lost_attempts) == (True, 0)
    done = await kit.store.append_events(
        ADA, first.run.id, fencing_token=taken.fencing_token, events=[finish(3, RunState.CANCELLED)]
    )
    assert (done.next_run is not None) == (how == "interrupt")


async def test_a_run_that_was_asked_to_stop_does_not_begin_to_wait(kit: Kit) -> None:
    run = (await kit.store.begin_run(ADA, question())).run.id
    await kit.store.request_cancel(ADA, run)
    done = await kit.store.append_events(
        ADA, run, fencing_token=1, events=[asks(2)], park_until=kit.clock.now() + HOUR
    )
    assert (done.parked, done.cancel_requested) == (False, True)
    assert (await kit.store.get_run(ADA, run)).state is RUNNING


async def test_runs_are_listed_by_state(kit: Kit) -> None:
    waits = await parked(kit)
    queued = await kit.store.begin_run(ADA, question(session=waits.run.session))
    works = await kit.store.begin_run(ADA, question())
    for state, run in ((WAITING, waits), (PENDING, queued), (RUNNING, works)):
        listed = await kit.store.list_runs(ADA, session="", team="", before=None, limit=9, state=state)
        assert [one.id for one in listed] == [run.run.id]
        of_bob = await kit.store.list_runs(BOB, session="", team="", before=None, limit=9, state=state)
        assert of_bob == ()


async def test_what_is_asked_and_said_goes_with_the_session(kit: Kit) -> None:
    begun = await parked(kit)
    assert (await kit.rows())["run_inputs"] == 1
    await kit.store.request_cancel(ADA, begun.run.id)
    (taken,) = await kit.store.acquire_expired_runs(lease=OTHER, limit=9)
    await kit.store.append_events(ADA, begun.run.id, fencing_token=taken.fencing_token, events=[finish(3)])
    while (await kit.store.erase_some(ADA)).sessions:
        pass
    assert not any((await kit.rows()).values())
