"""Runs against real model endpoints that fail: what the limits, the breaker and the fallbacks make of it."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

from manifests import ModelConfig
from manifests.endpoints import SecretFiles
from orchestrator.adapters.models import EndpointModels
from orchestrator.core.gate import QUEUED, Gates
from orchestrator.core.model import MessageCompleted, ModelCallFinished, RunFinished
from orchestrator.core.model_metrics import CALLS
from orchestrator.core.run import execute
from orchestrator.core.turn import World
from tests.support.model_server import Fault, ModelServer, Reply
from tests.support.orchestrator_fakes import Bench, team
from tests.support.stack import until


@dataclass
class Scene:
    """One process' runs: `chat` falls back to `small`, each at an endpoint of its own."""

    chat: ModelServer
    small: ModelServer
    models: EndpointModels
    gates: Gates = field(default_factory=Gates)
    limits: dict[str, int] = field(default_factory=dict)
    fallback: bool = True

    @property
    def chat_config(self) -> ModelConfig:
        refs = ({"name": "small"},) if self.fallback else ()
        return _config("chat", self.chat, limits=self.limits, fallbackRefs=refs)

    async def run(self) -> list[Any]:
        bench = Bench()
        bench.catalogue.models = [self.chat_config, _config("small", self.small)]
        turn = bench.turn(team(limits={"runTimeoutSeconds": 20}))
        turn.world = World(
            catalogue=bench.catalogue,
            models=self.models,
            knowledge=bench.knowledge,
            embedder=bench.embedder,
            gates=self.gates,
        )
        await execute(turn)
        await turn.log.close()
        return bench.store.steps()


def _config(name: str, server: ModelServer, **spec: Any) -> ModelConfig:
    endpoint = {"url": server.base_url}
    body = {"type": "Chat", "provider": "OpenAICompatible", "model": name, "endpoint": endpoint, **spec}
    return ModelConfig.model_validate({"metadata": {"name": name}, "spec": body})


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    async with AsyncExitStack() as stack:
        models = EndpointModels(built_in=None, secrets=SecretFiles(None))
        stack.push_async_callback(models.close)
        chat = await stack.enter_async_context(ModelServer(scenario="answer"))
        small = await stack.enter_async_context(ModelServer(scenario="answer"))
        chat.script(lambda _: Reply("From chat."))
        small.script(lambda _: Reply("From small."))
        yield Scene(chat=chat, small=small, models=models)


def answer(steps: list[Any]) -> str:
    return next(str(step.message.content) for step in steps if isinstance(step, MessageCompleted))


def call(steps: list[Any]) -> ModelCallFinished:
    return next(step for step in steps if isinstance(step, ModelCallFinished))


@pytest.mark.parametrize(
    ("fault", "limits", "says"),
    [
        (Fault(kind="status", status=500, times=None), {"maxRetries": 0}, "answered 500"),
        (Fault(kind="status", status=400, message="too long", times=None), {}, "too long"),
        (Fault(kind="status", status=429, retry_after_s=20, times=None), {}, "answered 429"),
        (Fault(kind="stall", at="middle"), {"maxRetries": 0, "idleTimeoutSeconds": 1}, "nothing for 1 s"),
        (Fault(kind="cut", times=None), {"maxRetries": 0}, "no answer from the endpoint"),
        (Fault(kind="html", times=None), {"maxRetries": 0}, "text/html"),
    ],
    ids=lambda value: f"{value.kind}-{value.status}" if isinstance(value, Fault) else "",
)  # fmt: skip
async def test_the_fallback_answers_whatever_happens_to_the_first(
    scene: Scene, fault: Fault, limits: dict[str, int], says: str
) -> None:
    scene.chat.fail(fault)
    scene.limits = limits
    steps = await scene.run()
    assert answer(steps) == "From small."
    (failed,) = call(steps).fallen_back_from
    assert failed.model_config == "chat"
    assert says in failed.error.message
    assert (call(steps).model_config, call(steps).attempts) == ("small", 2)


async def test_retry_after_holds_for_every_run_of_the_process(scene: Scene) -> None:
    scene.chat.fail(Fault(kind="status", status=429, retry_after_s=1))
    first = asyncio.create_task(scene.run())
    await until(lambda: scene.gates.of(scene.chat_config).paused_s() > 0)
    told = time.monotonic()
    others = await asyncio.gather(*(scene.run() for _ in range(3)))
    # They had to wait, and the endpoint was left in peace while they did.
    assert time.monotonic() - told > 0.9
    assert {answer(steps) for steps in (*others, await first)} == {"From chat."}
    assert len(scene.chat.requests) == 5
    assert not scene.small.requests


async def test_a_dead_endpoint_is_left_alone_until_it_is_back(scene: Scene) -> None:
    scene.limits = {"maxRetries": 0}
    await scene.chat.stop()
    for _ in range(7):
        assert answer(await scene.run()) == "From small."
    await scene.chat.restart()
    steps = await scene.run()
    assert "is left alone for" in call(steps).fallen_back_from[0].error.message
    assert not scene.chat.requests
    # What is refused costs no attempt.
    assert call(steps).attempts == 1


async def test_without_fallbacks_the_run_says_what_its_model_did(scene: Scene) -> None:
    scene.fallback = False
    scene.limits = {"maxRetries": 0}
    scene.chat.fail(Fault(kind="status", status=503, retry_after_s=40))
    end = (await scene.run())[-1]
    assert isinstance(end, RunFinished)
    assert end.error is not None
    assert (end.error.reason, end.error.retry_after) == ("MODEL_UNAVAILABLE", timedelta(seconds=40))
    # The next one is told at once, and when to come again.
    end = (await scene.run())[-1]
    assert isinstance(end, RunFinished)
    assert end.error is not None
    assert end.error.reason == "MODEL_RATE_LIMITED"
    assert "its endpoint asked for a pause" in end.error.message
    assert len(scene.chat.requests) == 1


async def test_calls_at_a_time_hold_over_all_runs(scene: Scene) -> None:
    scene.limits = {"maxConcurrent": 2}
    gate = asyncio.Event()
    scene.chat.script(lambda _: Reply("From chat.", gate=gate))
    before = CALLS.labels("default/chat", "ok")._value.get()
    runs = asyncio.gather(*(scene.run() for _ in range(6)))
    await scene.chat.received(2)
    await until(lambda: QUEUED.labels("default/chat")._value.get() == 4)
    assert len(scene.chat.requests) == 2
    gate.set()
    assert {answer(steps) for steps in await runs} == {"From chat."}
    assert CALLS.labels("default/chat", "ok")._value.get() - before == 6
