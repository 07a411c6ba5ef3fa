"""The retrieval service as its callers see it, on a real Milvus Lite."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from agentteams.retrieval.v1 import knowledge_base_pb2 as kb_pb
from agentteams.retrieval.v1 import retrieval_service_pb2 as pb

from servicekit.testing import serve_in_process
from tests.support.milvus import MilvusLite, milvus_server  # noqa: F401
from tests.support.retrieval import HashEmbeddingServicer, RetrievalClient, running, settings

READY = kb_pb.DOCUMENT_STATE_READY
FAILED = kb_pb.DOCUMENT_STATE_FAILED


@pytest.fixture
async def embedding() -> AsyncIterator[tuple[HashEmbeddingServicer, str]]:
    servicer = HashEmbeddingServicer()
    async with serve_in_process([servicer.service()]) as target:
        yield servicer, target


@pytest.fixture
async def client(
    tmp_path: Path,
    milvus_server: MilvusLite,  # noqa: F811
    embedding: tuple[HashEmbeddingServicer, str],
) -> AsyncIterator[RetrievalClient]:
    async with running(
        settings(tmp_path, milvus_uri=milvus_server.uri, embedding_target=embedding[1])
    ) as client:
        yield client


@pytest.fixture
def kb() -> str:
    return f"kb-{uuid.uuid4().hex[:12]}"


async def settled(client: RetrievalClient, document: kb_pb.Document) -> kb_pb.Document:
    """The document once it is READY or FAILED."""
    async with asyncio.timeout(30):
        while document.state not in (READY, FAILED):
            await asyncio.sleep(0.05)
            document = await client.document(document.name)
    return document


async def test_upload_index_search_delete(client: RetrievalClient, kb: str) -> None:
    created = await client.create(kb)
    assert created.dimension == 64
    assert created.deployment.startswith("Lite")
    nothing = await client.search(kb, "foxes")
    assert (nothing.outcome, nothing.ready_documents) == (pb.SEARCH_OUTCOME_EMPTY, 0)

    text = b"# Animals\n\n## Foxes\n\nThe red fox hunts at night.\n\n## Cats\n\nCats sleep all day.\n"
    document = await settled(client, await client.upload(kb, "guide/animals.md", text))
    assert (document.state, document.chunk_count) == (READY, 2), document.error
    assert (document.media_type, document.size_bytes) == ("text/markdown", len(text))

    found = await client.search(kb, "where does the red fox hunt")
    assert found.outcome == pb.SEARCH_OUTCOME_OK, found.reasons
    assert found.ready_documents == 1
    best = found.chunks[0]
    assert "red fox" in best.text
    assert (best.document, best.document_title) == (document.name, "guide/animals.md")
    assert best.location == "Animals > Foxes"
    assert [stage.stage for stage in found.stages] == ["embedding", "vector_search"]

    await client.rpc.unary(client.stub.DeleteDocument, pb.DeleteDocumentRequest(name=document.name))
    after = await client.search(kb, "where does the red fox hunt")
    assert (after.outcome, list(after.chunks)) == (pb.SEARCH_OUTCOME_EMPTY, [])
    assert after.revision > found.revision > nothing.revision
    await client.rpc.unary(
        client.stub.DeleteKnowledgeBase, pb.DeleteKnowledgeBaseRequest(name=f"knowledgeBases/{kb}")
    )
