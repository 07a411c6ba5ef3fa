"""KnowledgeBases under a real operator, a real API server and a real retrieval service."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from agentteams.retrieval.v1 import knowledge_base_pb2 as kb_pb
from agentteams.retrieval.v1 import retrieval_service_pb2 as pb

from servicekit.errors import NotFound
from servicekit.testing import TEST_KEY, serve_in_process
from tests.support.kube import Cluster
from tests.support.milvus import MilvusLite, milvus_lite, milvus_server  # noqa: F401
from tests.support.operator_process import WAIT_S, await_condition, condition, running_operator
from tests.support.retrieval import MODEL, HashEmbeddingServicer, RetrievalClient, running, settings

pytestmark = pytest.mark.slow

EMBED = MODEL.removeprefix("models/")


@pytest.fixture
async def embedding() -> AsyncIterator[tuple[HashEmbeddingServicer, str]]:
    servicer = HashEmbeddingServicer()
    async with serve_in_process([servicer.service()]) as target:
        yield servicer, target


@pytest.fixture
async def retrieval(
    tmp_path: Path,
    namespace: str,
    milvus_server: MilvusLite,  # noqa: F811
    embedding: tuple[HashEmbeddingServicer, str],
) -> AsyncIterator[RetrievalClient]:
    folder = tmp_path / "retrieval"
    folder.mkdir()
    made = settings(folder, milvus_uri=milvus_server.uri, embedding_target=embedding[1])
    async with running(made, tenant=namespace) as client:
        yield client


@pytest.fixture
async def operator(
    cluster: Cluster, namespace: str, retrieval: RetrievalClient, tmp_path: Path
) -> AsyncIterator[None]:
    with running_operator(
        cluster,
        tmp_path,
        namespaces=[namespace],
        key=TEST_KEY.to_file(),
        retrieval_target=retrieval.target,
        lease_namespace=namespace,
        lease_s="6",
    ) as process:
        yield
        assert "Traceback" not in process.log


def model() -> dict[str, Any]:
    return {
        "apiVersion": "agentteams.dev/v1alpha1",
        "kind": "ModelConfig",
        "metadata": {"name": EMBED},
        "spec": {"type": "Embedding", "provider": "BuiltIn"},
    }


def knowledge(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "agentteams.dev/v1alpha1",
        "kind": "KnowledgeBase",
        "metadata": {"name": "docs"},
        "spec": {"embedding": {"modelConfigRef": {"name": EMBED}}} | spec,
    }


async def seen(cluster: Cluster, namespace: str, kind: str, reason: str) -> dict[str, Any]:
    """In a thread: the service runs in this loop."""
    return await asyncio.to_thread(await_condition, cluster, namespace, "kb/docs", kind, reason)


async def apply(cluster: Cluster, namespace: str, *objects: dict[str, Any]) -> None:
    await asyncio.to_thread(cluster.apply, *objects, namespace=namespace)


async def kubectl(cluster: Cluster, *arguments: str) -> str:
    return await asyncio.to_thread(cluster.kubectl, *arguments)


async def get(retrieval: RetrievalClient) -> kb_pb.KnowledgeBase:
    request = pb.GetKnowledgeBaseRequest(name="knowledgeBases/docs")
    return await retrieval.rpc.unary(retrieval.stub.GetKnowledgeBase, request)


async def test_from_apply_to_documents_to_deletion(
    cluster: Cluster, namespace: str, retrieval: RetrievalClient, operator: None
) -> None:
    where = f"--namespace={namespace}"
    await apply(cluster, namespace, knowledge(deletionPolicy="Delete"))
    found = await seen(cluster, namespace, "Ready", "ModelConfigNotFound")
    assert condition(found, "Connected")["status"] == "Unknown"
    await apply(cluster, namespace, model())
    found = await seen(cluster, namespace, "Ready", "Ready")
    assert found["metadata"]["finalizers"] == ["agentteams.dev/knowledge"]
    assert "annotations" not in found["metadata"]
    assert found["status"]["embedding"]["dimensions"] == 64
    assert found["status"]["deployment"].startswith("Lite")
    assert condition(found, "CapacityAtRisk")["status"] == "False"
    await retrieval.upload("docs", "a.md", b"# Foxes\n\nThe red fox hunts at night.\n")
    # An update of the manifest is one of the knowledge base, and looks at its documents.
    await apply(cluster, namespace, knowledge(deletionPolicy="Delete", retrieval={"searchMode": "Dense"}))
    await seen(cluster, namespace, "Ready", "Ready")
    assert (await get(retrieval)).search_mode == kb_pb.SEARCH_MODE_DENSE
    path = "jsonpath={.status.documents}"
    async with asyncio.timeout(WAIT_S):
        while await kubectl(cluster, "get", "kb/docs", where, "-o", path) != "1":  # noqa: ASYNC110
            await asyncio.sleep(0.5)
    await kubectl(cluster, "delete", "kb/docs", where, "--timeout=30s")
    with pytest.raises(NotFound):
        await get(retrieval)


async def test_what_is_retained_is_found_again(
    cluster: Cluster, namespace: str, retrieval: RetrievalClient, operator: None
) -> None:
    where = f"--namespace={namespace}"
    await apply(cluster, namespace, model(), knowledge())
    found = await seen(cluster, namespace, "Ready", "Ready")
    assert "finalizers" not in found["metadata"]
    first = await get(retrieval)
    await kubectl(cluster, "delete", "kb/docs", where, "--timeout=30s")
    assert (await get(retrieval)).create_time == first.create_time
    # The old vectors are of other chunks: the service refuses, and its words are in the condition.
    await apply(cluster, namespace, knowledge(chunking={"maxTokens": 300}))
    found = await seen(cluster, namespace, "Accepted", "Refused")
    assert condition(found, "Ready")["reason"] == "Refused"
    await kubectl(cluster, "delete", "kb/docs", where, "--timeout=30s")
    await apply(cluster, namespace, knowledge())
    await seen(cluster, namespace, "Ready", "Ready")


async def test_a_deletion_waits_for_a_service_that_is_away_but_not_for_ever(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    where = f"--namespace={namespace}"
    with running_operator(
        cluster, tmp_path, namespaces=[namespace], retrieval_target="127.0.0.1:9", lease_namespace=namespace
    ):
        await apply(cluster, namespace, model(), knowledge(deletionPolicy="Delete"))
        await seen(cluster, namespace, "Ready", "NoAnswer")
        await kubectl(cluster, "delete", "kb/docs", where, "--wait=false")
        await seen(cluster, namespace, "Ready", "DeletionWaits")
        timeout = "agentteams.dev/deletion-timeout-seconds=1"
        await kubectl(cluster, "annotate", "kb/docs", where, timeout)
        await kubectl(cluster, "wait", "--for=delete", "kb/docs", where, "--timeout=30s")
        told = await kubectl(cluster, "get", "events", where)
        assert "KeptOutside" in told
