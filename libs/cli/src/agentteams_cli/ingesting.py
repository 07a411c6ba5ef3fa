"""Uploading files and waiting until they are indexed."""

import asyncio
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType

from agentteams.retrieval.v1 import filter_pb2 as filter_pb
from agentteams.retrieval.v1 import knowledge_base_pb2 as kb_pb

from agentteams_cli.client import Client
from agentteams_cli.console import Bar
from agentteams_cli.errors import CliError
from agentteams_cli.knowledge import metadata_values
from servicekit.errors import DeadlineExceeded, NotFound, ServiceError, Unavailable

PARALLEL_UPLOADS = 4
# A large PDF takes a minute; ten without any document getting ready mean that something is wrong.
STALL_TIMEOUT = timedelta(minutes=10)
POLL_S = 0.3

READY, FAILED, SKIPPED, PENDING = "ready", "failed", "skipped", "pending"
_RETRIED_AT_ONCE = 1000
_UNSUPPORTED = "DOCUMENT_TYPE_UNSUPPORTED"


@dataclass(slots=True, kw_only=True)
class Ingested:
    """What became of one file."""

    path: str
    state: str
    """ready, failed, skipped (a kind of file that is not supported) or pending."""
    chunks: int = 0
    reason: str = ""
    warnings: tuple[str, ...] = ()
    document: str = ""


def find_files(paths: Sequence[Path]) -> list[tuple[Path, str]]:
    """Files with their names as documents; hidden files and folders are left out.

    A document is named as seen from the current folder, so that the same file is the same document however it
    was named; outside of it, from the folder that holds what was given.

    Raises:
        CliError: A path does not exist.
    """
    found: dict[Path, str] = {}
    here = Path.cwd()
    for given in paths:
        path = Path(os.path.abspath(given))
        if not path.exists():
            raise CliError(f"{given} does not exist", fix="check the path")
        base = here if path.is_relative_to(here) else path.parent
        for file in [path] if path.is_file() else _walk(path):
            found.setdefault(file, file.relative_to(base).as_posix())
    return list(found.items())


def _walk(folder: Path) -> Iterator[Path]:
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for name in sorted(files):
            if not name.startswith("."):
                yield Path(root) / name


async def ingest(
    client: Client,
    knowledge_base: str,
    files: Sequence[tuple[Path, str]],
    *,
    wait: bool,
    bar: Bar,
    metadata: Mapping[str, str] = MappingProxyType({}),
) -> list[Ingested]:
    """Uploads all files, then waits until each is ready or failed. A bad file does not stop the others.

    Args:
        metadata: What all of them say about themselves; texts of the knowledge base's fields.

    Raises:
        ServiceError: The services cannot be reached, or there is no such knowledge base.
        CliError: Nothing got ready for ten minutes, or the metadata do not fit.
    """
    results = [Ingested(path=name, state=PENDING) for _, name in files]
    # One error for a wrong name, and not one a file.
    values = metadata_values(await client.knowledge_base(knowledge_base), metadata)
    queue = iter(list(zip(files, results, strict=True)))
    sent = 0

    async def worker() -> None:
        nonlocal sent
        for (file, _), result in queue:
            await _upload(client, knowledge_base, file, result, values)
            sent += 1
            bar("Uploading", sent, len(files))

    bar("Uploading", 0, len(files))
    async with asyncio.TaskGroup() as group:
        for _ in range(min(PARALLEL_UPLOADS, len(files))):
            group.create_task(worker())
    if wait:
        await _wait(client, knowledge_base, results, bar)
    return results


async def retry_failed(client: Client, knowledge_base: str, *, wait: bool, bar: Bar) -> list[Ingested]:
    """Queues all failed documents anew, then waits until each is ready or has failed again.

    Raises:
        ServiceError: The services cannot be reached, or there is no such knowledge base.
        CliError: Nothing got ready for ten minutes.
    """
    failed = [document async for document in client.documents(knowledge_base, state=FAILED)]
    results = [Ingested(path=d.path, state=PENDING, document=d.name) for d in failed]
    for start in range(0, len(results), _RETRIED_AT_ONCE):
        names = [result.document for result in results[start : start + _RETRIED_AT_ONCE]]
        await client.retry_documents(knowledge_base, names)
    if wait:
        await _wait(client, knowledge_base, results, bar)
    return results


async def _upload(
    client: Client, knowledge_base: str, file: Path, result: Ingested, values: Mapping[str, filter_pb.Value]
) -> None:
    try:
        result.path.encode()
        document = await client.upload(knowledge_base, file, path=result.path, metadata=values)
    except UnicodeEncodeError:
        result.path = result.path.encode("utf-8", "replace").decode()
        result.state, result.reason = FAILED, "its name is not UTF-8; rename it"
    except OSError as exc:
        result.state, result.reason = FAILED, f"cannot be read: {exc.strerror}"
    except (Unavailable, DeadlineExceeded, NotFound):
        raise
    except ServiceError as exc:
        unsupported = exc.reason == _UNSUPPORTED
        result.state, result.reason = SKIPPED if unsupported else FAILED, exc.message
    else:
        result.document = document.name
        _note(document, result)


def _note(document: kb_pb.Document, result: Ingested) -> None:
    if document.state == kb_pb.DOCUMENT_STATE_READY:
        result.state, result.chunks = READY, document.chunk_count
        result.warnings = tuple(document.warnings)
    elif document.state == kb_pb.DOCUMENT_STATE_FAILED:
        result.state, result.reason = FAILED, document.error.message


async def _wait(client: Client, knowledge_base: str, results: Sequence[Ingested], bar: Bar) -> None:
    total = sum(1 for r in results if r.document)
    waiting = {r.document: r for r in results if r.state == PENDING}
    last_change = time.monotonic()
    while True:
        bar("Indexing", total - len(waiting), total)
        if not waiting:
            return
        await asyncio.sleep(POLL_S)
        before = len(waiting)
        async for document in client.documents(knowledge_base):
            result = waiting.get(document.name)
            if result is not None:
                _note(document, result)
                if result.state != PENDING:
                    del waiting[document.name]
        if len(waiting) != before:
            last_change = time.monotonic()
        elif time.monotonic() - last_change > STALL_TIMEOUT.total_seconds():
            minutes = STALL_TIMEOUT.total_seconds() / 60
            raise CliError(
                f"{len(waiting)} of {total} documents wait to be indexed, none was for {minutes:.0f} minutes",
                fix="see `agentteams doctor`; indexing goes on in the background",
            )
