"""Retries, moves, comparisons and figures of the queue, on each database."""

from dataclasses import replace
from datetime import timedelta

import pytest

from retrieval.adapters.catalogue import SqlCatalogue
from retrieval.core.ingest_model import Catalogued, IngestStatus, Reconciled
from retrieval.core.model import DocumentError, DocumentState
from retrieval.core.names import document_id
from servicekit.errors import AlreadyExists, NotFound
from tests.contract.test_ingest_queue import add_knowledge_base, upload
from tests.contract.test_retrieval_catalogue import (
    LEASE,
    NOW,
    catalogue,  # noqa: F401
    claimed,
    document,
    state,
)

WHERE = ("default", "kb")
ERROR = DocumentError(reason="DOCUMENT_UNREADABLE", message="torn")
LATER = NOW + timedelta(minutes=3)


async def ready(catalogue: SqlCatalogue, path: str = "a.md", chunks: int = 3) -> Catalogued:  # noqa: F811
    await catalogue.put_document(document(path))
    assert await catalogue.finish(
        await claimed(catalogue), collection="c1", chunk_count=chunks, warnings=["w"], now=NOW
    )
    return await row(catalogue, path)


async def failed(catalogue: SqlCatalogue, path: str) -> None:  # noqa: F811
    await catalogue.put_document(document(path))
    assert await catalogue.fail(await claimed(catalogue), ERROR, chunks_removed=True, now=NOW)


async def row(catalogue: SqlCatalogue, path: str) -> Catalogued:  # noqa: F811
    rows = await catalogue.catalogued(*WHERE, after="", limit=100)
    return next(found for found in rows if found.id == document_id(path))


async def test_retries_are_of_failed_documents_only(catalogue: SqlCatalogue) -> None:  # noqa: F811
    await ready(catalogue)
    for path in ("b.md", "c.md", "d.md"):
        await failed(catalogue, path)
    named = [document_id(path) for path in ("a.md", "b.md", "x.md")]
    assert await catalogue.retry_documents("other", "kb", named, now=NOW) == 0
    assert await catalogue.retry_documents(*WHERE, named, now=NOW) == 1
    assert await catalogue.retry_documents(*WHERE, [], now=NOW) == 2
    found = await catalogue.get_document(*WHERE, document_id("b.md"))
    assert found is not None
    assert (found.state, found.error, found.attempts) == (DocumentState.PENDING, None, 0)
    assert await state(catalogue) == DocumentState.READY


async def test_a_move_takes_everything_along(catalogue: SqlCatalogue) -> None:  # noqa: F811
    old = await ready(catalogue)
    to = document_id("b.md")
    moved = await catalogue.move_document(*WHERE, old.id, to=to, path="b.md", now=LATER)
    before = document("a.md")
    assert (moved.id, moved.path, moved.state) == (to, "b.md", DocumentState.PENDING)
    assert (moved.moved_from, moved.version, moved.chunk_count) == (old.id, old.version, 3)
    assert (moved.blob, moved.sha256, moved.warnings) == (before.blob, before.sha256, ("w",))
    assert moved.create_time == NOW
    assert await catalogue.get_document(*WHERE, old.id) is None
    assert (await row(catalogue, "a.md")).hidden
    assert await catalogue.deleted_documents(now=LATER, limit=10) == []  # its chunks are still to be copied
    claim = await claimed(catalogue, LATER)
    assert await catalogue.finish(claim, collection="c1", chunk_count=3, warnings=[], now=LATER)
    ((gone, _),) = await catalogue.deleted_documents(now=LATER, limit=10)
    assert gone.id == old.id
    assert await catalogue.remove_document(*WHERE, old.id, now=LATER) != before.blob


async def test_a_moved_document_is_no_sources_any_more(catalogue: SqlCatalogue) -> None:  # noqa: F811
    await catalogue.put_document(replace(document(), source="notes", source_stamp="1-2"))
    moved = await catalogue.move_document(
        *WHERE, document_id("a.md"), to=document_id("b.md"), path="b.md", now=NOW
    )
    assert (moved.source, moved.source_stamp) == ("", "")


async def test_moves_that_are_refused(catalogue: SqlCatalogue) -> None:  # noqa: F811
    old = await ready(catalogue)
    await ready(catalogue, "b.md")
    with pytest.raises(AlreadyExists):
        await catalogue.move_document(*WHERE, old.id, to=document_id("b.md"), path="b.md", now=NOW)
    with pytest.raises(NotFound):
        await catalogue.move_document(*WHERE, document_id("x"), to=document_id("y"), path="y", now=NOW)
    with pytest.raises(NotFound):
        await catalogue.move_document("other", "kb", old.id, to=document_id("y"), path="y", now=NOW)


async def test_a_hold_keeps_claims_away(catalogue: SqlCatalogue) -> None:  # noqa: F811
    seen = await ready(catalogue)
    assert await catalogue.hold(*WHERE, replace(seen, version="other"), now=NOW) is None
    token = await catalogue.hold(*WHERE, seen, now=NOW)
    assert token is not None
    assert await catalogue.hold(*WHERE, seen, now=NOW) is None
    await catalogue.put_document(document(sha256="2" * 64))
    assert await catalogue.claim(lease=LEASE, now=NOW) is None
    assert not await catalogue.let_go(*WHERE, seen.id, token, chunk_count=0, requeue=True, now=NOW)
    assert (await claimed(catalogue)).document.sha256 == "2" * 64


async def test_letting_go_says_what_is_there(catalogue: SqlCatalogue) -> None:  # noqa: F811
    seen = await ready(catalogue)
    token = await catalogue.hold(*WHERE, seen, now=NOW)
    assert token is not None
    assert await catalogue.let_go(*WHERE, seen.id, token, chunk_count=2, requeue=True, now=NOW)
    assert (await row(catalogue, "a.md")).chunk_count == 2
    assert (await claimed(catalogue)).document.id == seen.id


async def test_a_burial_is_a_deletion(catalogue: SqlCatalogue) -> None:  # noqa: F811
    seen = await ready(catalogue)
    stray = document_id("stray.md")
    assert not await catalogue.bury(*WHERE, seen.id, path="a.md", now=NOW)
    assert not await catalogue.bury("other", "kb", stray, path="stray.md", now=NOW)
    assert await catalogue.bury(*WHERE, stray, path="stray.md", now=NOW)
    assert await catalogue.get_document(*WHERE, stray) is None
    await catalogue.put_document(document("stray.md"))
    assert await catalogue.claim(lease=LEASE, now=NOW) is None
    assert await catalogue.remove_document(*WHERE, stray, now=NOW) is None
    assert (await claimed(catalogue)).document.path == "stray.md"


async def test_each_comparison_is_one_workers(catalogue: SqlCatalogue) -> None:  # noqa: F811
    await add_knowledge_base(catalogue, "other", "one")
    due = {await catalogue.reconcile_next(lease=LEASE, now=NOW) for _ in range(2)}
    assert due == {WHERE, ("other", "one")}
    assert await catalogue.reconcile_next(lease=LEASE, now=NOW) is None
    for _ in range(2):
        outcome = Reconciled(stray_chunks_removed=2, documents_requeued=1)
        await catalogue.reconciled(*WHERE, outcome, due=LATER, now=NOW)
    assert await catalogue.reconcile_next(lease=LEASE, now=NOW + LEASE) == ("other", "one")  # was not ended
    assert await catalogue.reconcile_next(lease=LEASE, now=LATER) is not None
    status = (await catalogue.ingest_statuses("default", ["kb"], now=NOW))["kb"]
    assert (status.reconcile_time, status.stray_chunks_removed, status.documents_requeued) == (NOW, 4, 2)


async def test_figures_of_several_knowledge_bases(catalogue: SqlCatalogue) -> None:  # noqa: F811
    await add_knowledge_base(catalogue, "default", "other")
    await ready(catalogue, "a.md", chunks=90)
    await ready(catalogue, "b.md", chunks=30)
    await failed(catalogue, "c.md")
    await upload(catalogue, "default", "kb", "d.md", after_s=7)
    found = await catalogue.ingest_statuses("default", ["kb", "other"], now=NOW + timedelta(seconds=30))
    assert found["other"] == IngestStatus()
    assert (found["kb"].chunks_per_second, found["kb"].documents_per_second) == (2.0, 2 / 60)
    assert found["kb"].oldest_pending == NOW + timedelta(seconds=7)
    assert found["kb"].last_error == "c.md: torn"
    later = await catalogue.ingest_statuses("default", ["kb"], now=NOW + timedelta(seconds=60))
    assert later["kb"].chunks_per_second == 0


async def test_a_knowledge_base_takes_its_figures_along(catalogue: SqlCatalogue) -> None:  # noqa: F811
    await catalogue.reconciled(*WHERE, Reconciled(stray_chunks_removed=2), due=LATER, now=NOW)
    await catalogue.mark_knowledge_base_deleted(*WHERE)
    await catalogue.remove_knowledge_base(*WHERE)
    await add_knowledge_base(catalogue, "default", "kb")
    assert (await catalogue.ingest_statuses("default", ["kb"], now=NOW))["kb"] == IngestStatus()
