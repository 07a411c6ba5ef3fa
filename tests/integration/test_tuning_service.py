"""Tuning as a caller sees it: the whole service on a real Milvus Lite and on a real Standalone."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from agentteams.retrieval.v1 import index_pb2
from agentteams.retrieval.v1 import knowledge_base_pb2 as kb_pb
from agentteams.retrieval.v1 import retrieval_service_pb2 as pb

from servicekit.errors import FailedPrecondition, NotFound
from servicekit.testing import serve_in_process
from tests.support.milvus import MilvusLite, milvus_server  # noqa: F401
from tests.support.milvus_server import MilvusStandalone, milvus_standalone  # noqa: F401
from tests.support.retrieval import HashEmbeddingServicer, RetrievalClient, running, settings

DONE, FAILED = index_pb2.Tuning.STATE_DONE, index_pb2.Tuning.STATE_FAILED


@pytest.fixture(params=["milvus_server", "milvus_standalone"])
async def client(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[RetrievalClient]:
    milvus: MilvusLite | MilvusStandalone = request.getfixturevalue(request.param)
    embedding = HashEmbeddingServicer()
    async with serve_in_process([embedding.service()]) as target:
        configured = settings(
            tmp_path,
            milvus_uri=milvus.uri,
            embedding_target=target,
            tuning_queries=60,
            snapshot_ttl_s=0.1,
        )
        async with running(configured) as client:
            yield client


@pytest.fixture
def kb() -> str:
    return f"kb-{uuid.uuid4().hex[:12]}"


async def get(client: RetrievalClient, kb: str) -> kb_pb.KnowledgeBase:
    request = pb.GetKnowledgeBaseRequest(name=f"knowledgeBases/{kb}")
    return await client.rpc.unary(client.stub.GetKnowledgeBase, request)


async def tune(client: RetrievalClient, kb: str) -> index_pb2.Tuning:
    request = pb.TuneKnowledgeBaseRequest(name=f"knowledgeBases/{kb}")
    return await client.rpc.unary(client.stub.TuneKnowledgeBase, request)


async def tuned(client: RetrievalClient, kb: str, *, containing: str = "") -> kb_pb.KnowledgeBase:
    async with asyncio.timeout(60):
        while True:
            found = await get(client, kb)
            tuning = found.index_status.tuning
            if tuning.state in (DONE, FAILED) and containing in tuning.message:
                return found
            await asyncio.sleep(0.1)


async def filled(client: RetrievalClient, kb: str, documents: int = 3) -> None:
    for number in range(documents):
        words = [f"Paragraph {n} of {number} speaks of thing{n * 7 + number}." for n in range(20)]
        await client.upload(kb, f"{number}.md", "\n\n".join(words * 3).encode())
    async with asyncio.timeout(30):
        while True:
            if (await get(client, kb)).documents.ready >= documents:
                return
            await asyncio.sleep(0.1)


async def test_tuned_on_demand_with_the_queries_that_were_asked(client: RetrievalClient, kb: str) -> None:
    await client.create(kb, chunking=kb_pb.Chunking(max_tokens=20, overlap_tokens=0))
    await filled(client, kb)
    before = await get(client, kb)
    assert before.index_status.type == index_pb2.INDEX_TYPE_HNSW
    assert not before.index_status.HasField("tuning")
    assert before.capacity.memory_bytes > 0
    assert not before.capacity.at_risk
    for number in range(5):
        await client.search(kb, f"thing{number}")

    assert (await tune(client, kb)).state == index_pb2.Tuning.STATE_PENDING
    found = await tuned(client, kb)
    status = found.index_status
    assert status.tuning.state == DONE, status.tuning.message
    assert status.search_params["ef"] >= 10
    assert status.tuning.recall_percent >= 95
    assert status.tuning.queries == 60
    assert status.tuning.chunk_count == found.chunk_count
    assert status.tuning.curve
    assert (await client.search(kb, "thing3")).chunks


async def test_another_index_is_built_beside_the_one_in_use(client: RetrievalClient, kb: str) -> None:
    await client.create(
        kb,
        chunking=kb_pb.Chunking(max_tokens=20, overlap_tokens=0),
        search_mode=kb_pb.SEARCH_MODE_DENSE,  # 2.3.5 has no other
    )
    await filled(client, kb)
    before = [chunk.score for chunk in (await client.search(kb, "thing1 paragraph", top_k=10)).chunks]
    update = pb.UpdateKnowledgeBaseRequest(
        knowledge_base=kb_pb.KnowledgeBase(
            name=f"knowledgeBases/{kb}", index=index_pb2.IndexPolicy(type=index_pb2.INDEX_TYPE_IVF_FLAT)
        )
    )
    update.update_mask.paths.append("index")
    await client.rpc.unary(client.stub.UpdateKnowledgeBase, update)
    await tune(client, kb)
    failures: list[str] = []
    done = asyncio.Event()

    async def go_on_searching() -> None:
        while not done.is_set():
            answer = await client.search(kb, "thing1 paragraph")
            if answer.outcome != pb.SEARCH_OUTCOME_OK:
                failures.extend(reason.message for reason in answer.reasons)
            await asyncio.sleep(0.05)

    async with asyncio.TaskGroup() as group:
        group.create_task(go_on_searching())
        try:
            found = await tuned(client, kb, containing="built anew")
        finally:
            done.set()
    assert failures == []
    assert found.index_status.type == index_pb2.INDEX_TYPE_IVF_FLAT
    assert found.index_status.search_params["nprobe"] >= 1
    # The chunks are alike in threes, so that which of them is found is chance: how near they are is not.
    after = [chunk.score for chunk in (await client.search(kb, "thing1 paragraph", top_k=10)).chunks]
    assert after[0] == pytest.approx(before[0], abs=1e-4)
    assert len(after) == len(before) == 10
    # Indexing goes on there.
    await filled(client, kb, documents=4)
    assert (await client.search(kb, "thing3")).outcome == pb.SEARCH_OUTCOME_OK


async def test_a_shared_collection_is_not_tuned(client: RetrievalClient, kb: str) -> None:
    await client.create(kb, tenancy=kb_pb.TENANCY_PARTITION_KEY)
    with pytest.raises(FailedPrecondition) as caught:
        await tune(client, kb)
    assert caught.value.reason == "TUNING_UNSUPPORTED"
    with pytest.raises(NotFound):
        await tune(client, "nothing")
