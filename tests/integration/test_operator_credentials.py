"""From a tenant's Secret through the operator to the embedding service, which may read no Secret."""

import asyncio
import base64
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from agentteams.embedding.v1 import embedding_service_pb2 as pb
from agentteams.embedding.v1 import embedding_service_pb2_grpc as pb_grpc

from agentteams_operator.core.credentials import NAME
from embedding.__main__ import build
from embedding.settings import Settings
from servicekit.errors import FailedPrecondition, ServiceError
from servicekit.testing import rpc_as, serve_in_process
from tests.support.kube import Cluster, KubectlError
from tests.support.operator_process import FakeEndpoint, model, running_operator

pytestmark = pytest.mark.slow

_PATIENCE_S = 40
KEY: dict[str, Any] = {"credentialsSecretKeyRef": {"name": "llm", "key": "apiKey"}}


@pytest.fixture
def system(cluster: Cluster, tmp_path: Path) -> Iterator[str]:
    """The installation's namespace, with an operator."""
    with cluster.namespace("system") as name:
        with running_operator(
            cluster, tmp_path, lease_namespace=name, system_namespace=name, lease_s="6"
        ) as operator:
            yield name
        assert "Traceback" not in operator.log
        assert "sk-" not in operator.log


def secret(**values: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "llm"}, "stringData": values}


def held(cluster: Cluster, system: str) -> dict[str, str] | None:
    try:
        found = cluster.get(f"secret/{NAME}", f"--namespace={system}")
    except KubectlError:
        return None
    return {name: base64.b64decode(value).decode() for name, value in found.get("data", {}).items()}


async def until(true: Callable[[], Any]) -> None:
    async with asyncio.timeout(_PATIENCE_S):
        while not await asyncio.to_thread(true):  # noqa: ASYNC110  in another process
            await asyncio.sleep(0.1)


@asynccontextmanager
async def embedding(folder: Path) -> AsyncIterator[str]:
    """The embedding service as the chart sets it up."""
    async with AsyncExitStack() as stack:
        made = await build(
            Settings(identity_key_file=folder, manifests_cluster=True, secrets_dir=folder), stack
        )
        tasks = [asyncio.ensure_future(task()) for task in made.tasks]
        try:
            assert made.ready is not None
            async with asyncio.timeout(_PATIENCE_S):
                await made.ready()
            yield await stack.enter_async_context(serve_in_process(made.services))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


async def embed(target: str, tenant: str, model: str = "models/m") -> int:
    async with rpc_as(target, tenant=tenant) as rpc:
        request = pb.EmbedRequest(model=model, texts=["a"], kind=pb.TEXT_KIND_QUERY)
        answer = await rpc.unary(pb_grpc.EmbeddingServiceStub(rpc.channel).Embed, request)
    return int(answer.dimension)


async def test_a_key_arrives_is_rotated_and_goes(
    cluster: Cluster, system: str, endpoint: FakeEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))
    endpoint.key = "sk-one"
    mounted = tmp_path / "mounted"
    mounted.mkdir()

    def mount() -> dict[str, str]:
        """What the kubelet does."""
        now = held(cluster, system) or {}
        for name, value in now.items():
            (mounted / name).write_text(value)
        return now

    with cluster.namespace() as a, cluster.namespace() as b:
        for namespace, value in ((a, "sk-one"), (b, "sk-two")):
            cluster.apply(
                secret(apiKey=value, other="sk-other"),
                model(endpoint, type="Embedding", limits={"maxRetries": 0}, **KEY),
                model(endpoint, "chat", credentialsSecretKeyRef={"name": "llm", "key": "other"}),
                namespace=namespace,
            )
        wanted = {f"{a}__llm__apiKey": "sk-one", f"{b}__llm__apiKey": "sk-two"}
        await until(lambda: mount() == wanted)
        async with embedding(mounted) as target:
            assert await embed(target, a) == endpoint.dimensions
            with pytest.raises(FailedPrecondition, match="HTTP 401"):
                await embed(target, b)
            cluster.apply(secret(apiKey="sk-one"), namespace=b)
            await until(lambda: mount()[f"{b}__llm__apiKey"] == "sk-one")
            assert await embed(target, b) == endpoint.dimensions
            with pytest.raises(ServiceError, match="no ModelConfig"):
                await embed(target, "another")
        cluster.kubectl("delete", "mc/m", f"--namespace={a}")
        await until(lambda: held(cluster, system) == {f"{b}__llm__apiKey": "sk-one"})
        # What somebody changes in it is put right.
        cluster.kubectl("delete", f"secret/{NAME}", f"--namespace={system}")
        await until(lambda: held(cluster, system) == {f"{b}__llm__apiKey": "sk-one"})
        cluster.kubectl("delete", "mc/m", f"--namespace={b}")
        await until(lambda: held(cluster, system) is None)
