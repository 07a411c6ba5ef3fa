"""The real services as real processes, with a stand-in for the models.

async with running_stack(folder, chat=Endpoint(url=model.base_url, model="stand-in")) as live:
    await live.apply(QUICKSTART)
    await live.ingest("docs", {"guide.md": b"# Guide ..."})
    client = live.client()
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import yaml
from agentteams.retrieval.v1 import knowledge_base_pb2 as kb
from agentteams.retrieval.v1 import retrieval_service_pb2 as pb
from agentteams.retrieval.v1.retrieval_service_pb2_grpc import RetrievalServiceStub
from openai import APIError, AsyncOpenAI

from agentteams_cli.ports import METRICS_OFFSET
from agentteams_cli.stack import Endpoint, Stack, StackConfig
from servicekit.client import RpcClient, open_channel
from servicekit.context import Caller, scope
from servicekit.errors import NotFound
from servicekit.identity import TokenIssuer, load_key
from tests.support.ports import free_ports

SERVICES = ("milvus", "embedding", "retrieval", "session", "orchestrator", "evaluation", "gateway")
CALLER = Caller("default", "local")
_PIECE_BYTES = 512 * 1024
_DONE = (kb.DOCUMENT_STATE_READY, kb.DOCUMENT_STATE_FAILED)
_MODES = {
    "Dense": kb.SEARCH_MODE_DENSE,
    "Sparse": kb.SEARCH_MODE_SPARSE,
    "Hybrid": kb.SEARCH_MODE_HYBRID,
}

MODELS = """
apiVersion: agentteams.dev/v1alpha1
kind: ModelConfig
metadata: {name: chat}
spec:
  type: Chat
  provider: BuiltIn
  limits: {timeoutSeconds: 2, maxRetries: 1}
---
apiVersion: agentteams.dev/v1alpha1
kind: ModelConfig
metadata: {name: embed}
spec: {type: Embedding, provider: BuiltIn}
"""


def knowledge_base(name: str) -> str:
    """Manifest of a knowledge base."""
    return f"""
apiVersion: agentteams.dev/v1alpha1
kind: KnowledgeBase
metadata: {{name: {name}}}
spec: {{embedding: {{modelConfigRef: {{name: embed}}}}}}
"""


def team(name: str, *members: str, knowledge: str = "docs", search: str = "OnDemand") -> str:
    """Manifest of a team whose members all search the same documents."""
    listed = "\n".join(
        f"  - {{name: {m}, role: Answers from the documents, knowledge: [docs]}}" for m in members
    )
    return f"""
apiVersion: agentteams.dev/v1alpha1
kind: AgentTeam
metadata: {{name: {name}}}
spec:
  modelConfigRef: {{name: chat}}
  members:
{listed}
  knowledge:
  - {{name: docs, knowledgeBaseRef: {{name: {knowledge}}}, topK: 4, search: {search}}}
"""


def cached_embedding_model() -> Path | None:
    """The real embedding model, if it is on this machine already."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    cache = Path(os.environ.get("AGENTTEAMS_CACHE") or Path(home) / "agentteams")
    return next((path.parent for path in sorted(cache.glob("embedding/*/model.onnx"))), None)


async def until(check: Callable[[], Any], *, within_s: float = 20.0, what: str = "it") -> Any:
    """Asks (a plain or an async check) until the answer is true; returns that.

    Raises:
        TimeoutError: It was not within `within_s`.
    """
    deadline = asyncio.get_running_loop().time() + within_s
    while True:
        answer = check()
        if asyncio.iscoroutine(answer):
            answer = await answer
        if answer:
            return answer
        if asyncio.get_running_loop().time() > deadline:
            raise TimeoutError(f"{what} did not happen within {within_s} s")
        await asyncio.sleep(0.05)  # polling another process; nothing here tells us


@dataclass(frozen=True, kw_only=True)
class LiveStack:
    """A stack that serves."""

    stack: Stack
    rpc: RpcClient
    exits: AsyncExitStack

    @property
    def url(self) -> str:
        """Base URL of the OpenAI API."""
        return self.stack.gateway_url

    def client(self, *, timeout_s: float = 60.0) -> AsyncOpenAI:
        """A client that asks once and is closed with the stack."""
        client = AsyncOpenAI(base_url=self.url, api_key="none", max_retries=0, timeout=timeout_s)
        self.exits.push_async_callback(client.close)
        return client

    async def apply(self, *manifests: str, file: str = "test.yaml") -> None:
        """Writes manifests, makes their knowledge bases, and waits until their teams are ready."""
        text = "\n---\n".join(manifests)
        path = self.stack.state.manifests / file
        temporary = path.with_suffix(".tmp")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
        objects = [document for document in yaml.safe_load_all(text) if document]
        for found in objects:
            if found["kind"] == "KnowledgeBase":
                await self._create(found)
        teams = [found["metadata"] for found in objects if found["kind"] == "AgentTeam"]
        names = [team["name"] for team in teams if team.get("namespace", "default") == "default"]  # ours
        client = self.client()

        async def all_ready() -> bool:
            try:
                models = {model.id: model async for model in client.models.list()}
            except APIError:
                return False
            shown = [(models[name].model_extra or {})["agentteams"] for name in names if name in models]
            return len(shown) == len(names) and all(team["ready"] for team in shown)

        await until(all_ready, what=f"teams {names} ready")

    async def ingest(
        self, name: str, files: Mapping[str, bytes], *, within_s: float = 60.0
    ) -> dict[str, kb.Document]:
        """Uploads files and waits until each is indexed or has failed. Raises: ServiceError."""
        stub = RetrievalServiceStub(self.rpc.channel)
        parent = f"knowledgeBases/{name}"

        async def parts(path: str, content: bytes) -> AsyncIterator[pb.UploadDocumentRequest]:
            yield pb.UploadDocumentRequest(header=pb.UploadHeader(parent=parent, path=path))
            for begin in range(0, len(content), _PIECE_BYTES):
                yield pb.UploadDocumentRequest(content=content[begin : begin + _PIECE_BYTES])

        with scope(caller=CALLER):
            documents = {
                path: await self.rpc.client_stream(stub.UploadDocument, parts(path, content))
                for path, content in files.items()
            }

            async def all_done() -> bool:
                for path, document in documents.items():
                    if document.state not in _DONE:
                        request = pb.GetDocumentRequest(name=document.name)
                        documents[path] = await self.rpc.unary(stub.GetDocument, request)
                return all(document.state in _DONE for document in documents.values())

            await until(all_done, within_s=within_s, what=f"ingest of {len(files)} files")
        return documents

    async def kill(self, service: str) -> None:
        """Kills a service as nothing else would end it; the stack starts it again."""
        os.kill(self.stack.services[service].pid, signal.SIGKILL)

    async def healthy(self, *, within_s: float = 60.0) -> None:
        """Waits until every service is ready (again)."""
        for service in self.stack.services.values():
            await service.wait_ready(asyncio.get_running_loop().time() + within_s)

    async def _create(self, found: Mapping[str, Any]) -> None:
        spec = found["spec"]
        chunking = spec.get("chunking", {})
        wanted = kb.KnowledgeBase(
            name=f"knowledgeBases/{found['metadata']['name']}",
            embedding_model=f"models/{spec['embedding']['modelConfigRef']['name']}",
            chunking=kb.Chunking(
                max_tokens=chunking.get("maxTokens", 200), overlap_tokens=chunking.get("overlapTokens", 30)
            ),
            search_mode=_MODES[spec.get("retrieval", {}).get("searchMode", "Hybrid")],
        )
        request = pb.CreateKnowledgeBaseRequest(knowledge_base=wanted)
        stub = RetrievalServiceStub(self.rpc.channel)

        async def created() -> bool:
            try:
                await self.rpc.unary(stub.CreateKnowledgeBase, request)
            except NotFound:
                return False  # the embedding service has not seen the new ModelConfig yet
            return True

        with scope(caller=CALLER):
            await until(created, what=f"creation of {wanted.name}")


def stack_ports() -> dict[str, int]:
    """A free one for each service; those of metrics are so far above them."""
    return dict(zip(SERVICES, free_ports(len(SERVICES), apart=METRICS_OFFSET), strict=True))


@asynccontextmanager
async def running_stack(
    folder: Path,
    *,
    chat: Endpoint,
    embedding: Path | Endpoint | None = None,
    extra_env: Mapping[str, str] | None = None,
) -> AsyncIterator[LiveStack]:
    """Starts all services on free ports; none is left when the block ends."""
    config = StackConfig(
        state_dir=folder,
        chat=chat,
        embedding=embedding or cached_embedding_model() or chat,
        ports=stack_ports(),
        extra_env=extra_env or {},
        start_timeout_s=60.0,
    )
    async with AsyncExitStack() as exits:
        stack = await exits.enter_async_context(Stack(config))
        channel = open_channel(f"127.0.0.1:{stack.services['retrieval'].port}")
        exits.push_async_callback(channel.close)
        issuer = TokenIssuer(load_key(stack.state.identity_key), service="test")
        rpc = RpcClient(channel, issuer=issuer, default_timeout=timedelta(seconds=30))
        yield LiveStack(stack=stack, rpc=rpc, exits=exits)
