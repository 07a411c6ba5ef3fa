"""Runs of several owners at random: whatever happens, the rules of the store hold."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from servicekit.errors import Conflict, FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted
from servicekit.ids import new_id
from servicekit.testing import FakeClock
from session.adapters.store import SqlSessionStore
from session.core.model import BusyPolicy, NewInput, Owner, Role, Run, RunState
from tests.support.session_runs import ENQUEUE, GIVEN_BACK, INTERRUPT
from tests.support.session_store import (
    ADA,
    BOB,
    EVE,
    LEASE,
    all_events,
    all_messages,
    answer,
    asks,
    finish,
    question,
    step,
)
from tests.support.sessions import BACKENDS, migrated_file, opened

__all__ = ["migrated_file"]

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
