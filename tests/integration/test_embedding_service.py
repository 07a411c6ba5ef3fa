"""The service over gRPC: in process, and as the process that users run."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from agentteams.embedding.v1 import embedding_service_pb2 as pb
from agentteams.embedding.v1 import embedding_service_pb2_grpc as pb_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from embedding.adapters.factory import Factory
from embedding.core.embedding import Embedding
from embedding.core.models import Models
from embedding.core.ports import LocalSource
from embedding.servicer import service
from manifests import Catalogue
from manifests.endpoints import SecretFiles
from servicekit.client import RpcClient
from servicekit.errors import (
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    ServiceError,
    Unavailable,
)
from servicekit.testing import TEST_KEY, rpc_as, serve_in_process
from tests.support.model_server import Fault, ModelServer
from tests.support.ports import free_port
from tests.support.tiny_embedding import DIMENSION, MAX_INPUT_TOKENS, write_tiny_model

MANIFEST = """\
apiVersion: agentteams.dev/v1alpha1
kind: ModelConfig
metadata: {{name: local}}
spec: {{type: Embedding, provider: BuiltIn}}
---
apiVersion: agentteams.dev/v1alpha1
kind: ModelConfig
metadata: {{name: remote}}
spec:
  type: Embedding
  provider: OpenAICompatible
  model: e
  endpoint: {{url: "{url}"}}
  credentialsSecretKeyRef: {{name: models, key: api-key}}
  limits: {{maxRetries: 0}}
---
apiVersion: agentteams.dev/v1alpha1
kind: ModelConfig
metadata: {{name: chat}}
spec: {{type: Chat, provider: BuiltIn}}
"""


class Client:
    """The two calls of the service."""

    def __init__(self, rpc: RpcClient) -> None:
        self._rpc = rpc
        self._stub = pb_grpc.EmbeddingServiceStub(rpc.channel)

    async def embed(self, model: str, *texts: str, kind: int = pb.TEXT_KIND_PASSAGE) -> pb.EmbedResponse:
        request = pb.EmbedRequest(model=model, texts=texts, kind=kind)  # type: ignore[arg-type]
        return await self._rpc.unary(self._stub.Embed, request, timeout=timedelta(seconds=20))

    async def model(self, name: str) -> pb.EmbeddingModel:
        return await self._rpc.unary(self._stub.GetEmbeddingModel, pb.GetEmbeddingModelRequest(name=name))


def rows(response: pb.EmbedResponse) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return np.frombuffer(response.vectors, "<f4").reshape(-1, response.dimension)


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    async with ModelServer(api_key="right") as running:
        yield running


@pytest.fixture
def state(tmp_path: Path, server: ModelServer) -> Path:
    (tmp_path / "manifests").mkdir()
    (tmp_path / "manifests" / "models.yaml").write_text(MANIFEST.format(url=server.base_url))
    (tmp_path / "secrets" / "models").mkdir(parents=True)
    (tmp_path / "secrets" / "models" / "api-key").write_text("right\n")
    write_tiny_model(tmp_path / "model")
    return tmp_path


@pytest.fixture
async def target(state: Path) -> AsyncIterator[str]:
    catalogue = Catalogue(state / "manifests")
    catalogue.load()
    assert catalogue.problems == []
    models = Models(
        builtin=LocalSource(folder=state / "model"),
        configs=catalogue,
        secrets=SecretFiles(state / "secrets"),
        open_embedder=Factory(threads=2, max_queued_texts=300),
    )
    async with serve_in_process([service(Embedding(models=models, cache_bytes=100_000))]) as address:
        yield address
    await models.aclose()


@pytest.fixture
async def client(target: str) -> AsyncIterator[Client]:
    async with rpc_as(target) as rpc:
        yield Client(rpc)


@pytest.mark.parametrize("model", ["models/builtin", "models/local", "models/remote"])
async def test_vectors_over_the_wire(client: Client, model: str) -> None:
    texts = ["the iron tower", "bread and cheese", "a tower of iron"]
    response = await client.embed(model, *texts)
    vectors = rows(response)
    assert vectors.shape == (3, response.dimension)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert response.input_tokens > 6
    described = await client.model(model)
    assert described.name == model
    assert (described.dimension, described.fingerprint) == (
        response.dimension,
        response.model_fingerprint,
    )
    alone = await client.embed(model, texts[1], kind=pb.TEXT_KIND_QUERY)
    assert np.allclose(rows(alone)[0], vectors[1], atol=1e-5)


async def test_the_largest_request(client: Client) -> None:
    response = await client.embed("models/builtin", *["long text " * 40 for _ in range(256)])
    assert rows(response).shape == (256, DIMENSION)
    assert list(response.truncated_indexes) == list(range(256))
    assert response.input_tokens == 256 * MAX_INPUT_TOKENS


async def test_callers_share_requests_to_an_endpoint(client: Client, server: ModelServer) -> None:
    (first,) = rows(await client.embed("models/remote", "number 7", kind=pb.TEXT_KIND_QUERY))
    before = len(server.requests)
    texts = [f"number {n}" for n in range(30)]
    several = [asyncio.create_task(client.embed("models/remote", text)) for text in texts]
    vectors = [rows(await one)[0] for one in several]
    assert np.allclose(vectors[7], first, atol=1e-5)
    assert not np.allclose(vectors[6], first, atol=1e-1)
    asked = [len(received.body["input"]) for received in list(server.requests)[before:]]
    assert sum(asked) == 30
    assert max(asked) > 1
    # By now all are remembered.
    again = await client.embed("models/remote", *texts)
    assert np.array_equal(rows(again)[6], vectors[6])
    assert len(server.requests) == before + len(asked)


async def test_what_is_wrong_is_named(client: Client) -> None:
    with pytest.raises(InvalidArgument) as bad:
        await client.embed("models/builtin", "a", " ")
    assert [v.field for v in bad.value.violations] == ["texts[1]"]
    with pytest.raises(InvalidArgument, match="kind"):
        await client.embed("models/builtin", "a", kind=9)
    with pytest.raises(NotFound, match="models/none"):
        await client.embed("models/none", "a")
    with pytest.raises(NotFound, match="type Chat"):
        await client.model("models/chat")


async def test_other_tenants_do_not_see_the_model(target: str) -> None:
    async with rpc_as(target, tenant="other") as rpc:
        with pytest.raises(NotFound) as caught:
            await Client(rpc).embed("models/remote", "a")
    assert caught.value.reason == "MODEL_NOT_FOUND"


@pytest.mark.parametrize(
    ("fault", "error", "reason"),
    [
        (Fault(kind="status", status=500, times=None), Unavailable, "MODEL_UNAVAILABLE"),
        (Fault(kind="status", status=429, retry_after_s=7), ResourceExhausted, "MODEL_RATE_LIMITED"),
        (Fault(kind="html"), Internal, "MODEL_BAD_RESPONSE"),
        (Fault(kind="status", status=404), FailedPrecondition, "MODEL_REJECTED"),
    ],
)
async def test_an_endpoint_in_trouble(
    client: Client, server: ModelServer, fault: Fault, error: type[ServiceError], reason: str
) -> None:
    server.fail(fault)
    with pytest.raises(error) as caught:
        await client.embed("models/remote", "a text")
    assert caught.value.reason == reason
    assert "e at http://" in caught.value.message
    if reason == "MODEL_RATE_LIMITED":
        assert caught.value.retry_after == timedelta(seconds=7)
    server.clear()
    assert (await client.embed("models/remote", "a text")).dimension == 256


async def test_a_key_that_is_missing_then_wrong_then_right(client: Client, state: Path) -> None:
    file = state / "secrets" / "models" / "api-key"
    file.unlink()
    with pytest.raises(FailedPrecondition, match=r"'api-key' of secret 'models'.*create it"):
        await client.embed("models/remote", "a")
    file.write_text("wrong")
    with pytest.raises(FailedPrecondition, match="HTTP 401"):
        await client.embed("models/remote", "a")
    file.write_text("right")
    assert (await client.embed("models/remote", "a")).dimension == 256


@contextmanager
def running(settings: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`python -m embedding`, stopped by SIGTERM at the end."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("AGENTTEAMS_")} | settings
    with (
        log.open("wb") as out,
        subprocess.Popen(
            [sys.executable, "-m", "embedding"], env=environment, stdout=out, stderr=subprocess.STDOUT
        ) as process,
    ):
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                raise


@asynccontextmanager
async def serving(target: str) -> AsyncIterator[None]:
    async with grpc.aio.insecure_channel(target) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=20, wait_for_ready=True)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        yield


async def test_as_a_process(state: Path, tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(TEST_KEY.to_file())
    port, metrics = free_port(), free_port()
    settings = {
        "AGENTTEAMS_PORT": str(port),
        "AGENTTEAMS_METRICS_PORT": str(metrics),
        "AGENTTEAMS_IDENTITY_KEY_FILE": str(tmp_path / "key"),
        "AGENTTEAMS_BUILTIN_EMBEDDING_DIR": str(state / "model"),
        "AGENTTEAMS_MANIFESTS_DIR": str(state / "manifests"),
        "AGENTTEAMS_SECRETS_DIR": str(state / "secrets"),
    }
    with running(settings, tmp_path / "log") as process:
        target = f"127.0.0.1:{port}"
        async with serving(target), rpc_as(target) as rpc, httpx.AsyncClient(trust_env=False) as http:
            client = Client(rpc)
            await client.embed("models/local", "one", "t" * 200)
            await client.embed("models/remote", "two", kind=pb.TEXT_KIND_QUERY)
            shown = (await http.get(f"http://127.0.0.1:{metrics}/metrics")).text
    assert process.returncode == 0, (tmp_path / "log").read_text()
    for line in (
        'agentteams_embedding_texts_total{kind="passage",provider="onnx"} 2.0',
        'agentteams_embedding_texts_total{kind="query",provider="openai"} 1.0',
        'agentteams_embedding_truncated_texts_total{kind="passage",provider="onnx"} 1.0',
        'agentteams_embedding_seconds_count{kind="passage",provider="onnx"} 1.0',
        'agentteams_embedding_queued_texts{provider="onnx"} 0.0',
        f'agentteams_embedding_tokens_total{{kind="passage",provider="onnx"}} {MAX_INPUT_TOKENS + 5}.0',
    ):
        assert line in shown


def test_a_wrong_folder_ends_the_process_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(TEST_KEY.to_file())
    settings = {
        "AGENTTEAMS_PORT": "0",
        "AGENTTEAMS_IDENTITY_KEY_FILE": str(tmp_path / "key"),
        "AGENTTEAMS_BUILTIN_EMBEDDING_DIR": str(tmp_path / "nothing"),
    }
    with running(settings, tmp_path / "log") as process:
        assert process.wait(20) == 1
    assert "AGENTTEAMS_BUILTIN_EMBEDDING_DIR must name a folder" in (tmp_path / "log").read_text()


def test_wrong_settings_end_the_process_without_showing_the_key(tmp_path: Path) -> None:
    settings = {
        "AGENTTEAMS_IDENTITY_KEY_FILE": str(tmp_path / "key"),
        "AGENTTEAMS_BUILTIN_EMBEDDING_DIR": str(tmp_path),
        "AGENTTEAMS_BUILTIN_EMBEDDING_MODEL": "e",
        "AGENTTEAMS_BUILTIN_EMBEDDING_API_KEY": "sk-not-for-logs",
    }
    with running(settings, tmp_path / "log") as process:
        assert process.wait(20) == 1
    log = (tmp_path / "log").read_text()
    assert "AGENTTEAMS_BUILTIN_EMBEDDING_MODEL are both set" in log
    assert "sk-not-for-logs" not in log
