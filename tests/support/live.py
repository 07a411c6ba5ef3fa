"""The orchestrator in process, with the real session service, over gRPC and HTTP on loopback."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from agentteams.embedding.v1 import embedding_service_pb2 as embedding_pb
from agentteams.embedding.v1 import embedding_service_pb2_grpc as embedding_grpc
from agentteams.orchestrator.v1 import orchestrator_service_pb2 as pb
from agentteams.orchestrator.v1.orchestrator_service_pb2_grpc import OrchestratorServiceStub
from agentteams.retrieval.v1 import retrieval_service_pb2 as retrieval_pb
from agentteams.retrieval.v1 import retrieval_service_pb2_grpc as retrieval_grpc
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
from orchestrator.core.runs import Runs
from orchestrator.core.turn import World
from orchestrator.servicer import OrchestratorServicer, orchestrator_service
from servicekit.client import RpcClient, open_channel
from servicekit.clock import SystemClock
from servicekit.context import Caller, scope
from servicekit.identity import TokenIssuer
from servicekit.ids import new_id
from servicekit.paging import PageTokens
from servicekit.server import Service, new_server
from servicekit.testing import TEST_KEY, serve_in_process
from session.adapters.database import PoolLimits, open_database
from session.adapters.schema import migrate
from session.adapters.store import SqlSessionStore
from session.score_servicer import ScoreServicer, score_service
from session.servicer import SessionServicer, session_service
from tests.support.model_script import embed_words
from tests.support.model_server import ModelServer

# Their type stubs want every method.
_RetrievalBase: Any = retrieval_grpc.RetrievalServiceServicer
_EmbeddingBase: Any = embedding_grpc.EmbeddingServiceServicer

ADA = Caller("default", "ada")
BOB = Caller("default", "bob")

MANIFESTS = """
apiVersion: agentteams.dev/v1alpha1
kind: ModelConfig
metadata: {name: chat, labels: {tier: test}}
spec: {type: Chat, provider: BuiltIn, limits: {timeoutSeconds: 20, maxRetries: 2}}
---
apiVersion: agentteams.dev/v1alpha1
kind: ModelConfig
metadata: {name: embed}
spec: {type: Embedding, provider: BuiltIn}
---
apiVersion: agentteams.dev/v1alpha1
kind: KnowledgeBase
metadata: {name: docs}
spec: {embedding: {modelConfigRef: {name: embed}}}
---
apiVersion: agentteams.dev/v1alpha1
kind: AgentTeam
metadata: {name: helpdesk}
spec:
  description: Answers from the handbook
  modelConfigRef: {name: chat}
  members:
    - {name: analyst, role: finds facts, knowledge: [docs]}
    - {name: writer, role: writes, knowledge: [docs]}
  knowledge:
    - {name: docs, knowledgeBaseRef: {name: docs}, topK: 2, search: Always}
---
apiVersion: agentteams.dev/v1alpha1
kind: AgentTeam
metadata: {name: solo}
spec:
  modelConfigRef: {name: chat}
  members: [{name: agent}]
  limits: {maxConcurrentRuns: 2}
---
apiVersion: agentteams.dev/v1alpha1
kind: AgentTeam
metadata: {name: scored}
spec: {modelConfigRef: {name: chat}, members: [{name: agent}], evaluation: {samplePercent: 100}}
---
apiVersion: agentteams.dev/v1alpha1
kind: AgentTeam
metadata: {name: broken}
spec: {modelConfigRef: {name: absent}, members: [{name: agent}]}
"""


class FakeRetrieval(_RetrievalBase):  # type: ignore[misc]
    """Finds the same two chunks for every query."""

    def __init__(self) -> None:
        self.requests: list[retrieval_pb.SearchRequest] = []

    async def Search(self, request: retrieval_pb.SearchRequest, context: Any) -> retrieval_pb.SearchResponse:
        """Two chunks."""
        self.requests.append(request)
        return retrieval_pb.SearchResponse(
            outcome=retrieval_pb.SEARCH_OUTCOME_OK,
            ready_documents=1,
            chunks=[
                retrieval_pb.Chunk(
                    id=f"c{number}",
                    document="knowledgeBases/docs/documents/d1",
                    document_title="handbook.md",
                    text=f"Fact {number}: the warranty lasts {number} years.",
                    score=1.0 / number,
                )
                for number in (1, 2)
            ],
        )


class FakeEmbedding(_EmbeddingBase):  # type: ignore[misc]
    """Vectors of words."""

    async def Embed(self, request: embedding_pb.EmbedRequest, context: Any) -> embedding_pb.EmbedResponse:
        """One vector."""
        vectors = np.stack([embed_words(text, 32) for text in request.texts])
        return embedding_pb.EmbedResponse(
            vectors=vectors.astype("<f4").tobytes(), dimension=32, model_fingerprint="fake-1"
        )


@dataclass
class SessionProcess:
    """The session service, which can be stopped and started on the same port."""

    folder: Path
    port: int = 0
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def start(self) -> None:
        """Serves."""
        database = open_database(
            f"sqlite:///{self.folder / 'session.db'}",
            PoolLimits(connections=4, timeout=timedelta(seconds=2)),
        )
        self._stack.push_async_callback(database.close)
        await migrate(database)
        store = SqlSessionStore(database=database, clock=SystemClock(), new_id=new_id)
        tokens = PageTokens(TEST_KEY)
        services = [
            session_service(SessionServicer(store=store, tokens=tokens)),
            score_service(ScoreServicer(store=store, tokens=tokens)),
        ]
        server, _ = new_server(services, key=TEST_KEY)
        self.port = server.add_insecure_port(f"127.0.0.1:{self.port}")
        await server.start()
        self._stack.push_async_callback(server.stop, 0)

    async def stop(self) -> None:
        """Cuts every call, as a kill would."""
        await self._stack.aclose()


@dataclass(frozen=True, kw_only=True)
class Live:
    """Everything that a test talks to."""

    orchestrator: RpcClient
    sessions: RpcClient
    session_process: SessionProcess
    retrieval: FakeRetrieval
    model: ModelServer
    runs: Runs

    @property
    def stub(self) -> Any:  # the generated stub is typed for the channels that are not asyncio's
        """The orchestrator's methods."""
        return OrchestratorServiceStub(self.orchestrator.channel)

    async def start(
        self, question: str, *, team: str = "solo", session: str = "", request_id: str = ""
    ) -> run_pb2.Run:
        """Starts a run."""
        request = pb.StartRunRequest(
            team=f"teams/{team}",
            session=session,
            input=[session_pb2.Message(role=session_pb2.ROLE_USER, content=question)],
            request_id=request_id or str(uuid.uuid4()),
        )
        return await self.orchestrator.unary(self.stub.StartRun, request)

    def follow(
        self, run: run_pb2.Run, *, after: int = 0, wait_scores: float = 0.0
    ) -> AsyncIterator[pb.RunItem]:
        """Its stream."""
        request = pb.StreamRunEventsRequest(run=run.name, after_sequence=after)
        if wait_scores:
            request.wait_scores.FromTimedelta(timedelta(seconds=wait_scores))
        return self._items(
            self.orchestrator.server_stream(self.stub.StreamRunEvents, request, timeout=timedelta(seconds=30))
        )

    @staticmethod
    async def _items(stream: AsyncIterator[pb.StreamRunEventsResponse]) -> AsyncIterator[pb.RunItem]:
        async for response in stream:
            for item in response.items:
                yield item

    async def stored(self, run: run_pb2.Run) -> list[run_pb2.RunEvent]:
        """Its log."""
        request = session_service_pb.ListRunEventsRequest(run=run.name, page_size=500)
        stub: Any = SessionServiceStub(self.sessions.channel)
        return list((await self.sessions.unary(stub.ListRunEvents, request)).events)

    async def messages(self, session: str) -> list[session_pb2.Message]:
        """A session's messages."""
        request = session_service_pb.ListMessagesRequest(parent=session, page_size=200)
        stub: Any = SessionServiceStub(self.sessions.channel)
        return list((await self.sessions.unary(stub.ListMessages, request)).messages)


def add(servicer: Any, name: str, register: Any) -> Service:
    return Service(name=name, register=lambda server: register(servicer, server))


@asynccontextmanager
async def running(runs: Runs) -> AsyncIterator[None]:
    task = asyncio.create_task(runs.work())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


@pytest.fixture
async def live(tmp_path: Path) -> AsyncIterator[Live]:
    manifests = tmp_path / "manifests"
    manifests.mkdir()
    (manifests / "all.yaml").write_text(MANIFESTS)
    async with AsyncExitStack() as stack:
        model = await stack.enter_async_context(ModelServer(scenario="quickstart", chunks=12))
        retrieval = FakeRetrieval()
        side = await stack.enter_async_context(
            serve_in_process(
                [
                    add(retrieval, "r", retrieval_grpc.add_RetrievalServiceServicer_to_server),
                    add(FakeEmbedding(), "e", embedding_grpc.add_EmbeddingServiceServicer_to_server),
                ]
            )
        )
        session = SessionProcess(tmp_path)
        await session.start()
        stack.push_async_callback(session.stop)

        def rpc(target: str, service: str) -> RpcClient:
            channel = open_channel(target)
            stack.push_async_callback(channel.close)
            return RpcClient(
                channel, issuer=TokenIssuer(TEST_KEY, service=service), default_timeout=timedelta(seconds=10)
            )

        models = EndpointModels(
            built_in=ModelEndpoint(url=model.base_url, api_key="", model="stand-in"),
            secrets=SecretFiles(None),
        )
        stack.push_async_callback(models.close)
        peers = PeerClient(TokenIssuer(TEST_KEY, service="orchestrator"))
        stack.push_async_callback(peers.close)
        catalogue = Catalogue(manifests)
        catalogue.load()
        runs = Runs(
            world=World(
                catalogue=catalogue,
                models=models,
                knowledge=KnowledgeClient(rpc(side, "orchestrator")),
                embedder=EmbeddingClient(rpc(side, "orchestrator")),
            ),
            store=SessionClient(
                rpc(f"127.0.0.1:{session.port}", "orchestrator"),
                owner="orchestrator-1",
                address="",
                lease=timedelta(seconds=3),
            ),
            peers=peers,
            clock=SystemClock(),
        )
        await stack.enter_async_context(running(runs))
        scores = AwaitedScores(ScoresClient(rpc(f"127.0.0.1:{session.port}", "orchestrator")))
        servicer = OrchestratorServicer(
            runs=runs, catalogue=catalogue, tokens=PageTokens(TEST_KEY), scores=scores
        )
        target = await stack.enter_async_context(serve_in_process([orchestrator_service(servicer)]))
        yield Live(
            orchestrator=rpc(target, "test"),
            sessions=rpc(f"127.0.0.1:{session.port}", "test"),
            session_process=session,
            retrieval=retrieval,
            model=model,
            runs=runs,
        )


@pytest.fixture(autouse=True)
def as_ada() -> Any:
    with scope(caller=ADA):
        yield


def kinds(log: Sequence[run_pb2.RunEvent]) -> list[str]:
    return [str(event.WhichOneof("event")) for event in log]
