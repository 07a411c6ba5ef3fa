"""Random calls through a gate, each cancelled, failing or impatient as chance has it: what always holds."""

import asyncio
import random
from datetime import timedelta
from typing import Any

import pytest

from orchestrator.core.gate import Gate
from servicekit.errors import ResourceExhausted, ServiceError, Unavailable
from tests.support.orchestrator_fakes import model_config

pytestmark = pytest.mark.looptime

DOWN = Unavailable("it broke", reason="MODEL_UNAVAILABLE")
CALLS = 300
MOST_S = 3000.0


class World:
    """Calls of one gate, and what was seen of them."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.limits: dict[str, Any] = {
            "maxConcurrent": self.random.choice([1, 3, 50]),
            "requestsPerMinute": self.random.choice([None, 60, 600]),
            "tokensPerMinute": self.random.choice([None, 6000, 60_000]),
        }
        self.gate = Gate(model_config(**{k: v for k, v in self.limits.items() if v}), label="default/chat")
        self.running = 0
        self.began: list[tuple[float, int]] = []  # when each call that was let through was, and its number
        self.outcomes: list[str] = []
        self.refused: list[tuple[ServiceError, float]] = []  # and how long after its patience had ended

    async def call(self, number: int) -> None:
        patience_s = self.random.choice([5.0, 60.0, float("inf")])
        began = asyncio.get_running_loop().time()
        tokens = self.random.randrange(500)
        try:
            passed = await self.gate.enter(tokens=tokens, patience_s=patience_s)
        except ServiceError as error:
            self.refused.append((error, asyncio.get_running_loop().time() - began - patience_s))
            return
        except asyncio.CancelledError:
            self.outcomes.append("cancelled")
            return
        with passed:
            self.running += 1
            assert self.running <= self.limits["maxConcurrent"]
            self.began.append((asyncio.get_running_loop().time(), number))
            try:
                await asyncio.sleep(self.random.choice([0.0, 0.1, 2.0]))
            finally:
                self.running -= 1
            passed.tokens = self.random.randrange(800)
            chance = self.random.random()
            if chance < 0.1:
                raise DOWN
            if chance < 0.12:
                after = timedelta(seconds=self.random.choice([1, 10]))
                raise ResourceExhausted("wait", reason="MODEL_RATE_LIMITED", retry_after=after)
        self.outcomes.append("ok")


@pytest.mark.parametrize("seed", range(12))
async def test_whatever_happens_nobody_is_forgotten_and_the_limits_hold(seed: int) -> None:
    world = World(seed)
    tasks = []
    async with asyncio.timeout(MOST_S):
        for number in range(CALLS):
            tasks.append(asyncio.create_task(world.call(number)))
            await asyncio.sleep(world.random.choice([0.0, 0.0, 0.0, 0.5]))
            if world.random.random() < 0.1:
                world.random.choice(tasks).cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    wrong = [e for e in ended if isinstance(e, Exception) and not isinstance(e, ServiceError)]
    assert not wrong
    assert all(error.retry_after is not None and late_s < 0.01 for error, late_s in world.refused)
    # Every place is free again, and a call that comes now is let through without help from others.
    assert world.gate.is_idle
    assert world.outcomes.count("ok") > 5
    await asyncio.sleep(3600)
    with await world.gate.enter(tokens=0, patience_s=0.1):
        pass
    rate = world.limits["requestsPerMinute"]
    if rate is not None:
        for at, _ in world.began:
            within = sum(at <= other < at + 60 for other, _ in world.began)
            assert within <= rate * 7 / 6 + 1
    # In the order in which they came.
    numbers = [number for _, number in world.began]
    assert numbers == sorted(numbers)
