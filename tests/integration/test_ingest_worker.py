"""The worker as a process of its own."""

import asyncio
import urllib.request
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from agentteams.retrieval.v1 import knowledge_base_pb2 as kb_pb
from agentteams.retrieval.v1 import retrieval_service_pb2 as pb

from retrieval.core.model import Embedded
from tests.chaos.ingest_cluster import IngestCluster, ingest_cluster
from tests.support.retrieval import HashEmbedder
from tests.support.stack import until

READY = kb_pb.DOCUMENT_STATE_READY
PENDING = kb_pb.DOCUMENT_STATE_PENDING


class Slow(HashEmbedder):
    """Never answers."""

    def __init__(self) -> None:
        super().__init__()
        self.began = asyncio.Event()

    async def embed_passages(self, model: str, texts: Sequence[str]) -> Embedded:
        self.began.set()
        await asyncio.Future()
        raise AssertionError


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[IngestCluster]:
    async with ingest_cluster(tmp_path, workers=1) as cluster:
        yield cluster


@pytest.mark.timeout(120)
async def test_it_indexes_stops_and_gives_back(cluster: IngestCluster) -> None:
    client, worker = cluster.client, cluster.workers[0]
    assert cluster.embedding is not None
    await client.create("kb")

    async def state(document: kb_pb.Document) -> kb_pb.Document:
        return await client.document(document.name)

    async def ready(document: kb_pb.Document) -> bool:
        return (await state(document)).state == READY

    first = await client.upload("kb", "a.md", b"# Foxes\n\nThe red fox hunts at night.")
    await until(lambda: ready(first), what="indexing by the worker")
    url = f"http://127.0.0.1:{worker.metrics_port}/metrics"
    metrics = (await asyncio.to_thread(urllib.request.urlopen, url, timeout=5)).read().decode()
    for stage in ("parse", "embed", "insert", "catalogue"):
        assert f'agentteams_retrieval_ingest_stage_seconds_count{{stage="{stage}"}}' in metrics
    assert "agentteams_retrieval_queue_oldest_seconds 0.0" in metrics

    slow = cluster.embedding.embedder = Slow()
    second = await client.upload("kb", "b.md", b"# Cats\n\nCats sleep all day.")
    async with asyncio.timeout(20):
        await slow.began.wait()
    assert worker.process is not None
    process = worker.process
    await worker.stop()
    assert process.returncode == 0
    given_back = await state(second)
    assert (given_back.state, given_back.attempts) == (PENDING, 0)

    cluster.embedding.embedder = HashEmbedder()
    third = await client.upload("kb", "c.md", b"# Dogs\n\nDogs bark.")
    assert (await state(third)).state == PENDING  # the service does not index
    worker.start()
    await until(lambda: ready(second), within_s=60, what="indexing by the next worker")
    await until(lambda: ready(third), what="indexing of the rest")
    found = await client.rpc.unary(
        client.stub.GetKnowledgeBase, pb.GetKnowledgeBaseRequest(name="knowledgeBases/kb")
    )
    assert found.ingest.documents_per_second > 0
    assert not found.ingest.HasField("oldest_pending_time")
    assert (found.ingest.stray_chunks_removed, found.ingest.documents_requeued) == (0, 0)
