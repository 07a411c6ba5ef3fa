"""Large contents: kept in parts beside their row, and put back when it is read.

A row that would have more than OFFLOAD_BYTES names its content by SHA-256 and
size instead. The parts belong to the session and go with it (ON DELETE
CASCADE), whoever deletes it and how: nothing counts references, so nothing
can count wrong. Equal contents of one session are stored once.
"""

import asyncio
import hashlib
import sys
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.util import await_only

from session.adapters.rows import Row, event_from, message_from, owned, owner_values
from session.adapters.tables import blobs, runs
from session.core.model import Event, Message, NewMessage, Owner
from session.core.pages import size_bytes

T = TypeVar("T")

OFFLOAD_BYTES = 64 * 1024
PART_BYTES = 256 * 1024
# 6.6 MB of JSON became a quarter in 42 ms; level 6 took 145 ms for 2 % less.
_LEVEL = 1
_WORTH_IT = 0.9  # a part that shrinks less is kept as it is
_LENGTH_BYTES = 8
OPTION = "offload_bytes"  # of the engine: see database.open_database

# Rows of one session of which some are stored already: the same content came before.
_INSERT = sa.text(
    "INSERT INTO blobs (session_id, digest, part, tenant, owner, compressed, data)"
    " VALUES (:session_id, :digest, :part, :tenant, :owner, :compressed, :data) ON CONFLICT DO NOTHING"
)
_PARTS = (
    sa.select(blobs.c.digest, blobs.c.compressed, blobs.c.data)
    .where(owned(blobs), blobs.c.digest.in_(sa.bindparam("b_digests", expanding=True)))
    .order_by(blobs.c.digest, blobs.c.part)
)
PARTS_OF_SESSION = _PARTS.where(blobs.c.session_id == sa.bindparam("b_id"))
PARTS_OF_RUN = _PARTS.where(
    blobs.c.session_id
    == sa.select(runs.c.session_id).where(runs.c.id == sa.bindparam("b_run"), owned(runs)).scalar_subquery()
)


class Blob(NamedTuple):
    """What a row says of its content."""

    digest: bytes
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """A content as it is stored. `parts`: whether compressed, and the bytes."""

    blob: Blob
    parts: Sequence[tuple[bool, bytes]]


class BlobMissing(Exception):
    """A row names a content that is not there. Deleted between two statements, if the row is gone too."""


class BlobDamaged(Exception):
    """A stored content is not what its name says."""


def offload_bytes(connection: Connection) -> int:
    """Contents of more leave their rows."""
    return int(connection.get_execution_options().get(OPTION, OFFLOAD_BYTES)) or sys.maxsize


def put(connection: Connection, owner: Owner, session: str, contents: Iterable[bytes]) -> list[Blob]:
    """Stores contents in a session whose row this transaction has locked or made."""
    contents = list(contents)
    if not contents:
        return []  # nearly always: no thread for nothing
    packed = _beside(connection, lambda: [_pack(content) for content in contents])
    parts = [
        {
            "session_id": session,
            "digest": one.blob.digest,
            "part": part,
            "tenant": owner.tenant,
            "owner": owner.user,
            "compressed": compressed,
            "data": data,
        }
        for one in packed
        for part, (compressed, data) in enumerate(one.parts)
    ]
    # One at a time: as one array of all, a driver would hold them twice.
    for row in parts:
        connection.execute(_INSERT, row)
    return [one.blob for one in packed]


def get(
    connection: Connection,
    owner: Owner,
    stored: Iterable[Blob],
    parts_of: sa.Select[Any],
    **which: object,
) -> dict[bytes, bytes]:
    """Contents by their digests. Raises BlobMissing, BlobDamaged."""
    wanted = {blob.digest: blob.size_bytes for blob in stored}
    if not wanted:
        return {}
    values = owner_values(owner) | {"b_digests": sorted(wanted)} | which
    found: dict[bytes, list[tuple[bool, bytes]]] = {digest: [] for digest in wanted}
    for row in connection.execute(parts_of, values):
        found[row.digest].append((row.compressed, row.data))
    missing = [digest.hex() for digest, parts in found.items() if not parts]
    if missing:
        raise BlobMissing(missing[0])
    return _beside(connection, lambda: {d: _unpack(Blob(d, wanted[d]), parts) for d, parts in found.items()})


def blob_of(row: Row) -> Blob | None:
    """Of a row whose last two columns are digest and size."""
    return None if row[-1] is None else Blob(row[-2], row[-1])


def join(message: NewMessage) -> bytes:
    """Text and citations of a message as one content."""
    text = message.content.encode()
    return len(text).to_bytes(_LENGTH_BYTES, "big") + text + message.citations


def split(content: bytes) -> tuple[str, bytes]:
    """The reverse of `join`."""
    end = _LENGTH_BYTES + int.from_bytes(content[:_LENGTH_BYTES], "big")
    return content[_LENGTH_BYTES:end].decode(), content[end:]


def messages_from(connection: Connection, owner: Owner, session: str, found: Sequence[Row]) -> list[Message]:
    """Whole messages of rows of rows.MESSAGE, all of one session. Raises BlobMissing, BlobDamaged."""
    named = [blob_of(row) for row in found]
    contents = get(connection, owner, filter(None, named), PARTS_OF_SESSION, b_id=session)
    return [
        message_from(row) if blob is None else message_from(row, *split(contents[blob.digest]))
        for row, blob in zip(found, named, strict=True)
    ]


def events_from(connection: Connection, owner: Owner, run: str, found: Sequence[Row]) -> list[Event]:
    """Events of a run, with what is kept beside their rows."""
    named = [blob_of(row) for row in found]
    contents = get(connection, owner, filter(None, named), PARTS_OF_RUN, b_run=run)
    return [
        event_from(row) if blob is None else event_from(row, contents[blob.digest])
        for row, blob in zip(found, named, strict=True)
    ]


def message_bytes(row: Row) -> int:
    """About as many bytes as the message of a row of rows.MESSAGE has on the wire, and never fewer."""
    return size_bytes(message_from(row)) + (row[-1] or 0)


def event_bytes(row: Row) -> int:
    """Likewise, of a row of rows.EVENT."""
    return len(row[4]) + 16 + (row[-1] or 0)


def _pack(content: bytes) -> Packed:
    parts = []
    for start in range(0, len(content), PART_BYTES):
        part = content[start : start + PART_BYTES]
        small = zlib.compress(part, _LEVEL)
        parts.append((True, small) if len(small) < _WORTH_IT * len(part) else (False, part))
    return Packed(blob=Blob(hashlib.sha256(content).digest(), len(content)), parts=parts)


def _unpack(blob: Blob, parts: Sequence[tuple[bool, bytes]]) -> bytes:
    try:
        content = b"".join(zlib.decompress(data) if compressed else data for compressed, data in parts)
    except zlib.error as error:
        raise BlobDamaged(blob.digest.hex()) from error
    if len(content) != blob.size_bytes or hashlib.sha256(content).digest() != blob.digest:
        raise BlobDamaged(blob.digest.hex())
    return content


def _beside(connection: Connection, work: Callable[[], T]) -> T:
    """Runs `work`, some milliseconds a megabyte, where it does not stop other calls.

    On SQLite the transaction has a thread of its own already.
    """
    return await_only(asyncio.to_thread(work)) if connection.dialect.is_async else work()
