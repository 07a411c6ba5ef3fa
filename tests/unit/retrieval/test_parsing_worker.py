"""The worker goes on: after a parser that went wrong, and after the originals' store was away."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

from retrieval.adapters.blobs import LocalBlobs
from retrieval.adapters.parser_process import ParserProcesses
from retrieval.core.ingest import IngestWorker
from retrieval.core.model import DocumentState
from retrieval.core.ports import BlobStore, Parser
from servicekit.errors import Unavailable
from tests.unit.retrieval.test_ingest import LIMITS, DirectParser, World, world

__all__ = ["world"]


def worker(world: World, parser: Parser, blobs: BlobStore) -> IngestWorker:
    return IngestWorker(
        catalogue=world.catalogue,
        store=world.store,
        embedder=world.embedder,
        blobs=blobs,
        parser=parser,
        directory=world.directory,
        clock=world.clock,
        limits=LIMITS,
    )


async def test_a_crash_of_the_parser_fails_one_document(world: World) -> None:
    parser = ParserProcesses(
        timeout=timedelta(seconds=20), memory_mb=300, max_chunks=50, module="tests.support.bad_parser"
    )
    bad = await world.upload("crash here", "1.txt")
    good = await world.upload("print this", "2.txt")
    try:
        assert await worker(world, parser, world.blobs).run_until_idle() == 2
    finally:
        await parser.close()
    found = [await world.catalogue.get_document("default", "kb", d.id) for d in (bad, good)]
    assert [document.state for document in found if document] == [DocumentState.FAILED, DocumentState.READY]
    assert found[0] is not None
    assert found[0].error is not None
    assert "crashed on this document" in found[0].error.message


class Away(LocalBlobs):
    """A store that does not answer for a while."""

    outages = 2

    @asynccontextmanager
    async def local_path(self, blob: str) -> AsyncIterator[Path]:
        if self.outages:
            self.outages -= 1
            raise Unavailable("the store of originals failed to read", reason="DEPENDENCY_UNAVAILABLE")
        async with super().local_path(blob) as path:
            yield path


async def test_a_document_outlives_an_outage_of_the_originals(world: World) -> None:
    blobs = Away(world.folder)
    document = await world.upload("some words", "a.txt")
    ingest = worker(world, DirectParser(), blobs)
    for outages in (1, 0):
        assert await ingest.run_until_idle() == 1
        assert blobs.outages == outages
        found = await world.catalogue.get_document("default", "kb", document.id)
        assert found is not None
        assert found.state == DocumentState.PENDING
        world.clock.advance(timedelta(minutes=1))
    assert await ingest.run_until_idle() == 1
    found = await world.catalogue.get_document("default", "kb", document.id)
    assert found is not None
    assert found.state == DocumentState.READY
