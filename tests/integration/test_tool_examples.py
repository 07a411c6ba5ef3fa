"""Tools, approvals and questions over gRPC: real orchestrators, session service, model and MCP server."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import ModuleType

import pytest
from agentteams.orchestrator.v1 import orchestrator_service_pb2 as pb
from agentteams.session.v1 import run_pb2

from manifests.endpoints import SecretFiles
from orchestrator.adapters.events_pb import stored_event
from orchestrator.adapters.mcp_tools import McpTools
from orchestrator.adapters.peers import PeerClient
from orchestrator.adapters.python_tools import PythonTools
from orchestrator.adapters.tools import ToolSources
from orchestrator.core.model import Event
from servicekit.clock import SystemClock
from servicekit.context import Caller, scope
from servicekit.errors import InvalidArgument, PermissionDenied
from servicekit.identity import TokenIssuer
from servicekit.testing import TEST_KEY
from tests.support.golden import Scene, golden_events, steps
from tests.support.mcp_server import serving
from tests.support.replicas import Fleet, Replica, replicas
from tests.support.run_items import events
from tests.support.scenes_tools import FOLDER, SCENES, module

APPROVAL = next(scene for scene in SCENES if scene.name == "tools_approval")
ASK = next(scene for scene in SCENES if scene.name == "tools_ask_user")


@pytest.fixture(autouse=True)
def as_ada() -> Iterator[None]:
    with scope(caller=Caller("default", "ada")):
        yield


@asynccontextmanager
async def fleet_of(scene: Scene, folder: Path) -> AsyncIterator[tuple[Fleet, ModuleType]]:
    """The example's teams as they are, but for the port of the MCP server; and that server."""
    orders = module("orders_server")
    async with AsyncExitStack() as stack:
        port = await stack.enter_async_context(serving(orders.server.streamable_http_app()))
        documents = [path.read_text() for path in sorted(FOLDER.glob("*.yaml"))]
        manifests = "\n---\n".join(documents).replace("127.0.0.1:8765", f"127.0.0.1:{port}")
        mcp, python = McpTools(secrets=SecretFiles(None), clock=SystemClock()), PythonTools(FOLDER)
        stack.callback(python.close)
        work = asyncio.create_task(mcp.work())
        stack.push_async_callback(asyncio.wait, [work])
        stack.callback(work.cancel)
        fleet = await stack.enter_async_context(
            replicas(folder, manifests, ToolSources(mcp=mcp, python=python))
        )
        fleet.model.script(scene.script)
        yield fleet, orders


async def until_asked(follower: AsyncIterator[pb.RunItem]) -> list[pb.RunItem]:
    seen = []
    async for item in follower:
        seen.append(item)
        if item.event.HasField("input_requested"):
            return seen
    raise AssertionError("nobody was asked")


async def rest(follower: AsyncIterator[pb.RunItem]) -> list[pb.RunItem]:
    async with asyncio.timeout(30):
        return [item async for item in follower]


async def parked(replica: Replica) -> None:
    async with asyncio.timeout(10):
        while replica.runs._held.active:  # noqa: ASYNC110  what is waited for is no event
            await asyncio.sleep(0.05)


def done(items: Sequence[pb.RunItem]) -> list[str]:
    stored = [stored_event(event) for event in events(items)]
    return steps(
        Event(sequence=s.sequence, time=s.time, member=s.member, step=s.step) for s in stored if s.step
    )


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name)
async def test_an_example_does_over_the_wire_what_its_history_says(scene: Scene, tmp_path: Path) -> None:
    async with fleet_of(scene, tmp_path) as (fleet, _), asyncio.timeout(40):
        replica = await fleet.begin()
        run = await replica.start(scene.question, team=scene.team)
        follower = replica.follow(run)
        seen = []
        for said in scene.people:
            seen += await until_asked(follower)
            if said.answer is None:
                await replica.decide(run.name, said.call_id, approved=bool(said.approved))
            else:
                await replica.answer(run.name, said.call_id, said.answer)
        seen += await rest(follower)
        assert done(seen) == steps(golden_events(scene))
        assert events(seen)[-1].run_finished.state == run_pb2.RUN_STATE_SUCCEEDED


async def test_a_run_waits_without_a_process_and_goes_on_in_another(tmp_path: Path) -> None:
    async with fleet_of(APPROVAL, tmp_path) as (fleet, orders), asyncio.timeout(40):
        first, second = await fleet.begin(), await fleet.begin()
        run = await first.start(APPROVAL.question, team=APPROVAL.team)
        follower = second.follow(run)
        seen = await until_asked(follower)
        asked = events(seen)[-1].input_requested
        assert (asked.approval.tool, asked.approval.arguments["number"]) == ("cancel_order", 17)
        assert asked.expire_time.seconds > 0
        await parked(first)
        await first.kill()
        assert orders.orders[17] == "on its way"
        woken = await second.decide(run.name, asked.call_id, approved=True, reason="It is broken.")
        assert woken.state == run_pb2.RUN_STATE_RUNNING
        seen += await rest(follower)
        assert orders.orders[17] == "cancelled"
        assert done(seen) == steps(golden_events(APPROVAL))
        assert [e.sequence for e in events(seen)] == list(range(1, len(events(seen)) + 1))
        (provided,) = [e.input_provided for e in events(seen) if e.HasField("input_provided")]
        assert (provided.input.user, provided.input.decision.reason) == ("ada", "It is broken.")
        (resumed,) = [e.run_resumed for e in events(seen) if e.HasField("run_resumed")]
        assert list(resumed.repeated_calls) == []


async def test_who_may_not_and_what_was_not_asked(tmp_path: Path) -> None:
    async with fleet_of(ASK, tmp_path) as (fleet, _), asyncio.timeout(40):
        replica = await fleet.begin()
        run = await replica.start(ASK.question, team=ASK.team)
        await until_asked(replica.follow(run))
        with scope(caller=Caller("default", "eve")), pytest.raises(PermissionDenied):
            await replica.answer(run.name, "#1.1", "red")
        with pytest.raises(InvalidArgument, match="must be one of: red, blue"):
            await replica.answer(run.name, "#1.1", "green")
        with pytest.raises(InvalidArgument) as caught:
            await replica.answer(run.name, "#7.1", "red")
        assert caught.value.reason == "INPUT_NOT_REQUESTED"
        with pytest.raises(InvalidArgument):
            await replica.decide(run.name, "#1.1", approved=True)
        await replica.cancel(run)


async def test_a_run_that_waits_is_cancelled(tmp_path: Path) -> None:
    async with fleet_of(APPROVAL, tmp_path) as (fleet, orders), asyncio.timeout(40):
        replica = await fleet.begin()
        run = await replica.start(APPROVAL.question, team=APPROVAL.team)
        follower = replica.follow(run)
        await until_asked(follower)
        await parked(replica)
        await replica.cancel(run)
        seen = await rest(follower)
        assert events(seen)[-1].run_finished.state == run_pb2.RUN_STATE_CANCELLED
        assert orders.orders[17] == "on its way"


@pytest.mark.parametrize("scene", [APPROVAL, ASK], ids=lambda scene: scene.name)
async def test_an_orchestrator_passes_on_what_people_say(scene: Scene, tmp_path: Path) -> None:
    async with fleet_of(scene, tmp_path) as (fleet, _), asyncio.timeout(40):
        replica = await fleet.begin()
        run = await replica.start(scene.question, team=scene.team)
        follower = replica.follow(run)
        seen = await until_asked(follower)
        peers = PeerClient(TokenIssuer(TEST_KEY, service="orchestrator"))
        fleet.stack.push_async_callback(peers.close)
        await peers.provide(replica.address, run.name, scene.people[0])
        seen += await rest(follower)
        assert done(seen) == steps(golden_events(scene))
