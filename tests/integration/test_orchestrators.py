"""Two orchestrators over one session service: kills, hand-overs, and calls that reach the other one."""

import asyncio
import socket
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from agentteams.orchestrator.v1 import orchestrator_service_pb2 as pb
from agentteams.orchestrator.v1.orchestrator_service_pb2_grpc import OrchestratorServiceStub
from agentteams.session.v1 import run_pb2, session_pb2
from agentteams.session.v1 import session_service_pb2 as session_service_pb
from agentteams.session.v1.session_service_pb2_grpc import SessionServiceStub
from prometheus_client import REGISTRY

from manifests import Catalogue
from orchestrator.adapters.knowledge_client import EmbeddingClient, KnowledgeClient
from orchestrator.adapters.models import Endpoint, EndpointModels
from orchestrator.adapters.peers import PeerClient
from orchestrator.adapters.session_client import SessionClient
from orchestrator.core.runs import Runs
from orchestrator.core.turn import World
from orchestrator.servicer import OrchestratorServicer, orchestrator_service
from servicekit.client import RpcClient, open_channel
from servicekit.clock import SystemClock
from servicekit.context import Caller, scope
from servicekit.errors import FailedPrecondition, Unavailable
from servicekit.identity import TokenIssuer
from servicekit.ids import new_id
from servicekit.paging import PageTokens
from servicekit.server import new_server
from servicekit.testing import TEST_KEY, serve_in_process
from session.adapters.database import PoolLimits, open_database
from session.adapters.schema import migrate
from session.adapters.store import SqlSessionStore
from session.servicer import SessionServicer, session_service
from tests.support.model_server import ModelServer, Reply

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
_TIMEOUT = timedelta(seconds=10)


@pytest.fixture(autouse=True)
def as_ada() -> Any:
    with scope(caller=Caller("default", "ada")):
        yield


@dataclass
class Replica:
    """One orchestrator, which can be killed."""

    runs: Runs
    rpc: RpcClient
    store_rpc: RpcClient
    server: Any
    work: "asyncio.Task[None]"

    @property
    def stub(self) -> Any:
        return OrchestratorServiceStub(self.rpc.channel)

    async def start(self, question: str, *, session: str = "", on_busy: int = 0) -> run_pb2.Run:
        request = pb.StartRunRequest(
            team="teams/solo",
            session=session,
            input=[session_pb2.Message(role=session_pb2.ROLE_USER, content=question)],
            request_id=str(uuid.uuid4()),
            on_busy=on_busy,  # type: ignore[arg-type]
        )
        return await self.rpc.unary(self.stub.StartRun, request)

    async def follow(self, run: run_pb2.Run, *, after: int = 0) -> AsyncIterator[pb.RunItem]:
        request = pb.StreamRunEventsRequest(run=run.name, after_sequence=after)
        async for response in self.rpc.server_stream(
            self.stub.StreamRunEvents, request, timeout=timedelta(seconds=30)
        ):
            for item in response.items:
                yield item

    async def cancel(self, run: run_pb2.Run) -> None:
        await self.rpc.unary(self.stub.CancelRun, pb.CancelRunRequest(name=run.name))

    async def kill(self) -> None:
        """Cuts it off from the store and from its callers before it can say anything."""
        await self.store_rpc.channel.close()
        await self.server.stop(0)
        self.work.cancel()
        await asyncio.wait([self.work])


@dataclass
class Fleet:
    """Replicas and what they share."""

    stack: AsyncExitStack
    session: str
    model: ModelServer
    manifests: Path
    replicas: list[Replica] = field(default_factory=list)

    def rpc(self, target: str) -> RpcClient:
        channel = open_channel(target)
        self.stack.push_async_callback(channel.close)
        return RpcClient(
            channel, issuer=TokenIssuer(TEST_KEY, service="orchestrator"), default_timeout=_TIMEOUT
        )

    async def begin(self) -> Replica:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        endpoint = Endpoint(url=self.model.base_url, api_key="", model="stand-in")
        models = EndpointModels(built_in=endpoint, secrets_dir=None)
        self.stack.push_async_callback(models.close)
        peers = PeerClient(TokenIssuer(TEST_KEY, service="orchestrator"))
        self.stack.push_async_callback(peers.close)
        catalogue = Catalogue(self.manifests)
        catalogue.load()
        nowhere = self.rpc("127.0.0.1:9")
        store_rpc = self.rpc(self.session)
        runs = Runs(
            world=World(
                catalogue=catalogue,
                models=models,
                knowledge=KnowledgeClient(nowhere),
                embedder=EmbeddingClient(nowhere),
            ),
            store=SessionClient(store_rpc, owner=new_id(), address=address, lease=timedelta(seconds=3)),
            peers=peers,
            clock=SystemClock(),
            address=address,
        )
        servicer = OrchestratorServicer(runs=runs, catalogue=catalogue, tokens=PageTokens(TEST_KEY))
        server, _ = new_server([orchestrator_service(servicer)], key=TEST_KEY)
        server.add_insecure_port(address)
        await server.start()
        self.stack.push_async_callback(server.stop, 0)
        work = asyncio.create_task(runs.work())
        replica = Replica(runs=runs, rpc=self.rpc(address), store_rpc=store_rpc, server=server, work=work)
        self.stack.push_async_callback(_end, work)
        self.replicas.append(replica)
        return replica

    async def stored(self, run: run_pb2.Run) -> list[run_pb2.RunEvent]:
        rpc = self.rpc(self.session)
        stub: Any = SessionServiceStub(rpc.channel)
        request = session_service_pb.ListRunEventsRequest(run=run.name, page_size=500)
        return list((await rpc.unary(stub.ListRunEvents, request)).events)

    async def messages(self, session: str) -> list[str]:
        rpc = self.rpc(self.session)
        stub: Any = SessionServiceStub(rpc.channel)
        request = session_service_pb.ListMessagesRequest(parent=session, page_size=200)
        return [m.content for m in (await rpc.unary(stub.ListMessages, request)).messages]


async def _end(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.wait([task])


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    manifests = tmp_path / "manifests"
    manifests.mkdir()
    (manifests / "all.yaml").write_text(MANIFESTS)
    async with AsyncExitStack() as stack:
        model = await stack.enter_async_context(ModelServer(scenario="quickstart", chunks=12))
        database = open_database(
            f"sqlite:///{tmp_path / 'session.db'}", PoolLimits(connections=4, timeout=timedelta(seconds=2))
        )
        stack.push_async_callback(database.close)
        await migrate(database)
        store = SqlSessionStore(database=database, clock=SystemClock(), new_id=new_id)
        servicer = SessionServicer(store=store, tokens=PageTokens(TEST_KEY))
        session = await stack.enter_async_context(serve_in_process([session_service(servicer)]))
        yield Fleet(stack=stack, session=session, model=model, manifests=manifests)


def texts(items: Sequence[pb.RunItem]) -> dict[str, str]:
    out: dict[str, str] = {}
    for item in items:
        if item.HasField("text_delta"):
            delta = item.text_delta
            assert delta.offset in (0, len(out.get(delta.message, "")))
            out[delta.message] = out.get(delta.message, "")[: delta.offset] + delta.text
    return out


def events(items: Sequence[pb.RunItem]) -> list[run_pb2.RunEvent]:
    return [item.event for item in items if item.HasField("event")]


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
