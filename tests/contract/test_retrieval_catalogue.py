"""The retrieval catalogue and its queue, on each database it runs on."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Connection, inspect

from retrieval.adapters.catalogue import SqlCatalogue
from retrieval.adapters.database import new_engine
from retrieval.adapters.migrate import migrate
from retrieval.adapters.tables import metadata
from retrieval.core.model import (
    Chunking,
    Claim,
    Document,
    DocumentError,
    DocumentState,
    KnowledgeBase,
    KnowledgeBaseSpec,
    Place,
    SearchMode,
)
from retrieval.core.names import document_id
from servicekit.errors import NotFound
from tests.support.postgres import shared_postgres

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LEASE = timedelta(seconds=60)
KB = KnowledgeBase(
    tenant="default",
    id="kb",
    spec=KnowledgeBaseSpec(embedding_model="models/m", chunking=Chunking(), search_mode=SearchMode.HYBRID),
    dimension=8,
    model_fingerprint="f1",
    revision=1,
    alias="alias",
    collection="c1",
    create_time=NOW,
)


@pytest.fixture(params=["sqlite", "postgres"])
async def catalogue(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SqlCatalogue]:
    if request.param == "sqlite":
        engine = new_engine(f"sqlite:///{tmp_path / 'catalogue.db'}")
    else:
        server = shared_postgres()
        engine = new_engine(server.url(await server.create()))
    if request.param == "postgres":  # replicas that start together
        await asyncio.gather(migrate(engine), migrate(engine))
    else:
        await migrate(engine)
    await migrate(engine)  # nothing is left to do
    catalogue = SqlCatalogue(engine)
    await catalogue.check()
    assert await catalogue.insert_knowledge_base(KB)
    yield catalogue
    await engine.dispose()


def document(path: str = "a.md", *, sha256: str = "1" * 64, at: datetime = NOW, **more: str) -> Document:
    return Document(
        tenant=more.get("tenant", "default"),
        knowledge_base="kb",
        id=document_id(path),
        path=path,
        media_type="text/markdown",
        size_bytes=10,
        sha256=sha256,
        blob=f"blob-{path}-{sha256[:4]}-{at.timestamp()}",
        state=DocumentState.PENDING,
        create_time=at,
        update_time=at,
    )


async def claimed(catalogue: SqlCatalogue, at: datetime = NOW) -> Claim:
    claim = await catalogue.claim(lease=LEASE, now=at)
    assert claim is not None
    return claim


async def state(catalogue: SqlCatalogue, path: str = "a.md") -> DocumentState:
    found = await catalogue.get_document("default", "kb", document_id(path))
    assert found is not None
    return found.state


async def test_migrations_make_the_tables_that_the_code_uses(catalogue: SqlCatalogue) -> None:
    def columns(connection: Connection) -> dict[str, set[str]]:
        found = inspect(connection)
        return {name: {c["name"] for c in found.get_columns(name)} for name in metadata.tables}

    async with catalogue._engine.connect() as connection:
        migrated = await connection.run_sync(columns)
    assert migrated == {name: set(table.columns.keys()) for name, table in metadata.tables.items()}


async def test_upload_claim_finish(catalogue: SqlCatalogue) -> None:
    stored, unused = await catalogue.put_document(document())
    assert (stored.state, unused) == (DocumentState.PENDING, None)
    claim = await claimed(catalogue)
    assert (claim.document.path, claim.document.attempts) == ("a.md", 1)
    assert await catalogue.claim(lease=LEASE, now=NOW) is None
    assert await catalogue.finish(claim, collection="c1", chunk_count=3, warnings=["w"], now=NOW)
    snapshot = await catalogue.snapshot("default", "kb")
    assert snapshot is not None
    assert (snapshot.counts.ready, snapshot.counts.chunks) == (1, 3)
    assert snapshot.knowledge_base.revision > KB.revision
    assert not await catalogue.finish(claim, collection="c1", chunk_count=3, warnings=[], now=NOW)
    again = document(at=NOW + timedelta(seconds=1))
    assert (await catalogue.put_document(again))[1] == again.blob
    other = document(sha256="2" * 64, at=NOW + timedelta(seconds=2))
    replaced, unused = await catalogue.put_document(other)
    assert (replaced.state, replaced.create_time, unused) == (DocumentState.PENDING, NOW, stored.blob)


async def test_a_lease_that_ended_goes_to_another(catalogue: SqlCatalogue) -> None:
    await catalogue.put_document(document())
    first = await claimed(catalogue)
    assert await catalogue.renew(first, lease=LEASE, now=NOW + timedelta(seconds=30))
    assert await catalogue.claim(lease=LEASE, now=NOW + timedelta(seconds=80)) is None
    second = await claimed(catalogue, NOW + timedelta(seconds=91))
    assert second.document.attempts == 2
    assert not await catalogue.renew(first, lease=LEASE, now=NOW)
    assert not await catalogue.postpone(first, until=NOW, now=NOW)
    error = DocumentError(reason="INTERNAL", message="m")
    assert not await catalogue.fail(first, error, chunks_removed=True, now=NOW)
    await catalogue.abandon(first)
    assert await catalogue.claim(lease=LEASE, now=NOW + timedelta(seconds=92)) is None
    assert await catalogue.fail(second, error, chunks_removed=True, now=NOW)
    assert await state(catalogue) == DocumentState.FAILED


async def test_a_replaced_document_waits_until_its_worker_lets_go(catalogue: SqlCatalogue) -> None:
    await catalogue.put_document(document())
    claim = await claimed(catalogue)
    await catalogue.put_document(document(sha256="2" * 64))
    assert not await catalogue.renew(claim, lease=LEASE, now=NOW)
    assert await catalogue.claim(lease=LEASE, now=NOW) is None
    await catalogue.abandon(claim)
    assert (await claimed(catalogue)).document.sha256 == "2" * 64


async def test_postponed_until_it_is_due(catalogue: SqlCatalogue) -> None:
    await catalogue.put_document(document())
    due = NOW + timedelta(seconds=5)
    assert await catalogue.postpone(await claimed(catalogue), until=due, now=NOW)
    assert await state(catalogue) == DocumentState.PENDING
    assert await catalogue.claim(lease=LEASE, now=NOW + timedelta(seconds=4)) is None
    again = await claimed(catalogue, due)
    assert (again.first_failure, again.document.attempts) == (NOW, 2)


async def test_a_reindex_puts_everything_back(catalogue: SqlCatalogue) -> None:
    for path in ("a.md", "b.md", "c.md"):
        await catalogue.put_document(document(path))
    await catalogue.finish(await claimed(catalogue), collection="c1", chunk_count=3, warnings=[], now=NOW)
    error = DocumentError(reason="INTERNAL", message="m")
    await catalogue.fail(await claimed(catalogue), error, chunks_removed=True, now=NOW)
    running = await claimed(catalogue)
    change = {"collection": "c2", "dimension": 4, "fingerprint": "f2", "now": NOW}
    assert await catalogue.start_reindex(KB, **change)  # type: ignore[arg-type]
    assert not await catalogue.start_reindex(KB, **change)  # type: ignore[arg-type]
    assert not await catalogue.finish(running, collection="c1", chunk_count=1, warnings=[], now=NOW)
    snapshot = await catalogue.snapshot("default", "kb")
    assert snapshot is not None
    assert (snapshot.counts.pending, snapshot.counts.chunks) == (3, 0)
    assert snapshot.knowledge_base == replace(
        KB,
        collection="c2",
        dimension=4,
        model_fingerprint="f2",
        revision=snapshot.knowledge_base.revision,
    )
    assert await catalogue.doomed_collections() == [("c1", Place(collection="c1"))]
    await catalogue.forget_collection("c1")
    assert await catalogue.doomed_collections() == []


async def test_deletions(catalogue: SqlCatalogue) -> None:
    await catalogue.put_document(document())
    await catalogue.put_document(document("b.md"))
    claim = await claimed(catalogue)
    path = claim.document.path
    assert await catalogue.mark_document_deleted("default", "kb", document_id("x"), now=NOW) is None
    assert await catalogue.mark_document_deleted("other", "kb", document_id(path), now=NOW) is None
    assert await catalogue.mark_document_deleted("default", "kb", document_id(path), now=NOW) is True
    assert await catalogue.get_document("default", "kb", document_id(path)) is None
    assert await catalogue.deleted_documents(now=NOW, limit=10) == []
    await catalogue.abandon(claim)
    ((deleted, place),) = await catalogue.deleted_documents(now=NOW, limit=10)
    assert (deleted.path, place) == (path, KB.place)
    blob = await catalogue.remove_document("default", "kb", deleted.id, now=NOW)
    assert blob == claim.document.blob
    assert await catalogue.mark_knowledge_base_deleted("default", "kb") is not None
    assert await catalogue.snapshot("default", "kb") is None
    assert await catalogue.claim(lease=LEASE, now=NOW) is None
    with pytest.raises(NotFound):
        await catalogue.put_document(document("c.md"))
    assert [kb.id for kb in await catalogue.deleted_knowledge_bases()] == ["kb"]
    assert len(await catalogue.remove_knowledge_base("default", "kb")) == 1
    assert await catalogue.insert_knowledge_base(KB)


async def test_many_workers_and_uploads_at_once(catalogue: SqlCatalogue) -> None:
    for number in range(12):
        await catalogue.put_document(document(f"{number}.md"))
    done: list[str] = []

    async def work() -> None:
        while (claim := await catalogue.claim(lease=LEASE, now=NOW)) is not None:
            assert await catalogue.finish(claim, collection="c1", chunk_count=1, warnings=[], now=NOW)
            done.append(claim.document.path)

    async def upload(number: int) -> None:
        await catalogue.put_document(document(f"{number}.md", sha256="2" * 64))

    await asyncio.gather(work(), work(), work(), *(upload(number) for number in range(12, 18)))
    await work()
    assert sorted(done) == sorted(f"{number}.md" for number in range(18))
    snapshot = await catalogue.snapshot("default", "kb")
    assert snapshot is not None
    assert (snapshot.counts.ready, snapshot.counts.pending, snapshot.counts.indexing) == (18, 0, 0)
