"""Originals: in memory, in a folder, in S3."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from obstore.store import MemoryStore

from retrieval.adapters.blobs import LocalBlobs
from retrieval.adapters.database import new_engine
from retrieval.adapters.doomed_blobs import SqlDoomedBlobs
from retrieval.adapters.migrate import migrate
from retrieval.adapters.object_blobs import ObjectBlobs
from retrieval.adapters.originals import S3Access, open_blobs
from retrieval.core.originals import Originals
from retrieval.core.ports import BlobStore
from retrieval.settings import Settings
from servicekit.errors import NotFound, Unavailable
from tests.support.postgres import shared_postgres
from tests.support.seaweed import BUCKET, KEY, SECRET, Seaweed, shared_seaweed

MIB = 1024 * 1024
LARGE = os.urandom(MIB) * 19  # three parts


@pytest.fixture
def seaweed() -> Seaweed:
    return shared_seaweed()


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


@pytest.fixture(params=["memory", "folder", "s3"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path, scratch: Path) -> BlobStore:
    if request.param == "memory":
        return ObjectBlobs(MemoryStore(), scratch=scratch)
    address = f"file://{tmp_path / 'with%20space'}" if request.param == "folder" else f"s3://{BUCKET}/a/b"
    s3 = shared_seaweed().access() if request.param == "s3" else S3Access()
    return open_blobs(address, folder=tmp_path / "unused", s3=s3, scratch=scratch)


async def put(blobs: BlobStore, data: bytes, *, step: int = MIB) -> str:
    async with blobs.writer("tenant") as writer:
        for start in range(0, len(data), step):
            await writer.write(data[start : start + step])
        assert writer.size_bytes == len(data)
        assert writer.sha256 == hashlib.sha256(data).hexdigest()
        return await writer.commit()


async def content(blobs: BlobStore, blob: str) -> bytes:
    async with blobs.local_path(blob) as file:
        return await asyncio.to_thread(file.read_bytes)


@pytest.mark.parametrize("data", [b"few bytes", LARGE], ids=["small", "large"])
async def test_what_is_written_is_read_until_it_is_deleted(
    blobs: BlobStore, scratch: Path, data: bytes
) -> None:
    first, second = await put(blobs, data), await put(blobs, data)
    assert first != second  # to delete one document must not take another's original
    assert first.startswith("tenant/")
    assert await content(blobs, first) == data
    await blobs.delete(first)
    await blobs.delete(first)
    with pytest.raises(NotFound):
        await content(blobs, first)
    assert await content(blobs, second) == data
    assert os.listdir(scratch) == []


async def test_many_at_once(blobs: BlobStore) -> None:
    async with asyncio.TaskGroup() as group:
        puts = [group.create_task(put(blobs, str(n).encode() * MIB, step=300_000)) for n in range(12)]
    for n, task in enumerate(puts):
        assert await content(blobs, task.result()) == str(n).encode() * MIB


async def begin(blobs: BlobStore, size: int, begun: asyncio.Event) -> None:
    async with blobs.writer("cut") as writer:
        for _ in range(size // MIB):
            await writer.write(LARGE[:MIB])
        begun.set()
        await asyncio.Event().wait()


@pytest.mark.parametrize("size", [MIB, 18 * MIB], ids=["small", "large"])
async def test_an_upload_that_is_cut_leaves_nothing(seaweed: Seaweed, size: int) -> None:
    blobs = open_blobs(f"s3://{BUCKET}", folder=Path(), s3=seaweed.access())
    begun = asyncio.Event()
    upload = asyncio.ensure_future(begin(blobs, size, begun))
    async with asyncio.timeout(30):
        await begun.wait()
    if size > MIB:
        assert len(seaweed.unfinished()) == 1  # it does stream
    upload.cancel()
    with pytest.raises(asyncio.CancelledError):
        await upload
    assert seaweed.unfinished() == []
    assert seaweed.files("cut/") == []


async def test_a_commit_that_is_cut_leaves_nothing(seaweed: Seaweed) -> None:
    blobs = open_blobs(f"s3://{BUCKET}/committing", folder=Path(), s3=seaweed.access())

    async def upload() -> None:
        async with blobs.writer("cut") as writer:
            await writer.write(b"few bytes")
            commit = asyncio.ensure_future(writer.commit())
            await asyncio.sleep(0)  # the request is on its way
            commit.cancel()
            await commit

    with pytest.raises(asyncio.CancelledError):
        await upload()
    assert seaweed.files("committing/cut/") == []


async def test_a_store_that_is_down_silent_or_refuses_is_unavailable(seaweed: Seaweed, scratch: Path) -> None:
    def store(access: S3Access) -> ObjectBlobs:
        return ObjectBlobs(access.store(BUCKET, "x"), scratch=scratch, step_timeout_s=0.5)

    blob = await put(store(seaweed.access()), b"few bytes")
    for other in (
        seaweed.access(endpoint="http://127.0.0.1:9"),
        seaweed.access(secret_access_key="wrong-secret"),
    ):
        await refuses(store(other), blob)
    with seaweed.silent():
        await refuses(store(seaweed.access()), blob)
    # Another one: the deletion that nobody answered may have been carried out since.
    again = store(seaweed.access())
    assert await content(again, await put(again, b"few bytes")) == b"few bytes"
    assert os.listdir(scratch) == []


async def refuses(blobs: ObjectBlobs, blob: str) -> None:
    for call in (put(blobs, b"few bytes"), put(blobs, LARGE), content(blobs, blob), blobs.delete(blob)):
        with pytest.raises(Unavailable, match="store of originals failed to") as caught:
            await call
        assert caught.value.reason == "DEPENDENCY_UNAVAILABLE"
        assert "secret" not in str(caught.value)


async def test_credentials_come_from_a_file_too(seaweed: Seaweed, tmp_path: Path) -> None:
    file = tmp_path / "credentials"
    file.write_text(f"[default]\naws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n")
    access = S3Access(endpoint=seaweed.endpoint, credentials_file=file)
    blobs = open_blobs(f"s3://{BUCKET}/file", folder=tmp_path, s3=access, scratch=tmp_path)
    assert await content(blobs, await put(blobs, b"few bytes")) == b"few bytes"
    file.write_text(f"[default]\naws_secret_access_key = {SECRET}\n")
    with pytest.raises(ValueError, match="aws_access_key_id") as caught:
        open_blobs(f"s3://{BUCKET}", folder=tmp_path, s3=access)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("address", ["originals", "s3://", "http://host/bucket", "s3://key:secret@bucket/a"])
def test_an_address_of_another_kind_stops_the_start(address: str, tmp_path: Path) -> None:
    values: dict[str, Any] = {"identity_key_file": tmp_path / "key", "originals": address}
    with pytest.raises(ValueError, match="must be file:///folder or s3://bucket/prefix"):
        Settings(**values)


async def test_left_behind_copies_go(seaweed: Seaweed, scratch: Path) -> None:
    old, fresh = scratch / "agentteams-original-old", scratch / "agentteams-original-fresh"
    for file in (old, fresh):
        file.write_bytes(b"left")
    os.utime(old, (0, 0))
    blobs = open_blobs(f"s3://{BUCKET}", folder=scratch, s3=seaweed.access(), scratch=scratch)
    await content(blobs, await put(blobs, b"few bytes"))
    assert os.listdir(scratch) == [fresh.name]


@pytest.fixture(params=["sqlite", "postgres"])
async def doomed(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SqlDoomedBlobs]:
    if request.param == "sqlite":
        engine = new_engine(f"sqlite:///{tmp_path / 'catalogue.db'}")
    else:
        server = shared_postgres()
        engine = new_engine(server.url(await server.create()))
    await migrate(engine)
    yield SqlDoomedBlobs(engine)
    await engine.dispose()


async def test_what_cannot_be_deleted_now_is_deleted_later(
    doomed: SqlDoomedBlobs, seaweed: Seaweed, tmp_path: Path
) -> None:
    store = seaweed.access().store(BUCKET, "doomed")
    blobs = ObjectBlobs(store, scratch=tmp_path, step_timeout_s=0.5)
    originals = Originals(blobs=blobs, doomed=doomed)
    blob = await put(originals, b"few bytes")
    with seaweed.silent():
        await originals.delete(blob)
        await originals.delete(blob)
        with pytest.raises(Unavailable):
            await originals.sweep()
    assert await doomed.doomed_blobs(limit=10) == [blob]
    await originals.sweep()
    assert await doomed.doomed_blobs(limit=10) == []
    with pytest.raises(NotFound):
        await content(originals, blob)


def test_a_folder_is_what_an_empty_address_means(tmp_path: Path) -> None:
    assert isinstance(open_blobs("", folder=tmp_path, s3=S3Access()), LocalBlobs)
