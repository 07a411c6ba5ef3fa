"""The retrieval service as its callers see it, on a real Milvus Lite."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from agentteams.retrieval.v1 import knowledge_base_pb2 as kb_pb
from agentteams.retrieval.v1 import retrieval_service_pb2 as pb

from retrieval.adapters.catalogue import SqlCatalogue
from retrieval.adapters.database import new_engine
from servicekit.context import Caller, scope
from servicekit.errors import FailedPrecondition, InvalidArgument, NotFound, ServiceError, error_from_status
from tests.support.documents import scanned_pdf
from tests.support.milvus import MilvusLite, milvus_lite
from tests.support.retrieval import RetrievalClient, running, settings
from tests.support.retrieval_fixtures import Served, client, embedding, kb, milvus_server

__all__ = ["client", "embedding", "kb", "milvus_server"]

READY = kb_pb.DOCUMENT_STATE_READY
FAILED = kb_pb.DOCUMENT_STATE_FAILED


@pytest.fixture
def retrieval_settings() -> dict[str, Any]:
    return {"max_document_bytes": 2 * 1024 * 1024}


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


async def test_bad_documents_fail_alone(client: RetrievalClient, kb: str) -> None:
    await client.create(kb)
    uploads = {
        "good.pdf": scanned_pdf(["Foxes hunt at night", ""]),
        "broken.pdf": b"%PDF-1.7 and then nothing",
        "scanned.pdf": scanned_pdf(["", ""]),
        "binary.txt": bytes(range(256)) * 40,
        "latin.txt": ("Die Füchse jagen nachts, und die Mäuse flüchten über die Brücke. " * 30).encode(
            "cp1252"
        ),
        "good.md": b"# Foxes\n\nFoxes sleep by day.",
    }
    uploaded = {path: await client.upload(kb, path, data) for path, data in uploads.items()}
    ended = {path: await settled(client, document) for path, document in uploaded.items()}
    assert {path: document.state == READY for path, document in ended.items()} == {
        "good.pdf": True,
        "broken.pdf": False,
        "scanned.pdf": False,
        "binary.txt": False,
        "latin.txt": True,
        "good.md": True,
    }
    assert list(ended["good.pdf"].warnings) == [
        "page 2 of 2 with pictures and no text (scanned?): not indexed; run text recognition (OCR) and "
        "upload the result"
    ]
    assert "guessed" in ended["latin.txt"].warnings[0]
    assert "not a readable PDF" in ended["broken.pdf"].error.message
    assert error_from_status(ended["scanned.pdf"].error).reason == "DOCUMENT_EMPTY"
    assert "UTF-8" in ended["binary.txt"].error.message
    found = await client.search(kb, "when do foxes hunt")
    assert found.outcome == pb.SEARCH_OUTCOME_OK
    assert found.ready_documents == 3
    listed = await client.rpc.unary(
        client.stub.ListDocuments,
        pb.ListDocumentsRequest(parent=f"knowledgeBases/{kb}", state=FAILED, page_size=2),
    )
    assert [document.path for document in listed.documents] == ["binary.txt", "broken.pdf"]
    rest = await client.rpc.unary(
        client.stub.ListDocuments,
        pb.ListDocumentsRequest(
            parent=f"knowledgeBases/{kb}", state=FAILED, page_size=2, page_token=listed.next_page_token
        ),
    )
    assert [document.path for document in rest.documents] == ["scanned.pdf"]
    assert rest.next_page_token == ""
    state = await client.rpc.unary(
        client.stub.GetKnowledgeBase, pb.GetKnowledgeBaseRequest(name=f"knowledgeBases/{kb}")
    )
    assert (state.documents.ready, state.documents.failed, state.chunk_count > 2) == (3, 3, True)


async def test_uploads_that_are_refused(client: RetrievalClient, kb: str, tmp_path: Path) -> None:
    await client.create(kb)
    for path, data, reason in (
        ("empty.txt", b"", "DOCUMENT_EMPTY"),
        ("huge.txt", b"x" * (3 * 1024 * 1024), "DOCUMENT_TOO_LARGE"),
        ("a.png", b"\x89PNG\r\n", "DOCUMENT_TYPE_UNSUPPORTED"),
        ("../a.txt", b"x", "INVALID_FIELD"),
    ):
        with pytest.raises(ServiceError) as caught:
            await client.upload(kb, path, data)
        assert caught.value.reason == reason
    with pytest.raises(NotFound) as missing:
        await client.upload("not-there", "a.txt", b"x")
    assert missing.value.reason == "KNOWLEDGE_BASE_NOT_FOUND"
    assert [path for path in (tmp_path / "originals").rglob("*") if path.is_file()] == []


async def test_modes_and_what_they_cannot(client: RetrievalClient, kb: str, embedding: Served) -> None:
    await client.create(kb)
    await settled(client, await client.upload(kb, "a.md", b"# A\n\nred foxes hunt\n\n# B\n\ncats sleep"))
    before = len(embedding[0].calls)
    sparse = await client.search(kb, "foxes", mode=kb_pb.SEARCH_MODE_SPARSE)
    assert (sparse.outcome, len(sparse.chunks), len(embedding[0].calls)) == (pb.SEARCH_OUTCOME_OK, 1, before)
    dense = await client.search(kb, "red foxes hunt", mode=kb_pb.SEARCH_MODE_DENSE, min_similarity=0.5)
    assert len(dense.chunks) == 1
    assert 0.5 < dense.chunks[0].score <= 1.001
    embedding[0].go_down()
    degraded = await client.search(kb, "foxes")
    assert degraded.outcome == pb.SEARCH_OUTCOME_DEGRADED
    assert [reason.code for reason in degraded.reasons] == [pb.SearchReason.CODE_EMBEDDING_UNAVAILABLE]
    assert len(degraded.chunks) == 1
    for field, value in (
        ("query", " "),
        ("top_k", -1),
        ("mode", 9),
        ("min_similarity", 2.0),
        ("query_vector", b"abc"),
    ):
        request = {"query": "q", "model_fingerprint": "f"} | {field: value}
        with pytest.raises(InvalidArgument) as caught:
            await client.search(kb, **request)  # type: ignore[arg-type]
        assert caught.value.violations[0].field == field


async def test_creating_again(client: RetrievalClient, kb: str, embedding: Served) -> None:
    first = await client.create(kb)
    assert await client.create(kb) == first
    with pytest.raises(FailedPrecondition) as caught:
        await client.create(kb, embedding_model="models/other")
    assert caught.value.reason == "FIELD_IMMUTABLE"
    assert "models/hash" in caught.value.message
    with pytest.raises(NotFound) as missing:
        await client.create(f"{kb}-2", embedding_model="models/other")
    assert missing.value.reason == "MODEL_NOT_FOUND"
    await settled(client, await client.upload(kb, "a.txt", b"red foxes hunt"))
    embedding[0].embedder.fingerprint = "hash-2"
    changed = await client.search(kb, "foxes")
    assert [reason.code for reason in changed.reasons] == [pb.SearchReason.CODE_MODEL_CHANGED]
    moved = await client.create(kb)
    assert moved.model_fingerprint == "hash-2"
    async with asyncio.timeout(10):
        while (found := await client.search(kb, "foxes")).outcome == pb.SEARCH_OUTCOME_DEGRADED:
            assert [reason.code for reason in found.reasons] == [pb.SearchReason.CODE_INDEXING]
            await asyncio.sleep(0.05)
    assert (found.outcome, len(found.chunks)) == (pb.SEARCH_OUTCOME_OK, 1)


async def test_tenants_are_apart(client: RetrievalClient, kb: str) -> None:
    await client.create(kb)
    document = await settled(client, await client.upload(kb, "a.txt", b"red foxes hunt"))
    with scope(caller=Caller("other", "test")):
        for attempt in (
            lambda: client.search(kb, "foxes"),
            lambda: client.document(document.name),
            lambda: client.upload(kb, "b.txt", b"x"),
        ):
            with pytest.raises(NotFound) as caught:
                await attempt()
            assert caught.value.reason == "KNOWLEDGE_BASE_NOT_FOUND"
        listed = await client.rpc.unary(client.stub.ListKnowledgeBases, pb.ListKnowledgeBasesRequest())
        assert list(listed.knowledge_bases) == []
        await client.create(kb)
        assert (await client.search(kb, "foxes")).outcome == pb.SEARCH_OUTCOME_EMPTY
    assert (await client.search(kb, "foxes")).outcome == pb.SEARCH_OUTCOME_OK


async def test_milvus_killed_and_started_again(tmp_path: Path, embedding: Served, kb: str) -> None:
    with milvus_lite(tmp_path / "milvus") as server:
        async with running(
            settings(tmp_path, milvus_uri=server.uri, embedding_target=embedding[1])
        ) as client:
            await client.create(kb)
            await settled(client, await client.upload(kb, "a.txt", b"red foxes hunt"))
            server.kill()
            down = await client.search(kb, "foxes")
            assert (down.outcome, list(down.chunks)) == (pb.SEARCH_OUTCOME_FAILED, [])
            assert [reason.code for reason in down.reasons] == [pb.SearchReason.CODE_STORE_UNAVAILABLE]
            waiting = await client.upload(kb, "b.txt", b"cats sleep all day")
            server.start()
            up = await client.search(kb, "foxes")
            assert "a.txt" in [chunk.document_title for chunk in up.chunks], up.reasons
            assert (await settled(client, waiting)).state == READY


async def test_the_service_killed_in_the_middle_goes_on_after_its_start(
    tmp_path: Path,
    milvus_server: MilvusLite,
    embedding: Served,
    kb: str,
) -> None:
    config = settings(
        tmp_path, milvus_uri=milvus_server.uri, embedding_target=embedding[1], ingest_lease_s=3, ingest=False
    )
    async with running(config) as client:
        await client.create(kb)
        document = await client.upload(kb, "a.txt", b"red foxes hunt")
        engine = new_engine(config.database_url.get_secret_value())
        assert await SqlCatalogue(engine).claim(lease=timedelta(seconds=1), now=datetime.now(UTC))
        await engine.dispose()
        waiting = await client.search(kb, "foxes")
        assert [reason.code for reason in waiting.reasons] == [pb.SearchReason.CODE_INDEXING]
    async with running(config.model_copy(update={"ingest": True})) as client:
        assert (await settled(client, document)).state == READY
        assert len((await client.search(kb, "foxes")).chunks) == 1
