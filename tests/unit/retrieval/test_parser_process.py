"""A parser that hangs, crashes or eats memory is the document's problem alone."""

import asyncio
import os
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import psutil
import pytest

from retrieval.adapters.parser_process import ParserProcesses
from retrieval.core import media
from retrieval.core.model import Chunking, ParsedDocument
from retrieval.core.ports import DocumentUnreadable
from servicekit.errors import Unavailable

pytestmark = pytest.mark.alone  # how long a parser may take is real time


@pytest.fixture
async def parser() -> AsyncIterator[ParserProcesses]:
    parser = ParserProcesses(timeout=timedelta(seconds=1.5), memory_mb=300, max_chunks=50)
    yield parser
    await parser.close()
    assert parser_children() == []


def parser_children() -> list[psutil.Process]:
    modules = {"retrieval.parse", "tests.support.bad_parser"}
    return [p for p in psutil.Process().children() if modules & set(p.cmdline())]


async def parse(parser: ParserProcesses, file: Path, media_type: str = media.TEXT) -> ParsedDocument:
    return await parser.parse(file, path=file.name, media_type=media_type, chunking=Chunking())


async def test_one_child_reads_many_documents(parser: ParserProcesses, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.txt", tmp_path / "bad.pdf"
    good.write_text("some words")
    bad.write_bytes(b"nothing")
    assert (await parse(parser, good)).chunks[0].text == "some words"
    (child,) = parser_children()
    with pytest.raises(DocumentUnreadable, match="not a readable PDF"):
        await parse(parser, bad, media.PDF)
    assert (await parse(parser, good)).chunks[0].text == "some words"
    assert parser_children() == [child]


async def test_a_hanging_parser_is_ended(parser: ParserProcesses, tmp_path: Path) -> None:
    endless, good = tmp_path / "endless", tmp_path / "good.txt"
    os.mkfifo(endless)  # reading it waits for a writer that never comes
    good.write_text("some words")
    with pytest.raises(DocumentUnreadable, match=r"longer than 1\.5 s"):
        await parse(parser, endless)
    assert parser_children() == []
    assert (await parse(parser, good)).chunks


async def test_a_crash_is_told_apart(parser: ParserProcesses, tmp_path: Path) -> None:
    endless, good = tmp_path / "endless", tmp_path / "good.txt"
    os.mkfifo(endless)
    good.write_text("some words")
    await parse(parser, good)  # the child has started
    parsing = asyncio.ensure_future(parse(parser, endless))
    async with asyncio.timeout(1):
        while not (children := parser_children()):  # noqa: ASYNC110  # another process has no event
            await asyncio.sleep(0.01)
    children[0].send_signal(11)
    with pytest.raises(DocumentUnreadable, match=r"crashed.*-11"):
        await parsing


async def test_memory_is_bounded(parser: ParserProcesses, tmp_path: Path) -> None:
    large = tmp_path / "large.txt"
    with large.open("wb") as file:
        file.truncate(400 * 1024 * 1024)
    with pytest.raises(DocumentUnreadable, match="more than 300 MiB"):
        await parse(parser, large)


async def test_too_many_chunks_are_refused(parser: ParserProcesses, tmp_path: Path) -> None:
    long = tmp_path / "long.txt"
    long.write_text("Sentences without end follow one another here. " * 2000)
    with pytest.raises(DocumentUnreadable, match="at most 50 are allowed") as caught:
        await parse(parser, long)
    assert caught.value.error.reason == "DOCUMENT_TOO_LARGE"


BAD = {
    "crash": r"crashed on this document \(exit code -11\)",
    "leave": r"crashed on this document \(exit code 3\)",
    "half": r"crashed on this document \(exit code 0\)",
    "hang": r"longer than 1\.5 s",
    "eat": "more than 300 MiB of memory",
    "recurse": "nested too deeply",
    "babble": "answered nonsense",
}


async def test_each_way_to_go_wrong_costs_one_document(tmp_path: Path) -> None:
    parser = ParserProcesses(
        timeout=timedelta(seconds=1.5), memory_mb=300, max_chunks=50, module="tests.support.bad_parser"
    )
    bad, good = tmp_path / "bad.txt", tmp_path / "good.txt"
    good.write_text("print some words")  # what a parser prints is no answer
    try:
        for evil, message in BAD.items():
            bad.write_text(evil)
            with pytest.raises(DocumentUnreadable, match=message):
                await parse(parser, bad)
            assert (await parse(parser, good)).chunks[0].text == "print some words", evil
            assert len(parser_children()) == 1
    finally:
        await parser.close()


async def test_a_parser_that_does_not_start_is_not_the_documents_fault(tmp_path: Path) -> None:
    parser = ParserProcesses(timeout=timedelta(seconds=1), memory_mb=300, max_chunks=50, module="no.such")
    file = tmp_path / "a.txt"
    file.write_text("some words")
    with pytest.raises(Unavailable, match="does not start"):
        await parse(parser, file)
    assert parser_children() == []
