"""Two orchestrators over one session service: kills, hand-overs, and calls that reach the other one."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from agentteams.orchestrator.v1 import orchestrator_service_pb2 as pb
from agentteams.session.v1 import run_pb2
from prometheus_client import REGISTRY

from servicekit.context import Caller, scope
from servicekit.errors import FailedPrecondition, Unavailable
from tests.support.model_server import Reply
from tests.support.replicas import Fleet, replicas
from tests.support.run_items import events, texts

pytestmark = pytest.mark.alone

MANIFESTS = """
apiVersion: agentteams.dev/v1alpha1
kind: ModelConfig
metadata: {name: chat}
spec: {type: Chat, provider: BuiltIn}
---
apiVersion: agentteams.dev/v1alpha1
kind: AgentTeam
metadata: {name: solo}
spec:
  modelConfigRef: {name: chat}
  members: [{name: agent}]
"""


@pytest.fixture(autouse=True)
def as_ada() -> Any:
    with scope(caller=Caller("default", "ada")):
        yield


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    async with replicas(tmp_path, MANIFESTS) as fleet:
        yield fleet


def sample(name: str, **labels: str) -> float:
    """Of all orchestrators in this process together."""
    return REGISTRY.get_sample_value(name, labels) or 0.0


def take_overs(cause: str) -> float:
    return sample("agentteams_lease_takeovers_total", cause=cause)


async def read_until(stream: AsyncIterator[pb.RunItem], text: str) -> list[pb.RunItem]:
    seen = [await anext(stream)]
    while texts(seen).get("text-#1") != text:
        seen.append(await anext(stream))
    return seen


async def test_a_killed_orchestrator_s_run_goes_on_in_the_other_and_its_follower_sees_a_pause(
    fleet: Fleet,
) -> None:
    first, second = await fleet.begin(), await fleet.begin()
    fleet.model.queue(Reply(chunks=["Half", " of"], gate=asyncio.Event(), gate_after=1), Reply("All of it."))
    run = await first.start("Go on")
    follower = second.follow(run)
    seen = await read_until(follower, "Half")  # live, through the owner
    killed, before = time.monotonic(), (take_overs("lost"), sample("agentteams_lease_takeover_seconds_sum"))
    await first.kill()
    seen += [item async for item in follower]
    assert time.monotonic() - killed < 6
    assert take_overs("lost") == before[0] + 1
    assert 3 <= sample("agentteams_lease_takeover_seconds_sum") - before[1] < 6
    log = await fleet.stored(run)
    assert events(seen) == log
    assert [event.sequence for event in log] == list(range(1, len(log) + 1))
    assert [e.WhichOneof("event") for e in log] == [
        "run_started",
        "run_resumed",
        "model_call_finished",
        "message_completed",
        "run_finished",
    ]
    assert texts(seen)["text-#1"] == "All of it."
    assert await fleet.messages(run.session) == ["Go on", "All of it."]


async def test_a_stopping_orchestrator_hands_over_and_clients_that_come_back_lose_nothing(
    fleet: Fleet,
) -> None:
    first, second = await fleet.begin(), await fleet.begin()
    fleet.model.queue(Reply(chunks=["Half", " of"], gate=asyncio.Event(), gate_after=1), Reply("All of it."))
    run = await first.start("Go on")
    follower = first.follow(run)
    seen = await read_until(follower, "Half")
    began, before = time.monotonic(), take_overs("handed_over")
    await first.runs.drain(timedelta(seconds=0.1))
    with pytest.raises(Unavailable):
        _ = [item async for item in follower]
    last = max((event.sequence for event in events(seen)), default=0)
    seen += [item async for item in second.follow(run, after=last)]
    assert time.monotonic() - began < 3  # given back, not run out
    assert take_overs("handed_over") == before + 1
    assert events(seen) == await fleet.stored(run)
    assert await fleet.messages(run.session) == ["Go on", "All of it."]


async def test_a_run_is_cancelled_through_the_other_orchestrator(fleet: Fleet) -> None:
    first, second = await fleet.begin(), await fleet.begin()
    fleet.model.queue(Reply(chunks=["Half", " of"], gate=asyncio.Event(), gate_after=1))
    run = await first.start("Go on")
    follower = second.follow(run)
    seen = await read_until(follower, "Half")
    await second.cancel(run)
    seen += [item async for item in follower]
    assert events(seen)[-1].run_finished.state == run_pb2.RUN_STATE_CANCELLED
    assert events(seen) == await fleet.stored(run)


async def test_questions_of_a_session_wait_for_one_another_or_do_not(fleet: Fleet) -> None:
    first, second = await fleet.begin(), await fleet.begin()
    gate = asyncio.Event()
    fleet.model.queue(Reply(chunks=["One."], gate=gate, gate_after=0), Reply("Two."))
    one = await first.start("1")
    two = await second.start("2", session=one.session)
    assert two.state == run_pb2.RUN_STATE_PENDING
    with pytest.raises(FailedPrecondition) as caught:
        await second.start("x", session=one.session, on_busy=run_pb2.BUSY_POLICY_REJECT)
    assert caught.value.reason == "SESSION_BUSY"
    gate.set()
    seen = [item async for item in second.follow(two)]
    assert events(seen) == await fleet.stored(two)
    assert events(seen)[-1].run_finished.state == run_pb2.RUN_STATE_SUCCEEDED
    assert await fleet.messages(one.session) == ["1", "One.", "2", "Two."]
