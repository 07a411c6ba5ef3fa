"""A watched folder: what becomes a document, what stays, what can never be reached."""

import os
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from retrieval.adapters.blobs import LocalBlobs
from retrieval.adapters.catalogue import SqlCatalogue
from retrieval.adapters.database import new_engine
from retrieval.adapters.local_folders import LocalFolders
from retrieval.adapters.memory import MemoryStore
from retrieval.adapters.migrate import migrate
from retrieval.adapters.sources import SqlSources
from retrieval.core.directory import Directory
from retrieval.core.documents import Documents
from retrieval.core.model import (
    Chunking,
    Document,
    DocumentState,
    FolderSource,
    KnowledgeBase,
    KnowledgeBaseSpec,
    SearchMode,
)
from retrieval.core.sources import FileChanged, Seen, SeenFile, Sources, SourceStatus
from servicekit.context import Caller, scope
from servicekit.errors import Unavailable
from servicekit.testing import FakeClock
from tests.support.postgres import shared_postgres

SOURCE = FolderSource(name="docs", path="team/docs", mirror_deletes=True)
MINUTE = timedelta(minutes=1)


class House:
    """A knowledge base with a source, and all that looks through it."""

    def __init__(self, folder: Path, url: str) -> None:
        self.engine = new_engine(url)
        self.catalogue = SqlCatalogue(self.engine)
        self.store = SqlSources(self.engine)
        self.clock = FakeClock()
        self.root = folder / "root"
        self.folder = self.root / "default" / "team" / "docs"
        self.folder.mkdir(parents=True)
        self.documents = Documents(
            catalogue=self.catalogue,
            store=MemoryStore(),
            blobs=LocalBlobs(folder / "originals"),
            directory=Directory(catalogue=self.catalogue, clock=self.clock, time_to_live=MINUTE),
            clock=self.clock,
            max_bytes=1000,
            uploaded=lambda: None,
        )
        self.sources = self.worker()

    def worker(self, root: Path | None = None) -> Sources:
        return Sources(
            store=self.store,
            folders=LocalFolders(root or self.root),
            documents=self.documents,
            clock=self.clock,
        )

    async def create(self, *sources: FolderSource, tenant: str = "default") -> None:
        spec = KnowledgeBaseSpec(
            embedding_model="models/m",
            chunking=Chunking(),
            search_mode=SearchMode.DENSE,
            sources=sources or (SOURCE,),
        )
        knowledge_base = KnowledgeBase(
            tenant=tenant,
            id="kb",
            spec=spec,
            dimension=4,
            model_fingerprint="f",
            revision=1,
            alias=f"{tenant}-a",
            collection=f"{tenant}-c",
            create_time=self.clock.now(),
        )
        assert await self.catalogue.insert_knowledge_base(knowledge_base)

    def write(self, path: str, text: str = "some words", *, age_s: float = 60) -> Path:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        at = self.clock.now().timestamp() - age_s
        os.utime(file, (at, at))
        return file

    async def look(self) -> SourceStatus:
        self.clock.advance(MINUTE)
        assert await self.sources.look() == 1
        return (await self.store.statuses("default", "kb"))["docs"]

    async def found(self) -> dict[str, Document]:
        with scope(caller=Caller("default", "ada", "test")):
            listed = await self.documents.list("kb", state=None, after="", limit=100)
        return {document.path: document for document in listed}

    async def upload(self, path: str, text: str) -> None:
        async def content() -> AsyncIterator[bytes]:
            yield text.encode()

        with scope(caller=Caller("default", "ada", "test")):
            await self.documents.upload("kb", path, content())


@pytest.fixture
async def house(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[House]:
    url = f"sqlite:///{tmp_path / 'catalogue.db'}"
    if getattr(request, "param", "") == "postgres":
        server = shared_postgres()
        url = server.url(await server.create())
    house = House(tmp_path, url)
    await migrate(house.engine)
    yield house
    await house.engine.dispose()


on_each_database = pytest.mark.parametrize("house", ["sqlite", "postgres"], indirect=True)


@on_each_database
async def test_files_become_documents_and_follow_their_files(house: House) -> None:
    await house.create()
    house.write("a.md", "first")
    house.write("deep/er/b.txt", "second")
    house.write(".hidden/c.md")
    house.write("deep/.d.md")
    status = await house.look()
    assert (status.files, status.message, status.sync_time) == (2, "", house.clock.now())
    found = await house.found()
    assert list(found) == ["docs/a.md", "docs/deep/er/b.txt"]
    assert {document.source for document in found.values()} == {"docs"}

    house.write("a.md", "other")  # as long as before
    house.write("deep/er/b.txt", "second", age_s=30)  # touched
    (house.folder / "e.md").write_bytes(b"new")
    os.utime(house.folder / "e.md", (0, 0))
    await house.look()
    after = await house.found()
    assert after["docs/a.md"].sha256 != found["docs/a.md"].sha256
    assert after["docs/deep/er/b.txt"].source_stamp != found["docs/deep/er/b.txt"].source_stamp
    assert after["docs/deep/er/b.txt"].update_time == found["docs/deep/er/b.txt"].update_time
    assert "docs/e.md" in after

    (house.folder / "a.md").unlink()
    await house.look()
    assert list(await house.found()) == ["docs/deep/er/b.txt", "docs/e.md"]


async def test_what_has_not_changed_is_not_read(house: House) -> None:
    await house.create()
    file = house.write("a.md", "first")
    await house.look()
    (document,) = (await house.found()).values()
    at = file.stat().st_mtime_ns
    file.write_text("FIRST")
    os.utime(file, ns=(at, at))  # nobody can see that it changed without reading it
    await house.look()
    assert (await house.found())["docs/a.md"] == document
    house.write("a.md", "FIRST")
    await house.look()
    assert (await house.found())["docs/a.md"].sha256 != document.sha256


async def test_files_that_are_being_written_wait(house: House) -> None:
    await house.create()
    house.write("a.md", "fir", age_s=-59.5)  # half a second old when it is looked at
    assert (await house.look()).message == ""
    assert await house.found() == {}
    await house.look()
    assert list(await house.found()) == ["docs/a.md"]
    house.write("a.md", "first and more", age_s=-59.5)
    await house.look()
    assert (await house.found())["docs/a.md"].size_bytes == 3  # not deleted meanwhile


async def test_a_file_that_changes_while_it_is_read_waits(house: House) -> None:
    await house.create()
    file = house.write("a.md", "first")
    seen = await LocalFolders(house.root).look("default", "team/docs")
    file.write_text("longer than first")
    for stale in (*seen.files, replace(seen.files[0], path="gone.md")):
        with pytest.raises(FileChanged):
            await LocalFolders(house.root).sha256("default", "team/docs", stale)


async def test_what_cannot_be_a_document_is_named(house: House, tmp_path: Path) -> None:
    await house.create()
    house.write("big.txt", "x" * 1001)
    house.write("empty.txt", "")
    (house.folder / "picture.png").write_bytes(b"\x89PNG\r\n")
    os.utime(house.folder / "picture.png", (0, 0))
    (house.folder / "link.md").symlink_to(tmp_path / "elsewhere.md")
    os.mkfifo(house.folder / "pipe.md")
    (house.folder / os.fsdecode(b"bad\xff.md")).write_text("x")
    house.write("good.md")
    message = (await house.look()).message
    assert list(await house.found()) == ["docs/good.md"]
    for part in (
        "big.txt (larger than 1000 bytes)",
        "empty.txt (docs/empty.txt has no bytes",
        "picture.png (docs/picture.png is of a kind that cannot be indexed",
        "link.md (a symbolic link)",
        "pipe.md (not a file)",
        r"'bad\udcff.md' (its name has characters",
    ):
        assert part in message


async def test_an_uploaded_document_is_not_overwritten(house: House) -> None:
    await house.create()
    await house.upload("docs/a.md", "uploaded")
    house.write("a.md", "from the folder")
    assert "a.md (a document of this path was uploaded" in (await house.look()).message
    (document,) = (await house.found()).values()
    assert (document.source, document.size_bytes) == ("", 8)
    house.write("b.md", "from the folder")
    await house.look()
    await house.upload("docs/b.md", "uploaded over it")
    await house.look()
    (house.folder / "b.md").unlink()
    await house.look()
    assert (await house.found())["docs/b.md"].size_bytes == 16  # it is the uploader's now


async def test_nothing_is_deleted_when_the_folder_is_away(house: House) -> None:
    await house.create()
    house.write("a.md")
    synced = (await house.look()).sync_time
    away = house.folder.rename(house.folder.parent / "away")
    status = await house.look()
    assert "docs cannot be opened: No such file or directory; nothing was deleted" in status.message
    assert status.sync_time == synced
    house.folder.mkdir()  # where its volume was mounted
    assert "is its volume mounted?" in (await house.look()).message
    house.folder.rmdir()
    house.folder.symlink_to(away)
    assert "symbolic link" in (await house.look()).message
    assert list(await house.found()) == ["docs/a.md"]


async def test_without_mirroring_documents_stay(house: House) -> None:
    await house.create(replace(SOURCE, mirror_deletes=False))
    file = house.write("a.md")
    house.write("b.md")
    await house.look()
    file.unlink()
    assert (await house.look()).message == ""
    assert len(await house.found()) == 2


@pytest.mark.parametrize("path", ["..", "../other", "team/../../other", "/etc", "team//docs", "up", "tenant"])
async def test_no_path_leads_out_of_the_tenants_folder(house: House, path: str) -> None:
    (house.root / "other").mkdir()
    (house.root / "other" / "secret.md").write_text("secret")
    (house.root / "default" / "up").symlink_to(house.root / "other")
    (house.root / "tenant").symlink_to(house.root / "other")
    await house.create(replace(SOURCE, path=path))
    assert (await house.look()).message
    assert await house.found() == {}


async def test_a_folder_that_becomes_a_link_leads_nowhere(house: House) -> None:
    (house.root / "other").mkdir()
    (house.root / "other" / "a.md").write_text("secret")
    house.write("in/a.md")
    folders = LocalFolders(house.root)
    seen = await folders.look("default", "team/docs")
    (house.folder / "in").rename(house.folder / "was")
    (house.folder / "in").symlink_to(house.root / "other")
    secret = (house.root / "other" / "a.md").stat()
    for file in (
        seen.files[0],
        SeenFile(path="in/a.md", size_bytes=secret.st_size, changed_ns=secret.st_mtime_ns),
    ):
        with pytest.raises(FileChanged):
            await folders.sha256("default", "team/docs", file)


async def test_tenants_have_folders_of_their_own(house: House) -> None:
    await house.create(tenant="other")
    house.write("a.md", "of the tenant default")
    assert await house.sources.look() == 1
    assert "cannot be opened" in (await house.store.statuses("other", "kb"))["docs"].message


@on_each_database
async def test_one_worker_at_a_time_and_not_before_it_is_due(house: House) -> None:
    await house.create()
    now = house.clock.now()
    ((knowledge_base, source),) = await house.store.due(now=now)
    lease = await house.store.take(knowledge_base, source, lease=MINUTE, now=now)
    assert lease is not None
    assert await house.store.take(knowledge_base, source, lease=MINUTE, now=now) is None
    assert await house.store.due(now=now) == []
    assert await house.worker().look() == 0
    assert await house.store.keep(lease, until=now + 2 * MINUTE)
    house.clock.advance(2 * MINUTE)  # the first worker was killed
    assert await house.worker().look() == 1
    assert not await house.store.keep(lease, until=now + 9 * MINUTE)
    await house.store.release(lease, due=now, message="late", files=7, now=now)
    assert (await house.store.statuses("default", "kb"))["docs"].message == ""
    assert await house.worker().look() == 0
    house.clock.advance(timedelta(seconds=SOURCE.interval_s))
    assert await house.worker().look() == 1


async def test_an_outage_is_told_and_the_next_look_goes_on(house: House) -> None:
    await house.create()
    house.write("a.md")

    class Down(LocalFolders):
        async def look(self, tenant: str, path: str) -> Seen:
            raise Unavailable("the database is away", reason="DEPENDENCY_UNAVAILABLE")

    broken = Sources(
        store=house.store, folders=Down(house.root), documents=house.documents, clock=house.clock
    )
    assert await broken.look() == 1
    status = (await house.store.statuses("default", "kb"))["docs"]
    assert (status.sync_time, status.message) == (None, "interrupted: the database is away")
    assert (await house.look()).message == ""
    assert (await house.found())["docs/a.md"].state == DocumentState.PENDING


async def test_without_a_root_the_status_says_so(house: House) -> None:
    await house.create()
    sources = Sources(
        store=house.store, folders=LocalFolders(None), documents=house.documents, clock=house.clock
    )
    assert await sources.look() == 1
    assert "AGENTTEAMS_SOURCE_ROOT" in (await house.store.statuses("default", "kb"))["docs"].message
