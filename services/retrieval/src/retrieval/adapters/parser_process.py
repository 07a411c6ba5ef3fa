"""Parses in child processes with a bound of time and memory, so that a bad file hurts nobody else."""

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import structlog

from retrieval.core.model import ChunkDraft, Chunking, DocumentError, ParsedDocument
from retrieval.core.ports import DocumentUnreadable
from servicekit.errors import Unavailable

log = structlog.get_logger()

OUT_OF_MEMORY = 77
# Not the document's fault, so not of its time: a busy machine takes seconds to start Python.
_START_S = 60.0
# Replaced now and then: what parsers leak goes with the process.
_DOCUMENTS_A_CHILD = 200
_MAX_ANSWER_BYTES = 256 * 1024 * 1024


class ParserProcesses:
    """See `Parser`. Keeps one idle child for each of the parallel parses that there were.

    Args:
        timeout: Of one document.
        memory_mb: Address space of one child.
        max_chunks: More are refused.
        tokenizer_file: To count tokens as the model does.
        module: What the child runs; its arguments are those of `retrieval.parse`.
    """

    def __init__(
        self,
        *,
        timeout: timedelta,
        memory_mb: int,
        max_chunks: int,
        tokenizer_file: Path | None = None,
        module: str = "retrieval.parse",
    ) -> None:
        self._timeout_s = timeout.total_seconds()
        self._memory_mb = memory_mb
        self._max_chunks = max_chunks
        self._tokenizer_file = tokenizer_file
        self._module = module
        self._idle: list[_Child] = []

    async def parse(self, file: Path, *, path: str, media_type: str, chunking: Chunking) -> ParsedDocument:
        """See `Parser.parse`."""
        request = {
            "file": str(file),
            "media_type": media_type,
            "max_tokens": chunking.max_tokens,
            "overlap_tokens": chunking.overlap_tokens,
            "strategy": chunking.strategy,
            "max_chunks": self._max_chunks,
        }
        async with self._child() as child:
            try:
                async with asyncio.timeout(self._timeout_s):
                    line = await child.ask(json.dumps(request))
            except TimeoutError:
                raise _unreadable(
                    f"reading the document took longer than {self._timeout_s:g} s; "
                    "split it into smaller files"
                ) from None
            except (OSError, ValueError):
                line = b""
            if not line.endswith(b"\n"):  # it ended, perhaps in the middle of its answer
                raise _unreadable(await self._why_it_ended(child))
            child.documents += 1
            reply = _reply(line)
            child.healthy = child.documents < _DOCUMENTS_A_CHILD
        if "error" in reply:
            raise DocumentUnreadable(DocumentError(**reply["error"]))
        return ParsedDocument(
            chunks=tuple(
                ChunkDraft(text=text, context=context, location=location)
                for text, context, location in reply["chunks"]
            ),
            warnings=tuple(reply["warnings"]),
        )

    async def close(self) -> None:
        """Ends the idle children."""
        while self._idle:
            await self._idle.pop().kill()

    @asynccontextmanager
    async def _child(self) -> AsyncIterator["_Child"]:
        child = self._idle.pop() if self._idle else await self._start()
        child.healthy = False
        try:
            yield child
        finally:
            # Anything but an answer, a cancelled parse too, leaves the child in a state nobody knows.
            if child.healthy:
                self._idle.append(child)
            else:
                await asyncio.shield(child.kill())

    async def _start(self) -> "_Child":
        arguments = ["-m", self._module, "--memory-mb", str(self._memory_mb)]
        if self._tokenizer_file is not None:
            arguments += ["--tokenizer", str(self._tokenizer_file)]
        child = _Child(
            await asyncio.create_subprocess_exec(
                sys.executable,
                *arguments,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,  # parsers chatter about every oddity of a file
                limit=_MAX_ANSWER_BYTES,
            )
        )
        try:
            async with asyncio.timeout(_START_S):
                ready = await child.line()
        except TimeoutError:
            ready = b""
        except BaseException:
            await asyncio.shield(child.kill())
            raise
        if ready != b"ready\n":
            code = await child.kill()
            log.warning("parser_not_started", exit_code=code)
            raise Unavailable(
                f"the parser's process does not start (exit code {code})", reason="DEPENDENCY_UNAVAILABLE"
            )
        return child

    async def _why_it_ended(self, child: "_Child") -> str:
        code = await child.kill()
        log.warning("parser_died", exit_code=code)
        # Libraries in other languages abort when they get no memory.
        if code in (OUT_OF_MEMORY, -signal.SIGKILL, -signal.SIGABRT):
            return (
                f"reading the document took more than {self._memory_mb} MiB of memory; "
                "split it into smaller files"
            )
        return f"the parser crashed on this document (exit code {code}); save it in another format"


class _Child:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.documents = 0
        self.healthy = False

    async def ask(self, request: str) -> bytes:
        assert self._process.stdin is not None
        self._process.stdin.write(request.encode() + b"\n")
        await self._process.stdin.drain()
        return await self.line()

    async def line(self) -> bytes:
        """The next one it says."""
        assert self._process.stdout is not None
        return await self._process.stdout.readline()

    async def kill(self) -> int:
        """Ends it if it still runs; returns how it ended."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.2 if not self.healthy else 0):
                return await self._process.wait()
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        return await self._process.wait()


def _reply(line: bytes) -> dict[str, Any]:
    try:
        reply = json.loads(line)
    except ValueError:
        reply = None
    if not isinstance(reply, dict) or not ("error" in reply or "chunks" in reply):
        raise _unreadable("the parser answered nonsense for this document; save it in another format")
    return reply


def _unreadable(message: str) -> DocumentUnreadable:
    return DocumentUnreadable(DocumentError(reason="DOCUMENT_UNREADABLE", message=message))
