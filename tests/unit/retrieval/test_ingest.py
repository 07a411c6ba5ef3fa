"""A worker that is killed, shut out or outrun leaves exactly the right chunks."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from retrieval.adapters.blobs import LocalBlobs
from retrieval.adapters.catalogue import SqlCatalogue
from retrieval.adapters.database import new_engine
from retrieval.adapters.memory import MemoryStore
from retrieval.adapters.migrate import migrate
from retrieval.adapters.specs import SqlSpecs
from retrieval.core.chunking import cut
from retrieval.core.directory import Directory
from retrieval.core.documents import Documents
from retrieval.core.ingest import IngestWorker
from retrieval.core.ingest_limits import IngestLimits
from retrieval.core.knowledge_bases import KnowledgeBases
from retrieval.core.model import (
    Capabilities,
    Chunking,
    Document,
    DocumentError,
    DocumentState,
    KnowledgeBaseSpec,
    ParsedDocument,
    Place,
    Scalar,
    SearchMode,
)
from retrieval.core.names import chunk_id
from retrieval.core.ports import DocumentUnreadable
from retrieval.core.tokens import EstimatedTokens
from retrieval.parsing.errors import Unreadable
from retrieval.parsing.formats import read
from servicekit.context import Caller, scope
from servicekit.errors import InvalidArgument, NotFound, ServiceError, Unavailable
from servicekit.testing import FakeClock
from tests.support.retrieval import MODEL, HashEmbedder

LIMITS = IngestLimits(batch=2, patience=timedelta(minutes=10))
SPEC = KnowledgeBaseSpec(
    embedding_model=MODEL, chunking=Chunking(max_tokens=16), search_mode=SearchMode.HYBRID
)
FIRST = "# One\n\n" + " ".join(f"Sentence number {n} of the first version." for n in range(12))
SECOND = "# Two\n\n" + " ".join(f"Sentence number {n} of the second version." for n in range(5))


class Killed(BaseException):
    """As `kill -9` would end the process: nothing catches it."""


@dataclass
class Fuse:
    """Blows at the given call of any port."""

    at: int = -1
    calls: int = 0
    error: BaseException = field(default_factory=Killed)
    after: bool = False


class Fused:
    """A port whose every call may be the last one."""

    def __init__(self, inner: Any, fuse: Fuse) -> None:
        self._inner = inner
        self._fuse = fuse

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)
        if name == "local_path":
            return method
        if name == "iterate":
            return self._walk

        async def call(*args: Any, **kwargs: Any) -> Any:
            blown = self._count()
            result = await method(*args, **kwargs)
            if blown:
                raise self._fuse.error
            return result

        return call

    def _count(self) -> bool:
        """Whether this call is the last one, after it was made."""
        self._fuse.calls += 1
        blown = self._fuse.calls == self._fuse.at
        if blown and not self._fuse.after:
            raise self._fuse.error
        return blown

    async def _walk(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        blown = self._count()
        async for batch in self._inner.iterate(*args, **kwargs):
            yield batch
        if blown:
            raise self._fuse.error


class DirectParser:
    """The parsers without their process."""

    async def parse(self, file: Path, *, path: str, media_type: str, chunking: Chunking) -> ParsedDocument:
        try:
            sections, warnings = read(file, media_type)
        except Unreadable as error:
            raise DocumentUnreadable(DocumentError(reason=error.reason, message=error.message)) from error
        return ParsedDocument(
            chunks=tuple(cut(sections, chunking, EstimatedTokens())), warnings=tuple(warnings)
        )


class World:
    """Everything of the service but the server."""

    def __init__(self, folder: Path, store: MemoryStore | None = None) -> None:
        self.engine = new_engine(f"sqlite:///{folder / 'catalogue.db'}")
        self.catalogue = SqlCatalogue(self.engine)
        self.store = store or MemoryStore()
        self.embedder = HashEmbedder()
        self.folder = folder / "originals"
        self.blobs = LocalBlobs(self.folder)
        self.clock = FakeClock()
        self.directory = Directory(
            catalogue=self.catalogue, clock=self.clock, time_to_live=timedelta(seconds=2)
        )
        self.knowledge_bases = KnowledgeBases(
            catalogue=self.catalogue,
            specs=SqlSpecs(self.engine),
            store=self.store,
            embedder=self.embedder,
            blobs=self.blobs,
            directory=self.directory,
            clock=self.clock,
            queued=lambda: None,
        )
        self.documents = Documents(
            catalogue=self.catalogue,
            store=self.store,
            blobs=self.blobs,
            directory=self.directory,
            clock=self.clock,
            max_bytes=10_000,
            uploaded=lambda: None,
        )

    def worker(self, fuse: Fuse | None = None) -> IngestWorker:
        fuse = fuse or Fuse()
        return IngestWorker(
            catalogue=Fused(self.catalogue, fuse),
            store=Fused(self.store, fuse),
            embedder=Fused(self.embedder, fuse),
            blobs=self.blobs,
            parser=Fused(DirectParser(), fuse),
            directory=self.directory,
            clock=self.clock,
            limits=LIMITS,
        )

    async def upload(self, text: str | bytes, path: str = "a.md", **metadata: Scalar) -> Document:
        data = text.encode() if isinstance(text, str) else text

        async def content() -> AsyncIterator[bytes]:
            for start in range(0, len(data), 1000):
                yield data[start : start + 1000]

        return await self.documents.upload("kb", path, content(), metadata=metadata)

    async def stored(self, document: str) -> list[str]:
        snapshot = await self.knowledge_bases.get("kb")
        return await self.store.chunk_ids(snapshot.knowledge_base.place, document)

    def expected(self, document: str, text: str) -> list[str]:
        path = self.folder.parent / "expected.md"
        path.write_text(text)
        chunks = cut(read(path, "text/markdown")[0], SPEC.chunking, EstimatedTokens())
        return [chunk_id(document, n, chunk.text) for n, chunk in enumerate(chunks)]

    def originals(self) -> list[Path]:
        return [path for path in self.folder.rglob("*") if path.is_file()]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    await migrate(world.engine)
    with scope(caller=Caller("default", "test")):
        await world.knowledge_bases.create("kb", SPEC)
        yield world
    await world.engine.dispose()


async def replaced(world: World) -> Document:
    """A document whose second version waits."""
    await world.upload(FIRST)
    assert await world.worker().run_until_idle() == 1
    return await world.upload(SECOND)


@pytest.mark.parametrize("after", [False, True])
async def test_killed_at_any_call_the_next_worker_ends_it_right(world: World, after: bool) -> None:
    document = await replaced(world)
    kills = 0
    while True:
        fuse = Fuse(at=kills + 1, after=after)
        try:
            await world.worker(fuse).run_until_idle()
            if fuse.calls <= kills:
                break
        except Killed:
            pass
        kills += 1
        world.clock.advance(LIMITS.lease + timedelta(seconds=1))
        await world.worker().run_until_idle()
        assert await world.stored(document.id) == world.expected(document.id, SECOND)
        done = await world.documents.get("kb", document.id)
        assert (done.state, done.chunk_count) == (DocumentState.READY, len(await world.stored(document.id)))
        # The next round replaces it again, so that every call is reached with chunks to remove.
        await world.upload(FIRST)
        await world.worker().run_until_idle()
        await world.upload(SECOND)
    assert kills > 8
    assert len(world.originals()) == 1


async def test_a_claimed_document_waits_for_its_lease(world: World) -> None:
    await world.upload(FIRST)
    with pytest.raises(Killed):
        await world.worker(Fuse(at=3)).run_until_idle()
    assert await world.worker().run_until_idle() == 0
    world.clock.advance(LIMITS.lease)
    assert await world.worker().run_until_idle() == 1


class Interrupting(HashEmbedder):
    """Does something while a batch is being embedded."""

    def __init__(self, action: Any) -> None:
        super().__init__()
        self.action = action

    async def embed_passages(self, model: str, texts: Any) -> Any:
        action, self.action = self.action, None
        if action is not None:
            with scope(caller=Caller("default", "test")):
                await action()
        return await super().embed_passages(model, texts)


async def test_replaced_while_it_is_indexed(world: World) -> None:
    document = await world.upload(FIRST)
    world.embedder = Interrupting(lambda: world.upload(SECOND))
    await world.worker().run_until_idle()
    assert await world.stored(document.id) == world.expected(document.id, SECOND)
    assert len(world.originals()) == 1


async def test_deleted_while_it_is_indexed(world: World) -> None:
    document = await world.upload(FIRST)
    world.embedder = Interrupting(lambda: world.documents.delete("kb", document.id))
    await world.worker().run_until_idle()
    await world.documents.sweep()
    assert await world.stored(document.id) == []
    assert world.originals() == []
    with pytest.raises(NotFound):
        await world.documents.get("kb", document.id)


async def test_a_deleted_document_that_comes_back(world: World) -> None:
    document = await world.upload(FIRST)
    await world.worker().run_until_idle()
    await world.documents.delete("kb", document.id)
    assert await world.stored(document.id) == []
    again = await world.upload(SECOND)
    assert (again.id, again.state) == (document.id, DocumentState.PENDING)
    await world.worker().run_until_idle()
    assert await world.stored(document.id) == world.expected(document.id, SECOND)


async def test_knowledge_base_deleted_while_it_is_indexed(world: World) -> None:
    await world.upload(FIRST)
    world.embedder = Interrupting(lambda: world.knowledge_bases.delete("kb"))
    await world.worker().run_until_idle()
    assert world.originals() == []
    assert (await world.catalogue.queue_depth()).indexing == 0
    await world.knowledge_bases.create("kb", SPEC)
    assert (await world.knowledge_bases.get("kb")).counts.chunks == 0


@pytest.mark.parametrize("step", range(2, 9))
async def test_an_outage_postpones_and_does_not_fail(world: World, step: int) -> None:
    document = await world.upload(FIRST)
    outage = Unavailable("away", reason="DEPENDENCY_UNAVAILABLE")
    with_outage = world.worker(Fuse(at=step, error=outage))
    with contextlib.suppress(ServiceError):  # the catalogue's own outage ends the round; the loop goes on
        await with_outage.run_until_idle()
    world.clock.advance(LIMITS.lease)
    await with_outage.run_until_idle()
    done = await world.documents.get("kb", document.id)
    assert (done.state, done.error) == (DocumentState.READY, None)
    assert await world.stored(document.id) == world.expected(document.id, FIRST)


async def test_an_outage_that_lasts_fails_with_the_reason(world: World) -> None:
    document = await world.upload(FIRST)
    world.embedder.error = Unavailable("the model is away", reason="MODEL_UNAVAILABLE")
    worker = world.worker()
    rounds = 0
    while (await world.documents.get("kb", document.id)).state != DocumentState.FAILED:
        rounds += await worker.run_until_idle()
        world.clock.advance(timedelta(seconds=75))
        assert rounds < 30
    assert rounds > 5
    failed = await world.documents.get("kb", document.id)
    assert failed.error is not None
    assert failed.error.reason == "MODEL_UNAVAILABLE"
    assert "the model is away" in failed.error.message
    world.embedder.error = None
    assert (await world.upload(FIRST)).state == DocumentState.PENDING  # uploading again retries
    await worker.run_until_idle()
    assert (await world.documents.get("kb", document.id)).state == DocumentState.READY


async def test_a_bug_is_retried_but_never_ends_the_worker(world: World) -> None:
    document = await world.upload(FIRST)
    await world.worker(Fuse(at=3, error=KeyError("bug"))).run_until_idle()
    assert (await world.documents.get("kb", document.id)).state == DocumentState.PENDING
    world.clock.advance(timedelta(seconds=5))
    await world.worker().run_until_idle()
    assert (await world.documents.get("kb", document.id)).state == DocumentState.READY


async def test_a_broken_new_version_takes_the_old_chunks_away(world: World) -> None:
    document = await world.upload(FIRST)
    await world.worker().run_until_idle()
    await world.upload(bytes(range(1, 256)) * 8)
    await world.worker().run_until_idle()
    failed = await world.documents.get("kb", document.id)
    assert (failed.state, failed.chunk_count) == (DocumentState.FAILED, 0)
    assert failed.error is not None
    assert failed.error.reason == "DOCUMENT_UNREADABLE"
    assert await world.stored(document.id) == []


async def test_the_same_bytes_again_are_a_no_op(world: World) -> None:
    document = await world.upload(FIRST)
    await world.worker().run_until_idle()
    before = await world.knowledge_bases.get("kb")
    same = await world.upload(FIRST)
    assert (same.id, same.state) == (document.id, DocumentState.READY)
    assert await world.worker().run_until_idle() == 0
    assert (await world.knowledge_bases.get("kb")) == before
    assert len(world.originals()) == 1


async def test_uploads_that_cannot_be_indexed_leave_nothing(world: World) -> None:
    for data, reason in ((b"", "DOCUMENT_EMPTY"), (b"x" * 10_001, "DOCUMENT_TOO_LARGE")):
        with pytest.raises(InvalidArgument) as caught:
            await world.upload(data)
        assert caught.value.reason == reason
    with pytest.raises(InvalidArgument) as caught:
        await world.upload(b"\x89PNG\r\n", path="a.png")
    assert caught.value.reason == "DOCUMENT_TYPE_UNSUPPORTED"
    assert world.originals() == []
    assert (await world.knowledge_bases.get("kb")).counts.pending == 0


async def test_another_fingerprint_indexes_everything_anew(world: World) -> None:
    document = await world.upload(FIRST)
    await world.worker().run_until_idle()
    before = (await world.knowledge_bases.get("kb")).knowledge_base
    world.embedder.fingerprint, world.embedder.dimension = "hash-2", 32
    after = await world.knowledge_bases.create("kb", SPEC)
    assert (after.counts.pending, after.counts.chunks) == (1, 0)
    assert after.knowledge_base.revision > before.revision
    assert (after.knowledge_base.dimension, after.knowledge_base.model_fingerprint) == (32, "hash-2")
    with pytest.raises(NotFound):
        await world.store.count(before.place)
    await world.worker().run_until_idle()
    assert await world.stored(document.id) == world.expected(document.id, FIRST)


async def test_vectors_of_a_changed_model_are_never_mixed_in(world: World) -> None:
    document = await world.upload(FIRST)
    world.embedder.fingerprint = "hash-2"
    await world.worker().run_until_idle()
    assert await world.stored(document.id) == []
    assert (await world.documents.get("kb", document.id)).state == DocumentState.PENDING
    await world.knowledge_bases.create("kb", SPEC)
    await world.worker().run_until_idle()
    assert await world.stored(document.id) == world.expected(document.id, FIRST)


async def test_a_lost_collection_is_filled_from_the_originals(world: World) -> None:
    document = await world.upload(FIRST)
    await world.worker().run_until_idle()
    lost = (await world.knowledge_bases.get("kb")).knowledge_base
    await world.store.drop(lost.place)
    assert (await world.knowledge_bases.create("kb", SPEC)).counts.pending == 1
    await world.worker().run_until_idle()
    assert await world.stored(document.id) == world.expected(document.id, FIRST)


async def test_a_deletion_that_the_store_missed_is_finished_later(world: World) -> None:
    document = await world.upload(FIRST)
    await world.worker().run_until_idle()
    fuse = Fuse(at=1, error=Unavailable("away", reason="DEPENDENCY_UNAVAILABLE"))
    world.documents._store = Fused(world.store, fuse)
    with pytest.raises(Unavailable):
        await world.documents.delete("kb", document.id)
    await world.documents.delete("kb", document.id)  # the caller's retry
    assert await world.stored(document.id) == []
    assert world.originals() == []


async def test_small_documents_share_a_flush(world: World) -> None:
    flushed: list[Place] = []

    class Lite(MemoryStore):
        async def capabilities(self) -> Capabilities:
            return replace(await super().capabilities(), flush_after_ingest=True)

        async def flush(self, place: Place) -> None:
            flushed.append(place)

    lite = Lite()
    lite._collections, lite._aliases = world.store._collections, world.store._aliases
    world.store = lite
    for number in range(3):
        await world.upload(FIRST, path=f"{number}.md")
    assert await world.worker().run_until_idle() == 3
    assert len(flushed) == 1
