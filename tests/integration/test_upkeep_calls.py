"""Retries, moves and comparisons over gRPC, on a real Milvus Lite."""

import asyncio
from pathlib import Path

import pytest
from agentteams.retrieval.v1 import knowledge_base_pb2 as kb_pb
from agentteams.retrieval.v1 import retrieval_service_pb2 as pb

from retrieval.adapters.catalogue import SqlCatalogue
from retrieval.adapters.database import new_engine
from retrieval.adapters.milvus import MilvusStore
from servicekit.errors import AlreadyExists, InvalidArgument, NotFound
from tests.support.milvus import MilvusLite
from tests.support.retrieval import RetrievalClient
from tests.support.retrieval_fixtures import Served, client, embedding, kb, milvus_server, retrieval_settings
from tests.support.stack import until

__all__ = ["client", "embedding", "kb", "milvus_server", "retrieval_settings"]

READY, FAILED = kb_pb.DOCUMENT_STATE_READY, kb_pb.DOCUMENT_STATE_FAILED
TEXT = b"# Foxes\n\n## Red\n\nThe red fox hunts at night.\n\n## Arctic\n\nThe arctic fox is white."


async def settled(client: RetrievalClient, name: str, state: int = READY) -> kb_pb.Document:
    async def there() -> bool:
        return (await client.document(name)).state == state

    await until(there, what=f"state {state}")
    return await client.document(name)


async def test_moved_retried_compared(
    client: RetrievalClient,
    milvus_server: MilvusLite,
    embedding: Served,
    kb: str,
    tmp_path: Path,
) -> None:
    parent = f"knowledgeBases/{kb}"
    await client.create(kb)
    old = await settled(client, (await client.upload(kb, "a.md", TEXT)).name)

    asked = len(embedding[0].calls)
    moved = await client.rpc.unary(
        client.stub.MoveDocument, pb.MoveDocumentRequest(name=old.name, new_path="animals/foxes.md")
    )
    done = await settled(client, moved.name)
    assert (done.path, done.chunk_count, len(embedding[0].calls)) == (
        "animals/foxes.md",
        old.chunk_count,
        asked,
    )
    with pytest.raises(NotFound):
        await client.document(old.name)

    async def only_there() -> bool:
        found = await client.search(kb, "the red fox", top_k=20)
        return {chunk.document for chunk in found.chunks} == {moved.name}

    await until(only_there, what="the end of the old chunks")
    other = await client.upload(kb, "b.md", TEXT)
    with pytest.raises(AlreadyExists):
        await client.rpc.unary(
            client.stub.MoveDocument, pb.MoveDocumentRequest(name=other.name, new_path="animals/foxes.md")
        )
    with pytest.raises(InvalidArgument):
        await client.rpc.unary(
            client.stub.MoveDocument, pb.MoveDocumentRequest(name=moved.name, new_path="/x")
        )

    broken = await client.upload(kb, "c.pdf", b"%PDF-1.7 and then nothing")
    await settled(client, broken.name, FAILED)
    request = pb.RetryDocumentsRequest(parent=parent, names=[broken.name, moved.name])
    assert (await client.rpc.unary(client.stub.RetryDocuments, request)).queued == 1
    await settled(client, broken.name, FAILED)
    names = [broken.name.replace(parent, "knowledgeBases/other")]
    with pytest.raises(InvalidArgument) as elsewhere:
        await client.rpc.unary(
            client.stub.RetryDocuments, pb.RetryDocumentsRequest(parent=parent, names=names)
        )
    assert elsewhere.value.violations[0].field == "names[0]"
    with pytest.raises(NotFound):
        await client.rpc.unary(client.stub.RetryDocuments, pb.RetryDocumentsRequest(parent=f"{parent}-2"))

    await lose(milvus_server, tmp_path, kb, moved.name.rpartition("/")[2])
    compare = pb.ReconcileKnowledgeBaseRequest(name=parent)
    outcome = await client.rpc.unary(client.stub.ReconcileKnowledgeBase, compare)
    assert (outcome.stray_chunks_removed, outcome.documents_requeued) == (0, 1)
    mended = await settled(client, moved.name)
    assert mended.chunk_count == old.chunk_count
    again = await client.rpc.unary(client.stub.ReconcileKnowledgeBase, compare)
    assert again == pb.ReconcileKnowledgeBaseResponse()
    state = await client.rpc.unary(client.stub.GetKnowledgeBase, pb.GetKnowledgeBaseRequest(name=parent))
    assert state.ingest.documents_requeued == 1
    assert state.ingest.last_error.startswith("c.pdf: ")
    assert state.ingest.HasField("reconcile_time")
    listed = await client.rpc.unary(client.stub.ListKnowledgeBases, pb.ListKnowledgeBasesRequest())
    assert [found.ingest.documents_requeued for found in listed.knowledge_bases] == [1]


async def lose(milvus: MilvusLite, folder: Path, kb: str, document: str) -> None:
    """One chunk of the document, behind the service's back."""
    engine = new_engine(f"sqlite:///{folder / 'retrieval.db'}")
    store = MilvusStore(uri=milvus.uri)
    try:
        async with asyncio.timeout(20):
            snapshot = await SqlCatalogue(engine).snapshot("default", kb)
            assert snapshot is not None
            place = snapshot.knowledge_base.place
            await store.delete_chunks(place, (await store.chunk_ids(place, document))[:1])
    finally:
        await store.close()
        await engine.dispose()
