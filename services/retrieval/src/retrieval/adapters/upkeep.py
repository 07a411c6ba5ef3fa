"""Retries, moves, comparisons and figures of the queue, in SQL."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, func, insert, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from retrieval.adapters.rows import document_from_row, moment, ms, requeued, upload_values
from retrieval.adapters.statements import (
    Transactions,
    bump,
    document_row,
    is_id,
    lock_knowledge_base,
    of_kb,
    put_state,
    state_of,
)
from retrieval.adapters.tables import documents, ingest_state, knowledge_bases, waiting_since
from retrieval.core.errors import document_not_found, knowledge_base_not_found
from retrieval.core.ingest_model import Catalogued, IngestStatus, Reconciled
from retrieval.core.model import Document, DocumentState
from servicekit.errors import AlreadyExists
from servicekit.ids import new_id

_PENDING, _INDEXING, _READY, _FAILED = DocumentState
_NO_FAILURE = {"error_reason": None, "error_message": None}
# Longer than the store may take over one document, with all its retries.
_HOLD = timedelta(seconds=60)
_RATE_WINDOW = timedelta(minutes=1)


class SqlUpkeep(Transactions):
    """See `Upkeep`."""

    async def retry_documents(
        self, tenant: str, knowledge_base: str, ids: Sequence[str], *, now: datetime
    ) -> int:
        """One statement."""
        which = and_(
            of_kb(tenant, knowledge_base),
            documents.c.state == _FAILED,
            documents.c.delete_time_ms.is_(None),
        )
        if ids:
            which = and_(which, documents.c.id.in_(ids))
        async with self._begin() as connection:
            changed = await connection.execute(
                update(documents).where(which).values(requeued(now) | _NO_FAILURE)
            )
            return changed.rowcount

    async def move_document(
        self, tenant: str, knowledge_base: str, document: str, *, to: str, path: str, now: datetime
    ) -> Document:
        """The new row has all that the old one has; the old one is hidden until its chunks are copied."""
        async with self._begin() as connection:
            if await lock_knowledge_base(connection, tenant, knowledge_base) is None:
                raise knowledge_base_not_found(knowledge_base)
            old = await document_row(connection, tenant, knowledge_base, document)
            if old is None or old.delete_time_ms is not None:
                raise document_not_found(knowledge_base, document)
            there = await document_row(connection, tenant, knowledge_base, to)
            if there is not None and there.delete_time_ms is None:
                raise AlreadyExists(
                    f"{path} is another document of knowledgeBases/{knowledge_base}; delete it first, or "
                    "choose another path",
                    reason="DOCUMENT_ALREADY_EXISTS",
                    metadata={"path": path, "document": to},
                )
            values = _moved(old, to=to, path=path, now=now)
            if there is None:
                await connection.execute(insert(documents).values(values))
            else:  # one that is being deleted: who does that may still be at it
                values |= {"lease_until_ms": there.lease_until_ms}
                await connection.execute(
                    update(documents).where(is_id(tenant, knowledge_base, to)).values(values)
                )
            await connection.execute(
                update(documents)
                .where(is_id(tenant, knowledge_base, document))
                # The original is the new row's now; nothing is stored under this key.
                .values(delete_time_ms=ms(now), lease_token=None, blob=f"moved/{to}")
            )
            await bump(connection, tenant, knowledge_base, now)
            row = await document_row(connection, tenant, knowledge_base, to)
            assert row is not None  # written above
            return document_from_row(row)

    async def catalogued(
        self, tenant: str, knowledge_base: str, *, after: str, limit: int
    ) -> list[Catalogued]:
        """By id."""
        async with self._begin() as connection:
            rows = await connection.execute(
                select(documents)
                .where(of_kb(tenant, knowledge_base), documents.c.id > after)
                .order_by(documents.c.id)
                .limit(limit)
            )
            return [
                Catalogued(
                    id=row.id,
                    state=DocumentState(row.state),
                    version=row.version or "",
                    chunk_count=row.chunk_count,
                    hidden=row.delete_time_ms is not None,
                )
                for row in rows
            ]

    async def hold(
        self, tenant: str, knowledge_base: str, document: Catalogued, *, now: datetime
    ) -> str | None:
        """Compares and sets."""
        token = new_id()
        async with self._begin() as connection:
            changed = await connection.execute(
                update(documents)
                .where(
                    is_id(tenant, knowledge_base, document.id),
                    documents.c.state == document.state,
                    func.coalesce(documents.c.version, "") == document.version,
                    documents.c.delete_time_ms.is_(None),
                    documents.c.lease_until_ms <= ms(now),
                )
                .values(lease_token=token, lease_until_ms=ms(now + _HOLD))
            )
            return token if changed.rowcount else None

    async def let_go(
        self,
        tenant: str,
        knowledge_base: str,
        document: str,
        token: str,
        *,
        chunk_count: int,
        requeue: bool,
        now: datetime,
    ) -> bool:
        """If it was replaced or deleted meanwhile, that goes on at once."""
        which = is_id(tenant, knowledge_base, document)
        values: dict[str, Any] = {"chunk_count": chunk_count, "lease_token": None, "lease_until_ms": 0}
        if requeue:
            values |= requeued(now)
        async with self._begin() as connection:
            await bump(connection, tenant, knowledge_base, now)
            ours = await connection.execute(
                update(documents).where(which, documents.c.lease_token == token).values(values)
            )
            if not ours.rowcount:
                await connection.execute(
                    update(documents).where(which, documents.c.lease_token.is_(None)).values(lease_until_ms=0)
                )
            return bool(ours.rowcount)

    async def bury(
        self, tenant: str, knowledge_base: str, document: str, *, path: str, now: datetime
    ) -> bool:
        """The row of a document that was deleted; who uploads it now waits for the deletion."""
        values = upload_values(
            Document(
                tenant=tenant,
                knowledge_base=knowledge_base,
                id=document,
                path=path,
                media_type="",
                size_bytes=0,
                sha256="",
                blob=f"strays/{document}",
                state=_FAILED,
                create_time=now,
                update_time=now,
            )
        ) | {
            "state": _FAILED,
            "delete_time_ms": ms(now),
            "lease_token": new_id(),
            "lease_until_ms": ms(now + _HOLD),
        }
        async with self._begin() as connection:
            if await lock_knowledge_base(connection, tenant, knowledge_base) is None:
                return False
            new = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
            made = await connection.execute(new(documents).values(values).on_conflict_do_nothing())
            return bool(made.rowcount)

    async def reconcile_next(self, *, lease: timedelta, now: datetime) -> tuple[str, str] | None:
        """The comparison that is due longest; nobody else gets it until the lease ends."""
        due = func.coalesce(ingest_state.c.reconcile_due_ms, 0)
        async with self._begin() as connection:
            found = (
                await connection.execute(
                    select(knowledge_bases.c.tenant, knowledge_bases.c.id, due.label("due"))
                    .outerjoin(ingest_state, _its_state())
                    .where(knowledge_bases.c.delete_time_ms.is_(None), due <= ms(now))
                    .order_by(due)
                    .limit(1)
                )
            ).one_or_none()
            if found is None:
                return None
            await put_state(connection, found.tenant, found.id, {})
            taken = await connection.execute(
                update(ingest_state)
                .where(state_of(found.tenant, found.id), ingest_state.c.reconcile_due_ms == found.due)
                .values(reconcile_due_ms=ms(now + lease))
            )
            return (found.tenant, found.id) if taken.rowcount else None

    async def reconciled(
        self, tenant: str, knowledge_base: str, outcome: Reconciled, *, due: datetime, now: datetime
    ) -> None:
        """Adds up."""
        async with self._begin() as connection:
            if await lock_knowledge_base(connection, tenant, knowledge_base) is None:
                return
            await put_state(
                connection,
                tenant,
                knowledge_base,
                {
                    "reconcile_due_ms": ms(due),
                    "reconcile_time_ms": ms(now),
                    "stray_chunks_removed": ingest_state.c.stray_chunks_removed
                    + outcome.stray_chunks_removed,
                    "documents_requeued": ingest_state.c.documents_requeued + outcome.documents_requeued,
                },
            )

    async def reconcile_by(self, due: datetime, *, unless_since: datetime | None = None) -> None:
        """Two columns of a small table."""
        stale = (
            ingest_state.c.reconcile_due_ms > ms(due)
            if unless_since is None
            else and_(
                ingest_state.c.reconcile_due_ms > ms(due),
                or_(
                    ingest_state.c.reconcile_time_ms.is_(None),
                    ingest_state.c.reconcile_time_ms < ms(unless_since),
                ),
            )
        )
        async with self._begin() as connection:
            await connection.execute(update(ingest_state).where(stale).values(reconcile_due_ms=ms(due)))

    async def ingest_statuses(
        self, tenant: str, knowledge_bases: Sequence[str], *, now: datetime
    ) -> dict[str, IngestStatus]:
        """Four statements, each over an index, however many knowledge bases."""
        ours = and_(
            documents.c.tenant == tenant,
            documents.c.knowledge_base.in_(knowledge_bases),
            documents.c.delete_time_ms.is_(None),
        )
        async with self._begin() as connection:
            oldest = await self._by_id(
                connection,
                [func.min(waiting_since).label("at")],
                and_(ours, documents.c.state == _PENDING),
            )
            rates = await self._by_id(
                connection,
                [func.count().label("documents"), func.sum(documents.c.chunk_count).label("chunks")],
                and_(
                    ours,
                    documents.c.state == _READY,
                    documents.c.update_time_ms > ms(now - _RATE_WINDOW),
                ),
            )
            failures = await self._last_errors(connection, ours)
            states = {
                row.knowledge_base: row
                for row in await connection.execute(
                    select(ingest_state).where(
                        ingest_state.c.tenant == tenant,
                        ingest_state.c.knowledge_base.in_(knowledge_bases),
                    )
                )
            }
        seconds = _RATE_WINDOW.total_seconds()
        found = {}
        for id_ in knowledge_bases:
            waits, rate, state = oldest.get(id_), rates.get(id_), states.get(id_)
            compared = state.reconcile_time_ms if state else None
            found[id_] = IngestStatus(
                oldest_pending=moment(waits.at) if waits else None,
                chunks_per_second=float(rate.chunks) / seconds if rate else 0.0,
                documents_per_second=rate.documents / seconds if rate else 0.0,
                last_error=failures.get(id_, ""),
                reconcile_time=None if compared is None else moment(compared),
                stray_chunks_removed=state.stray_chunks_removed if state else 0,
                documents_requeued=state.documents_requeued if state else 0,
            )
        return found

    async def _by_id(
        self, connection: AsyncConnection, columns: list[Any], which: ColumnElement[bool]
    ) -> dict[str, Row[Any]]:
        rows = await connection.execute(
            select(documents.c.knowledge_base, *columns).where(which).group_by(documents.c.knowledge_base)
        )
        return {row.knowledge_base: row for row in rows}

    async def _last_errors(self, connection: AsyncConnection, ours: ColumnElement[bool]) -> dict[str, str]:
        newest = await self._by_id(
            connection,
            [func.max(documents.c.update_time_ms).label("at")],
            and_(ours, documents.c.state == _FAILED),
        )
        errors = {}
        for id_, failed in newest.items():
            row = (
                await connection.execute(
                    select(documents.c.path, documents.c.error_message)
                    .where(
                        ours,
                        documents.c.knowledge_base == id_,
                        documents.c.state == _FAILED,
                        documents.c.update_time_ms == failed.at,
                    )
                    .limit(1)
                )
            ).one()
            errors[id_] = f"{row.path}: {row.error_message or ''}"
        return errors


def _its_state() -> ColumnElement[bool]:
    return and_(
        ingest_state.c.tenant == knowledge_bases.c.tenant,
        ingest_state.c.knowledge_base == knowledge_bases.c.id,
    )


def _moved(old: Row[Any], *, to: str, path: str, now: datetime) -> dict[str, Any]:
    """Its chunks can be copied from the document itself, or from where it is just moving from."""
    source = None
    if old.state == _READY and old.version:
        source = old.id
    elif old.state in (_PENDING, _INDEXING):
        source = old.moved_from
    return (
        dict(old._mapping)
        | requeued(now)
        | _NO_FAILURE
        | {"id": to, "path": path, "moved_from": source, "lease_until_ms": 0}
        # No file of a source has this path: looking through it must not delete the document.
        | {"source": None, "source_stamp": None}
        | ({} if source else {"version": None, "chunk_count": 0})
    )
