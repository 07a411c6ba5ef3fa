"""The quality of a KnowledgeBase as a condition: real operator, real API server, real retrieval service."""

import asyncio
import re
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from agentteams.retrieval.v1 import evaluation_pb2 as evaluation_pb
from prometheus_client import generate_latest

from tests.integration.test_operator_knowledge import (
    apply,
    embedding,
    get,
    knowledge,
    kubectl,
    model,
    operator,
    seen,
)
from tests.support.alerts import Timeline
from tests.support.kube import Cluster
from tests.support.milvus import MilvusLite, milvus_lite, milvus_server  # noqa: F401
from tests.support.operator_process import condition
from tests.support.retrieval import HashEmbeddingServicer, RetrievalClient, running, settings
from tests.support.stack import until

__all__ = ["embedding", "operator"]

pytestmark = pytest.mark.slow

GOLDEN = """\
queries:
- {query: where do foxes hunt, relevant: [foxes.md]}
- {query: how long do cats sleep, relevant: {cats.md: 2}}
"""
TEXTS = {"foxes.md": b"# Foxes\n\nFoxes hunt at night.\n", "cats.md": b"# Cats\n\nCats sleep all day.\n"}
OTHERS = [b"# Rain\n\nIt rains in spring.\n", b"# Tax\n\nAn invoice has a number.\n"]
# So many others that what is irrelevant is not among the first ten by chance.
FILLERS = {f"{number}.md": f"# {number}\n\nwhere do they hunt {number}".encode() for number in range(12)}
EVALUATION = {
    "goldenSetRef": {"configMapKeyRef": {"name": "golden", "key": "docs.yaml"}},
    "thresholds": {"recallAt10": "0.9", "mrr": "0.4"},
}
CONFIG_MAP = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "golden"}}


@pytest.fixture
async def retrieval(
    tmp_path: Path,
    namespace: str,
    milvus_server: MilvusLite,  # noqa: F811
    embedding: tuple[HashEmbeddingServicer, str],
) -> AsyncIterator[RetrievalClient]:
    folder = tmp_path / "retrieval"
    folder.mkdir()
    made = settings(folder, milvus_uri=milvus_server.uri, embedding_target=embedding[1], quality_poll_s=0.2)
    async with running(made, tenant=namespace) as client:
        yield client


async def put(retrieval: RetrievalClient, texts: dict[str, bytes]) -> None:
    """Uploads, and waits until they can be found."""
    for path, data in texts.items():
        await retrieval.upload("docs", path, data)

    async def indexed() -> bool:
        counts = (await get(retrieval)).documents
        return counts.pending + counts.indexing == 0

    await until(indexed, within_s=60, what="all documents READY")


async def evaluate(retrieval: RetrievalClient) -> None:
    """As `agentteams evaluate` does: nobody waits for tomorrow."""
    request = evaluation_pb.EvaluateKnowledgeBaseRequest(name="knowledgeBases/docs")
    call = retrieval.stub.EvaluateKnowledgeBase
    async for _ in retrieval.rpc.server_stream(call, request, timeout=timedelta(seconds=30)):
        pass


async def quarter(line: Timeline, state: str) -> None:
    """Fifteen minutes of what the service serves, as soon as its worker has looked."""
    wanted = f'agentteams_retrieval_quality_knowledge_bases{{state="{state}"}} 1.0'

    async def served() -> bool:
        return wanted in generate_latest().decode()

    await until(served, within_s=30, what=wanted)
    line.add(generate_latest().decode(), minutes=15)


async def wait_for(cluster: Cluster, where: str, status: str, note: str) -> dict[str, Any]:
    """The operator looks each minute, and whenever the object is touched."""
    await kubectl(cluster, "annotate", "--overwrite", "kb/docs", where, f"note={note}")
    wanted = f"--for=condition=QualityDegraded={status}"
    await kubectl(cluster, "wait", wanted, "kb/docs", where, "--timeout=40s")
    return await asyncio.to_thread(cluster.get, "kb/docs", where)


async def test_an_irrelevant_index_degrades_it_and_the_recovery_mends_it(
    cluster: Cluster,
    namespace: str,
    retrieval: RetrievalClient,
    operator: None,
    tmp_path: Path,
) -> None:
    line = Timeline()
    where = f"--namespace={namespace}"
    await apply(cluster, namespace, model(), knowledge(evaluation=EVALUATION))
    found = await seen(cluster, namespace, "ResolvedRefs", "ConfigMapNotFound")
    assert "kubectl create configmap golden" in condition(found, "ResolvedRefs")["message"]
    assert condition(found, "QualityDegraded")["status"] == "Unknown"
    assert condition(found, "Ready")["status"] == "True"
    await put(retrieval, TEXTS | FILLERS)
    await apply(cluster, namespace, CONFIG_MAP | {"data": {"docs.yaml": GOLDEN}})
    found = await wait_for(cluster, where, "False", "measured")
    assert condition(found, "ResolvedRefs")["status"] == "True"
    good = found["status"]["quality"]
    assert (good["verdict"], good["goldenSet"], good["recallAt10"]) == ("Good", "golden/docs.yaml", "1.0000")
    assert found["status"]["index"]["type"] == "HNSW"
    await quarter(line, "GOOD")
    line.expect("AgentTeamsKnowledgeDegraded", firing=[])
    table = await kubectl(cluster, "get", "kb/docs", where)
    assert "QUALITY" in table
    assert "Good" in table

    await put(retrieval, dict(zip(TEXTS, OTHERS, strict=True)))
    await evaluate(retrieval)
    found = await wait_for(cluster, where, "True", "planted")
    told = condition(found, "QualityDegraded")
    assert told["reason"] == "BelowThresholds"
    assert re.search(r"MRR@10 is 0\.[0-3]\d+, below its threshold 0\.4", told["message"])
    assert found["status"]["quality"]["verdict"] == "Degraded"
    assert condition(found, "Ready")["status"] == "True"
    await quarter(line, "DEGRADED")
    line.expect("AgentTeamsKnowledgeDegraded", firing=[{}])

    await put(retrieval, TEXTS)
    await evaluate(retrieval)
    found = await wait_for(cluster, where, "False", "mended")
    since = condition(found, "QualityDegraded")
    assert since["reason"] == "AboveThresholds"
    await quarter(line, "GOOD")
    line.expect("AgentTeamsKnowledgeDegraded", firing=[])
    await asyncio.to_thread(line.check, tmp_path)  # what set the condition set off the alert
    # Another field of the spec says nothing of the quality.
    await apply(cluster, namespace, knowledge(evaluation=EVALUATION, retrieval={"topK": 4}))
    found = await seen(cluster, namespace, "QualityDegraded", "AboveThresholds")
    assert condition(found, "QualityDegraded")["lastTransitionTime"] == since["lastTransitionTime"]
    events = await kubectl(cluster, "get", "events", where)
    assert "QualityDegraded" in events
    assert "QualityRestored" in events
    await apply(cluster, namespace, knowledge())
    await seen(cluster, namespace, "ResolvedRefs", "AllFound")
    found = await asyncio.to_thread(cluster.get, "kb/docs", where)
    assert condition(found, "QualityDegraded") == {}
    assert "quality" not in found["status"]
