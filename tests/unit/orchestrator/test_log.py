"""The log of a run: stored before it is shown, without a gap, whatever the store does."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from orchestrator.core.log import LogUnavailable, RunLog
from orchestrator.core.model import Event, MemberStarted, RunFinished, StoredEvent, TextDelta
from orchestrator.core.totals import Summary, Usage
from servicekit.errors import Conflict, Internal
from tests.support.fake_store import DOWN, LEASE_LOST, FakeStore, stored
from tests.support.orchestrator_fakes import Bench, flat

pytestmark = pytest.mark.looptime

Item = Event | StoredEvent | TextDelta
END = RunFinished(state="SUCCEEDED", summary=Summary(usage=Usage(), seconds=1, stages=()))


def step(name: str) -> MemberStarted:
    return MemberStarted(call_id=name, task="t")


@pytest.fixture
def store(bench: Bench) -> FakeStore:
    return bench.store


@pytest.fixture
def log(bench: Bench) -> RunLog:
    return bench.run_log()


def sequences(store: FakeStore) -> list[int]:
    return [event.sequence for event in store.log.get("runs/r1", [])]


async def collect(items: AsyncIterator[Item], into: list[Item]) -> None:
    async for item in items:
        into.append(item)


async def test_an_event_is_shown_only_when_it_is_stored(store: FakeStore, log: RunLog) -> None:
    store.gate = asyncio.Event()
    seen: list[Item] = []
    async with asyncio.TaskGroup() as group:
        group.create_task(collect(flat(log.follow(0)), seen))
        log.emit(step("a"))
        group.create_task(log.flush())
        await store.appending.wait()
        await asyncio.sleep(1)
        assert seen == []
        store.gate.set()
        await asyncio.sleep(1)
        assert [item.sequence for item in seen if isinstance(item, StoredEvent)] == [2]
        log.emit(END)
    assert sequences(store) == [2, 3]


async def test_events_wait_for_company_and_not_longer(store: FakeStore, log: RunLog) -> None:
    for name in "abc":
        log.emit(step(name))
    await asyncio.sleep(0.19)
    assert store.batches == []
    await asyncio.sleep(0.02)
    assert store.batches == [3]
    log.emit(step("d"))
    await asyncio.sleep(0.3)
    assert (store.batches, sequences(store)) == ([3, 1], [2, 3, 4, 5])


async def test_what_comes_while_events_are_stored_follows_without_a_gap(
    store: FakeStore, log: RunLog
) -> None:
    store.gate = asyncio.Event()
    log.emit(step("a"))
    await store.appending.wait()
    for name in "bcd":
        log.emit(step(name))
        await asyncio.sleep(0.3)
    store.gate.set()
    await asyncio.sleep(1)
    assert sequences(store) == [2, 3, 4, 5]
    assert len(store.batches) == 2
    await log.close()


async def test_a_store_that_is_away_for_a_while_loses_nothing(store: FakeStore, log: RunLog) -> None:
    store.failing = DOWN
    log.emit(step("a"))
    await asyncio.sleep(5)
    log.emit(step("b"))
    assert log.published == []
    await asyncio.sleep(5)
    store.failing = None
    await asyncio.sleep(3)
    assert sequences(store) == [2, 3]
    assert [event.sequence for event in log.published] == [2, 3]


async def test_a_store_that_is_away_for_a_minute_ends_it(store: FakeStore, log: RunLog) -> None:
    store.failing = DOWN
    log.emit(step("a"))
    began = asyncio.get_running_loop().time()
    with pytest.raises(LogUnavailable):
        await log.flush()
    assert 55 <= asyncio.get_running_loop().time() - began <= 60
    # Back again, it must not get what comes after the gap.
    store.failing = None
    log.emit(step("b"))
    with pytest.raises(LogUnavailable):
        await log.flush()
    assert sequences(store) == []
    await log.close()


@pytest.mark.parametrize("error", [LEASE_LOST, ValueError("an event that cannot be written")])
async def test_a_refusal_stops_the_log_for_good(store: FakeStore, log: RunLog, error: Exception) -> None:
    store.failures.append(error)
    log.emit(step("a"))
    await asyncio.sleep(1)  # the lingering flush fails, and nobody is told yet
    log.emit(step("b"))
    with pytest.raises(type(error)):
        await log.flush()
    assert sequences(store) == []
    await log.close()


async def test_those_who_wait_behind_a_failing_flush_fail_too(store: FakeStore, log: RunLog) -> None:
    store.gate = asyncio.Event()
    store.failures.append(LEASE_LOST)
    log.emit(step("a"))
    first = asyncio.create_task(log.flush())
    await store.appending.wait()
    log.emit(step("b"))
    second = asyncio.create_task(log.flush())
    await asyncio.sleep(0)
    store.gate.set()
    await asyncio.wait([first, second])
    assert isinstance(first.exception(), Conflict)
    assert isinstance(second.exception(), Conflict)
    assert sequences(store) == []


async def test_a_run_that_its_own_process_takes_over_goes_on(store: FakeStore, log: RunLog) -> None:
    store.gate = asyncio.Event()
    log.emit(step("a"))
    flush = asyncio.create_task(log.flush())
    await store.appending.wait()
    store.tokens["runs/r1"] = 2
    log.own_again(2)
    store.gate.set()
    await flush
    assert sequences(store) == [2]


@pytest.mark.parametrize("stored_already", [False, True])
async def test_a_flush_that_is_cancelled_loses_nothing(
    store: FakeStore, log: RunLog, stored_already: bool
) -> None:
    if stored_already:
        store.lose_answer = True
    else:
        store.gate = asyncio.Event()
    log.emit(step("a"))
    flush = asyncio.create_task(log.flush())
    await store.appending.wait()
    flush.cancel()
    await asyncio.wait([flush])
    assert flush.cancelled()
    assert log.published == []
    store.gate = None
    log.emit(step("b"))
    await log.flush()
    assert sequences(store) == [2, 3]
    assert [event.sequence for event in log.published] == [2, 3]


async def test_a_late_follower_gets_the_text_so_far_as_one_piece(log: RunLog) -> None:
    text = log.begin_text("t1", member="analyst")
    for piece in ("Good", " morning", ", Ada"):
        log.grow(text, piece)
    items = flat(log.follow(0))
    assert await anext(items) == TextDelta(message="t1", offset=0, text="Good morning, Ada", member="analyst")
    log.grow(text, "!")
    assert await anext(items) == TextDelta(message="t1", offset=17, text="!", member="analyst")


async def test_the_first_piece_goes_out_at_once_and_the_others_in_lumps(log: RunLog) -> None:
    seen: list[Item] = []
    async with asyncio.TaskGroup() as group:
        group.create_task(collect(flat(log.follow(0)), seen))
        text = log.begin_text("t1", member="")
        await asyncio.sleep(0)
        log.grow(text, "a")
        await asyncio.sleep(0.001)
        assert [item.text for item in seen if isinstance(item, TextDelta)] == ["a"]
        for _ in range(10):
            log.grow(text, "b")
            await asyncio.sleep(0.003)
        assert len(seen) == 1
        await asyncio.sleep(0.02)
        assert [item.text for item in seen if isinstance(item, TextDelta)] == ["a", "b" * 10]
        log.grow(text, "c" * 400)
        await asyncio.sleep(0.001)
        assert len(seen) == 3
        log.emit(END)


async def test_a_text_that_begins_anew_has_offset_0(log: RunLog) -> None:
    text = log.begin_text("t1", member="")
    items = flat(log.follow(0))
    log.grow(text, "wrong")
    assert await anext(items) == TextDelta(message="t1", offset=0, text="wrong", member="")
    log.begin_anew(text)
    assert await anext(items) == TextDelta(message="t1", offset=0, text="", member="")
    log.grow(text, "right")
    assert await anext(items) == TextDelta(message="t1", offset=0, text="right", member="")


async def test_a_follower_that_joins_after_the_end_sees_all_of_it(log: RunLog) -> None:
    log.adopt([stored(1)])
    text = log.begin_text("t1", member="")
    log.grow(text, "done")
    log.emit(END)
    await log.flush()
    await log.close()
    assert log.finished
    items = [item async for item in flat(log.follow(0))]
    assert [type(item) for item in items] == [TextDelta, StoredEvent, StoredEvent]
    assert [i.sequence async for i in flat(log.follow(1)) if not isinstance(i, TextDelta)] == [2]


async def test_a_log_that_is_closed_before_the_end_says_so(log: RunLog) -> None:
    log.adopt([stored(1)])
    await log.close()
    items = flat(log.follow(0))
    assert await anext(items) == stored(1)
    with pytest.raises(LogUnavailable):
        await anext(items)


async def test_one_flush_at_most_waits_in_the_background(store: FakeStore, log: RunLog) -> None:
    store.failing = DOWN
    before = len(asyncio.all_tasks())
    for number in range(20):
        log.emit(step(str(number)))
        await asyncio.sleep(0.2)
    assert len(asyncio.all_tasks()) == before + 1
    store.failing = Internal("no", reason="INTERNAL")
    await asyncio.sleep(3)
    await log.close()
