"""How many calls of a model may be made, how fast, and when none: in the order in which they came."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from orchestrator.core.gate import Gate, Gates
from orchestrator.core.pace import Breaker, BreakerState, Bucket
from servicekit.errors import FailedPrecondition, Internal, ResourceExhausted, ServiceError, Unavailable
from tests.support.orchestrator_fakes import model_config

pytestmark = pytest.mark.looptime

DOWN = Unavailable("it broke", reason="MODEL_UNAVAILABLE")
FOREVER = float("inf")


def gate(**limits: Any) -> Gate:
    return Gate(model_config(**limits), label="default/chat")


def now() -> float:
    return asyncio.get_running_loop().time()


async def call(
    at: Gate,
    *,
    takes_s: float = 0.0,
    tokens: int = 0,
    patience_s: float = FOREVER,
    error: ServiceError | None = None,
) -> float:
    """Makes a call; returns when it was let through."""  # fmt: skip
    with await at.enter(tokens=tokens, patience_s=patience_s) as passed:
        began = now()
        await asyncio.sleep(takes_s)
        passed.tokens = tokens
        if error is not None:
            raise error
        return began


async def broken(at: Gate, times: int = 5) -> None:
    for _ in range(times):
        with pytest.raises(Unavailable, match="it broke"):
            await call(at, error=DOWN)


# --- how many -------------------------------------------------------------------


async def test_so_many_at_a_time_and_the_others_in_order() -> None:
    two = gate(maxConcurrent=2)
    assert await asyncio.gather(*(call(two, takes_s=1) for _ in range(5))) == [0, 0, 1, 1, 2]
    assert two.is_idle


async def test_a_call_that_is_cancelled_frees_its_place_wherever_it_is() -> None:
    one = gate(maxConcurrent=1)
    calls = [asyncio.create_task(call(one, takes_s=1)) for _ in range(4)]
    await asyncio.sleep(0.5)
    calls[0].cancel()  # under way: the second begins
    calls[2].cancel()  # waiting
    assert list(await asyncio.gather(calls[1], calls[3])) == [0.5, 1.5]
    assert one.is_idle


async def test_a_call_that_gives_up_as_its_turn_comes_passes_it_on() -> None:
    one = gate(maxConcurrent=1)
    held = await one.enter(tokens=0, patience_s=FOREVER)
    second = asyncio.create_task(call(one))
    third = asyncio.create_task(call(one))
    await asyncio.sleep(0)
    with held:
        pass
    second.cancel()  # it was let through, and has not noticed yet
    assert await third == 0
    assert second.cancelled()
    assert one.is_idle


async def test_whoever_waits_too_long_is_told_for_what() -> None:
    one = gate(maxConcurrent=1)
    busy = asyncio.create_task(call(one, takes_s=60))
    await asyncio.sleep(0)
    with pytest.raises(ResourceExhausted) as caught:
        await call(one, patience_s=5)
    assert now() == pytest.approx(5)
    assert "not this call's turn within 5.0 s (limits.maxConcurrent)" in caught.value.message
    assert caught.value.reason == "MODEL_RATE_LIMITED"
    assert caught.value.retry_after == timedelta(seconds=1)
    await busy
    assert one.is_idle


async def test_the_line_has_an_end() -> None:
    one = gate(maxConcurrent=1)
    async with asyncio.TaskGroup() as group:
        group.create_task(call(one, takes_s=1))
        for _ in range(1000):
            group.create_task(call(one))
        await asyncio.sleep(0)
        with pytest.raises(ResourceExhausted, match="1000 calls wait for it already"):
            await call(one)


# --- how fast -------------------------------------------------------------------


async def test_requests_are_spread_over_the_minute() -> None:
    sixty = gate(requestsPerMinute=60)
    times = await asyncio.gather(*(call(sixty) for _ in range(70)))
    assert times[:10] == [0] * 10  # ten seconds' worth at once
    assert times[10:] == pytest.approx(list(range(1, 61)), abs=0.01)


async def test_a_low_rate_still_lets_one_pass() -> None:
    slow = gate(requestsPerMinute=1)
    times = list(await asyncio.gather(*(call(slow) for _ in range(3))))
    assert times == pytest.approx([0, 60, 120], abs=0.01)


async def test_a_wait_that_would_be_too_long_is_refused_at_once() -> None:
    slow = gate(requestsPerMinute=6)
    await call(slow)
    with pytest.raises(ResourceExhausted) as caught:
        await call(slow, patience_s=9)
    assert now() == 0
    assert (
        "may be made in 10.0 s (limits.requestsPerMinute), and this one may wait 9.0 s"
        in caught.value.message
    )
    assert caught.value.retry_after == timedelta(seconds=10)
    # Those that wait already count: two behind one another take 20 seconds.
    first = asyncio.create_task(call(slow, patience_s=15))
    await asyncio.sleep(0)
    with pytest.raises(ResourceExhausted, match="in 20"):
        await call(slow, patience_s=15)
    assert await first == pytest.approx(10, abs=0.01)


async def test_tokens_are_counted_as_they_were_and_debts_are_waited_off() -> None:
    tpm = gate(tokensPerMinute=6000)  # 100 a second, 1000 at once
    with await tpm.enter(tokens=100, patience_s=FOREVER) as passed:
        passed.tokens = 1500  # more than was thought: 500 are owed
    assert await call(tpm, tokens=500) == pytest.approx(10, abs=0.01)
    # One that is larger than what fits waits until all is free, not for ever.
    assert await call(tpm, tokens=5000) == pytest.approx(20, abs=0.01)


async def test_a_call_that_gives_up_does_not_hold_up_the_others() -> None:
    tpm = gate(tokensPerMinute=6000)
    await call(tpm, tokens=1000)
    large = asyncio.create_task(call(tpm, tokens=1000))
    small = asyncio.create_task(call(tpm, tokens=100))
    await asyncio.sleep(0.5)
    large.cancel()
    assert await small == pytest.approx(1, abs=0.01)


# --- what the endpoint wishes -----------------------------------------------------


async def test_everybody_waits_when_the_endpoint_asks_one_to() -> None:
    limited = ResourceExhausted("wait", reason="MODEL_RATE_LIMITED", retry_after=timedelta(seconds=7))
    shared = gate()
    with pytest.raises(ResourceExhausted):
        await call(shared, error=limited)
    assert list(await asyncio.gather(call(shared), call(shared))) == [7, 7]


async def test_a_shorter_pause_does_not_end_a_longer_one() -> None:
    shared = gate()
    calls = []
    for seconds in (20, 1):
        later = timedelta(seconds=seconds)
        limited = ResourceExhausted("wait", reason="MODEL_RATE_LIMITED", retry_after=later)
        calls.append(asyncio.create_task(call(shared, error=limited)))
    await asyncio.wait(calls)
    assert await call(shared) == 20
    assert all(isinstance(made.exception(), ResourceExhausted) for made in calls)


async def test_nobody_waits_for_a_long_pause_and_the_breaker_stays_closed() -> None:
    limited = ResourceExhausted("wait", reason="MODEL_RATE_LIMITED", retry_after=timedelta(days=1))
    shared = gate()
    for _ in range(2):
        with pytest.raises(ResourceExhausted):
            await call(shared, error=limited)
    with pytest.raises(ResourceExhausted) as caught:
        await call(shared)
    assert now() == 0
    assert "in 600.0 s (its endpoint asked for a pause)" in caught.value.message
    await asyncio.sleep(600)
    assert await call(shared) == 600


# --- what has failed ----------------------------------------------------------------


async def test_what_fails_is_left_alone_and_tried_by_one() -> None:
    shared = gate()
    await broken(shared)
    with pytest.raises(Unavailable) as caught:
        await call(shared)
    assert now() == 0
    assert caught.value.message == (
        "model chat is left alone for 5.0 s after several failures, the last one: it broke"
    )
    assert caught.value.retry_after == timedelta(seconds=5)
    await asyncio.sleep(5)
    trial = asyncio.create_task(call(shared, takes_s=2))
    await asyncio.sleep(1)
    with pytest.raises(Unavailable, match="left alone"):
        await call(shared)
    await trial
    assert list(await asyncio.gather(call(shared), call(shared))) == [7, 7]


async def test_each_failed_trial_doubles_the_time_up_to_a_minute() -> None:
    shared = gate()
    await broken(shared)
    for wait in (5, 10, 20, 40, 60, 60):
        await asyncio.sleep(wait - 0.1)
        with pytest.raises(Unavailable, match="left alone"):
            await call(shared)
        await asyncio.sleep(0.1)
        await broken(shared, times=1)


async def test_a_cancelled_trial_leaves_the_next_call_to_try() -> None:
    shared = gate()
    await broken(shared)
    await asyncio.sleep(5)
    trial = asyncio.create_task(call(shared, takes_s=60))
    await asyncio.sleep(1)
    trial.cancel()
    await asyncio.wait([trial])
    assert await call(shared) == 6


async def test_those_in_line_are_told_when_it_opens() -> None:
    one = gate(maxConcurrent=1)
    await broken(one, times=4)
    last = asyncio.create_task(call(one, takes_s=3, error=DOWN))
    waiting = [asyncio.create_task(call(one)) for _ in range(3)]
    done = await asyncio.gather(last, *waiting, return_exceptions=True)
    assert [getattr(error, "reason", error) for error in done] == ["MODEL_UNAVAILABLE"] * 4
    assert now() == 3
    assert one.is_idle


@pytest.mark.parametrize(
    ("error", "opens"),
    [
        (DOWN, True),
        (Internal("html", reason="MODEL_BAD_RESPONSE"), True),
        (FailedPrecondition("bad key", reason="MODEL_REJECTED"), False),
        (ResourceExhausted("busy", reason="MODEL_RATE_LIMITED"), False),
    ],
    ids=lambda value: getattr(value, "reason", ""),
)
async def test_what_counts_as_broken(error: ServiceError, opens: bool) -> None:
    shared = gate()
    for _ in range(5):
        with pytest.raises(type(error)):
            await call(shared, error=error)
    assert (shared._breaker.state is BreakerState.OPEN) is opens


def test_a_few_failures_among_many_answers_or_long_ago_do_not_open() -> None:
    breaker = Breaker()
    for n in range(40):
        if n % 5 > 2:
            breaker.failed(trial=False, now=n / 10)
        else:
            breaker.succeeded(trial=False, now=n / 10)
    assert breaker.state is BreakerState.CLOSED
    for at in (100, 110, 120, 131, 142):
        breaker.failed(trial=False, now=at)
    assert breaker.state is BreakerState.CLOSED


def test_a_bucket_does_not_save_up() -> None:
    bucket = Bucket(60, now=0.0)
    assert bucket.delay_s(10, now=1000.0) == 0
    bucket.take(10)
    assert bucket.delay_s(10, now=1000.0) == 10


# --- which gate -----------------------------------------------------------------------


async def test_a_model_has_one_gate_until_it_is_changed() -> None:
    gates = Gates()
    first = gates.of(model_config())
    assert gates.of(model_config()) is first
    assert gates.of(model_config("other")) is not first
    assert gates.of(model_config(maxConcurrent=3)) is not first


async def test_gates_and_labels_are_bounded() -> None:
    gates = Gates()
    held = await gates.of(model_config("m0")).enter(tokens=0, patience_s=1)
    labels = {gates.of(model_config(f"m{n}")).label for n in range(1100)}
    assert len(labels) == 201
    assert "other" in labels
    assert len(gates._gates) == 1000
    with held:
        assert ("default", "m0") in gates._gates  # in use
