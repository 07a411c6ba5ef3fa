"""Originals without a document go; in every store of originals, with every database of the catalogue."""

import asyncio
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from obstore.store import MemoryStore
from sqlalchemy.ext.asyncio import AsyncEngine

from retrieval.adapters.catalogue import SqlCatalogue
from retrieval.adapters.database import new_engine
from retrieval.adapters.known_blobs import SqlKnownBlobs
from retrieval.adapters.migrate import migrate
from retrieval.adapters.object_blobs import ObjectBlobs
from retrieval.adapters.originals import S3Access, open_blobs
from retrieval.core import original_sweep
from retrieval.core.model import Document, DocumentState
from retrieval.core.names import document_id
from retrieval.core.original_sweep import ListedBlobs, OriginalSweep
from servicekit.errors import NotFound, Unavailable
from servicekit.testing import FakeClock
from tests.support.golden_sets import NOW, knowledge_base
from tests.support.postgres import shared_postgres
from tests.support.seaweed import BUCKET, shared_seaweed

DAY = timedelta(hours=24)


@pytest.fixture(params=["sqlite", "postgres"])
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    if request.param == "sqlite":
        engine = new_engine(f"sqlite:///{tmp_path / 'catalogue.db'}")
    else:
        server = shared_postgres()
        engine = new_engine(server.url(await server.create()))
    await migrate(engine)
    assert await SqlCatalogue(engine).insert_knowledge_base(knowledge_base())
    yield engine
    await engine.dispose()


@pytest.fixture
async def plain(tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    engine = new_engine(f"sqlite:///{tmp_path / 'plain.db'}")
    await migrate(engine)
    assert await SqlCatalogue(engine).insert_knowledge_base(knowledge_base())
    yield engine
    await engine.dispose()


@pytest.fixture(params=["memory", "folder", "s3"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> ListedBlobs:
    if request.param == "memory":
        return ObjectBlobs(MemoryStore())
    address = f"file://{tmp_path / 'originals'}" if request.param == "folder" else f"s3://{BUCKET}/sweep"
    s3 = shared_seaweed().access() if request.param == "s3" else S3Access()
    return open_blobs(address, folder=tmp_path / "unused", s3=s3)


async def put(blobs: ListedBlobs, data: bytes = b"x", tenant: str = "default") -> str:
    async with blobs.writer(tenant) as writer:
        await writer.write(data)
        return await writer.commit()


async def add(engine: AsyncEngine, path: str, blob: str) -> Document:
    document = Document(
        tenant="default",
        knowledge_base="kb",
        id=document_id(path),
        path=path,
        media_type="text/plain",
        size_bytes=1,
        sha256=document_id(blob),
        blob=blob,
        state=DocumentState.PENDING,
        create_time=NOW,
        update_time=NOW,
    )
    await SqlCatalogue(engine).put_document(document)
    return document


async def listed(blobs: ListedBlobs) -> set[str]:
    return {one.blob async for page in blobs.walk() for one in page}


def sweep(blobs: ListedBlobs, engine: AsyncEngine, clock: FakeClock) -> OriginalSweep:
    return OriginalSweep(blobs=blobs, known=SqlKnownBlobs(engine), clock=clock)


async def test_what_a_kill_has_left_goes_after_its_grace(blobs: ListedBlobs, plain: AsyncEngine) -> None:
    for old in await listed(blobs):  # of a test before, in the same bucket
        await blobs.delete(old)
    clock = FakeClock(datetime.now(UTC))
    kept, left, other = await put(blobs), await put(blobs), await put(blobs, tenant="other")
    assert await listed(blobs) == {kept, left, other}
    await add(plain, "a.txt", kept)
    one = sweep(blobs, plain, clock)
    assert await one.sweep() == 0  # its document may be about to come
    clock.advance(DAY - timedelta(minutes=1))
    assert await one.sweep() == 0
    clock.advance(timedelta(minutes=2))
    assert await one.sweep() == 2
    assert await listed(blobs) == {kept}
    with pytest.raises(NotFound):
        async with blobs.local_path(left):
            pass
    assert await one.sweep() == 0


async def test_uploads_that_were_cut_by_a_kill_go_too(tmp_path: Path, plain: AsyncEngine) -> None:
    blobs = open_blobs("", folder=tmp_path / "originals", s3=S3Access())
    assert await sweep(blobs, plain, FakeClock()).sweep() == 0  # no folder yet
    writing = blobs.writer("default")
    writer = await writing.__aenter__()
    await writer.write(b"half")
    (part,) = await listed(blobs)
    assert part.endswith(".part")
    clock = FakeClock(datetime.now(UTC) + DAY + timedelta(minutes=1))
    old = datetime.now(UTC).timestamp() - 1
    os.utime(tmp_path / "originals" / part, (old, old))
    assert await sweep(blobs, plain, clock).sweep() == 1
    await writing.__aexit__(None, None, None)
    assert await listed(blobs) == set()


async def test_a_document_that_comes_during_the_walk_keeps_its_original(
    tmp_path: Path, plain: AsyncEngine
) -> None:
    blobs = open_blobs("", folder=tmp_path / "originals", s3=S3Access())
    late = await put(blobs)

    class Known(SqlKnownBlobs):
        asked = 0

        async def without_document(self, blobs: object) -> list[str]:
            found = await super().without_document(blobs)  # type: ignore[arg-type]
            self.asked += 1
            if self.asked == 1:
                await add(plain, "late.txt", late)
            return found

    clock = FakeClock(datetime.now(UTC) + 2 * DAY)
    assert await OriginalSweep(blobs=blobs, known=Known(plain), clock=clock).sweep() == 0
    assert await listed(blobs) == {late}


async def test_an_empty_catalogue_deletes_no_originals_of_another(
    tmp_path: Path, plain: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(original_sweep, "_FEW", 3)
    blobs = open_blobs("", folder=tmp_path / "originals", s3=S3Access())
    made = [await put(blobs) for _ in range(8)]
    clock = FakeClock(datetime.now(UTC) + 2 * DAY)
    assert await sweep(blobs, plain, clock).sweep() == 0
    assert await listed(blobs) == set(made)
    for number, blob in enumerate(made[:4]):
        await add(plain, f"{number}.txt", blob)
    assert await sweep(blobs, plain, clock).sweep() == 4


async def test_one_turn_deletes_so_many(
    tmp_path: Path, plain: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(original_sweep, "_MOST", 2)
    blobs = open_blobs("", folder=tmp_path / "originals", s3=S3Access())
    for _ in range(5):
        await put(blobs)
    one = sweep(blobs, plain, FakeClock(datetime.now(UTC) + 2 * DAY))
    assert [await one.sweep() for _ in range(4)] == [2, 2, 1, 0]


async def test_documents_and_turns(engine: AsyncEngine) -> None:
    known = SqlKnownBlobs(engine)
    await add(engine, "a.txt", "default/a")
    document = await add(engine, "b.txt", "default/b")
    await SqlCatalogue(engine).mark_document_deleted("default", "kb", document.id, now=NOW)
    many = [f"default/{number}" for number in range(1200)]
    # One that is being deleted has its original until it is gone.
    assert await known.without_document([*many, "default/a", "default/b"]) == many
    assert not await known.take_turn(every=DAY, now=NOW)  # not at the first start: workers may start often
    assert not await known.take_turn(every=DAY, now=NOW + DAY - timedelta(seconds=1))
    turns = await asyncio.gather(*(known.take_turn(every=DAY, now=NOW + DAY) for _ in range(4)))
    assert sorted(turns) == [False, False, False, True]
    assert await known.take_turn(every=DAY, now=NOW + 2 * DAY)


async def test_a_store_that_is_away_is_said(plain: AsyncEngine) -> None:
    s3 = replace_endpoint("http://127.0.0.1:9")
    away = open_blobs(f"s3://{BUCKET}/x", folder=Path(), s3=s3)
    assert isinstance(away, ObjectBlobs)
    away._timeout_s = 0.5
    with pytest.raises(Unavailable):
        await sweep(away, plain, FakeClock()).sweep()


def replace_endpoint(endpoint: str) -> S3Access:
    return S3Access(endpoint=endpoint, access_key_id="k", secret_access_key="s")
