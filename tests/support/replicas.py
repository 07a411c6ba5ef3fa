"""Orchestrators behind gRPC over one session service and one model, all on this machine."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from agentteams.orchestrator.v1 import orchestrator_service_pb2 as pb
from agentteams.orchestrator.v1.orchestrator_service_pb2_grpc import OrchestratorServiceStub
from agentteams.session.v1 import run_pb2, session_pb2
from agentteams.session.v1 import session_service_pb2 as session_service_pb
from agentteams.session.v1.session_service_pb2_grpc import SessionServiceStub

from manifests import Catalogue
from manifests.endpoints import ModelEndpoint, SecretFiles
from orchestrator.adapters.knowledge_client import EmbeddingClient, KnowledgeClient
from orchestrator.adapters.models import EndpointModels
from orchestrator.adapters.peers import PeerClient
from orchestrator.adapters.scores_client import ScoresClient
from orchestrator.adapters.session_client import SessionClient
from orchestrator.core.awaited import AwaitedScores
from orchestrator.core.calls import Calls, NoCalls
from orchestrator.core.pool import Pool
from orchestrator.core.runs import Runs
from orchestrator.core.tools import NoTools, Tools
from orchestrator.core.turn import World
from orchestrator.servicer import OrchestratorServicer, orchestrator_service
from servicekit.client import RpcClient, open_channel
from servicekit.clock import SystemClock
from servicekit.identity import IdentityKey, Issuer, TokenIssuer
from servicekit.ids import new_id
from servicekit.paging import PageTokens
from servicekit.server import new_server
from servicekit.testing import TEST_KEY, serve_in_process
from session.adapters.database import PoolLimits, open_database
from session.adapters.schema import migrate
from session.adapters.store import SqlSessionStore
from session.servicer import SessionServicer, session_service
from tests.support.model_server import ModelServer
from tests.support.ports import free_address

_TIMEOUT = timedelta(seconds=10)


@dataclass
class Replica:
    """One orchestrator, which can be killed."""

    runs: Runs
    rpc: RpcClient
    store_rpc: RpcClient
    server: Any
    work: "asyncio.Task[None]"
    address: str
    catalogue: Catalogue

    @property
    def stub(self) -> Any:
        return self.stub_of(self.rpc)

    @staticmethod
    def stub_of(rpc: RpcClient) -> Any:
        return OrchestratorServiceStub(rpc.channel)

    async def start(
        self, question: str, *, session: str = "", on_busy: int = 0, team: str = "solo"
    ) -> run_pb2.Run:
        request = pb.StartRunRequest(
            team=f"teams/{team}",
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

    async def decide(self, run: str, call_id: str, *, approved: bool, reason: str = "") -> run_pb2.Run:
        decision = run_pb2.ToolDecision(approved=approved, reason=reason)
        request = pb.ApproveToolCallRequest(run=run, call_id=call_id, decision=decision)
        return await self.rpc.unary(self.stub.ApproveToolCall, request)

    async def answer(self, run: str, call_id: str, answer: str) -> run_pb2.Run:
        request = pb.AnswerQuestionRequest(run=run, call_id=call_id, answer=answer)
        return await self.rpc.unary(self.stub.AnswerQuestion, request)

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
    tools: Tools = field(default_factory=NoTools)
    replicas: list[Replica] = field(default_factory=list)
    key: IdentityKey = TEST_KEY

    def rpc(self, target: str, issuer: Issuer | None = None) -> RpcClient:
        channel = open_channel(target)
        self.stack.push_async_callback(channel.close)
        issuer = issuer or TokenIssuer(TEST_KEY, service="orchestrator")
        return RpcClient(channel, issuer=issuer, default_timeout=_TIMEOUT)

    async def begin(self, *, tenant: str = "", calls: Calls | None = None, address: str = "") -> Replica:
        """One more; with a tenant it has that tenant's key and no other, as on a cluster."""
        key = TEST_KEY.of_tenant(tenant) if tenant else TEST_KEY
        issuer = TokenIssuer(key, service="orchestrator")
        address = address or free_address()
        endpoint = ModelEndpoint(url=self.model.base_url, api_key="", model="stand-in")
        models = EndpointModels(built_in=endpoint, secrets=SecretFiles(None))
        self.stack.push_async_callback(models.close)
        peers = PeerClient(issuer)
        self.stack.push_async_callback(peers.close)
        catalogue = Catalogue(self.manifests)
        catalogue.load()
        nowhere = self.rpc("127.0.0.1:9", issuer)
        store_rpc = self.rpc(self.session, issuer)
        runs = Runs(
            world=World(
                catalogue=catalogue,
                models=models,
                knowledge=KnowledgeClient(nowhere),
                embedder=EmbeddingClient(nowhere),
                tools=self.tools,
                calls=calls or NoCalls(),
            ),
            store=SessionClient(store_rpc, owner=new_id(), address=address, lease=timedelta(seconds=3)),
            peers=peers,
            clock=SystemClock(),
            address=address,
            pool=Pool(tenant=tenant, known=catalogue),
        )
        scores = AwaitedScores(ScoresClient(store_rpc))
        servicer = OrchestratorServicer(runs=runs, catalogue=catalogue, tokens=PageTokens(key), scores=scores)
        server, _ = new_server([orchestrator_service(servicer)], key=key)
        server.add_insecure_port(address)
        await server.start()
        self.stack.push_async_callback(server.stop, 0)
        work = asyncio.create_task(runs.work())
        replica = Replica(
            runs=runs,
            rpc=self.rpc(address),
            store_rpc=store_rpc,
            server=server,
            work=work,
            address=address,
            catalogue=catalogue,
        )
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


@asynccontextmanager
async def replicas(folder: Path, manifests: str, tools: Tools | None = None) -> AsyncIterator[Fleet]:
    """None yet: `begin` makes one."""
    (folder / "manifests").mkdir()
    (folder / "manifests" / "all.yaml").write_text(manifests)
    async with AsyncExitStack() as stack:
        model = await stack.enter_async_context(ModelServer(scenario="quickstart", chunks=12))
        database = open_database(
            f"sqlite:///{folder / 'session.db'}", PoolLimits(connections=4, timeout=timedelta(seconds=2))
        )
        stack.push_async_callback(database.close)
        await migrate(database)
        store = SqlSessionStore(database=database, clock=SystemClock(), new_id=new_id)
        servicer = SessionServicer(store=store, tokens=PageTokens(TEST_KEY))
        session = await stack.enter_async_context(serve_in_process([session_service(servicer)]))
        yield Fleet(
            stack=stack,
            session=session,
            model=model,
            manifests=folder / "manifests",
            tools=tools or NoTools(),
        )
