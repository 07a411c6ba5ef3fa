"""The catalogue in SQL: SQLite on one machine, Postgres on a cluster.

Every method is one transaction. SQLite runs with WAL and waits for its writer.
"""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Row,
    and_,
    case,
    delete,
    func,
    insert,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from retrieval.adapters.database import mapped
from retrieval.adapters.rows import (
    counts_of,
    document_from_row,
    knowledge_base_from_row,
    knowledge_base_values,
    ms,
    requeued,
    settled,
    upload_values,
)
from retrieval.adapters.tables import documents, doomed_collections, knowledge_bases
from retrieval.core.errors import knowledge_base_not_found
from retrieval.core.model import (
    Claim,
    Counts,
    Document,
    DocumentError,
    DocumentState,
    KnowledgeBase,
    Snapshot,
)
from servicekit.ids import new_id

_PENDING, _INDEXING, _READY, _FAILED = DocumentState


class SqlCatalogue:
    """See `Catalogue`."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def check(self) -> None:
        """Reads one row at most."""
        async with self._begin() as connection:
            await connection.execute(select(documents.c.id).limit(1))

    async def insert_knowledge_base(self, knowledge_base: KnowledgeBase) -> bool:
        """The primary key decides who was first."""
        try:
            async with self._begin() as connection:
                await connection.execute(
                    insert(knowledge_bases).values(knowledge_base_values(knowledge_base))
                )
        except IntegrityError:
            return False
        return True

    async def snapshot(self, tenant: str, knowledge_base: str) -> Snapshot | None:
        """Two statements, one transaction."""
        async with self._begin() as connection:
            found = await self._snapshots(connection, tenant, knowledge_bases.c.id == knowledge_base, limit=1)
        return found[0] if found else None

    async def list_knowledge_bases(self, tenant: str, *, after: str, limit: int) -> list[Snapshot]:
        """By id."""
        async with self._begin() as connection:
            return await self._snapshots(connection, tenant, knowledge_bases.c.id > after, limit=limit)

    async def start_reindex(
        self, before: KnowledgeBase, *, collection: str, dimension: int, fingerprint: str, now: datetime
    ) -> bool:
        """Compares and swaps the collection's name."""
        async with self._begin() as connection:
            changed = await connection.execute(
                update(knowledge_bases)
                .where(
                    _is_kb(before.tenant, before.id),
                    knowledge_bases.c.collection == before.collection,
                    knowledge_bases.c.delete_time_ms.is_(None),
                )
                .values(
                    collection=collection,
                    dimension=dimension,
                    model_fingerprint=fingerprint,
                    revision=_next_revision(now),
                )
            )
            if changed.rowcount == 0:
                return False
            await connection.execute(
                update(documents)
                .where(_of_kb(before.tenant, before.id), documents.c.delete_time_ms.is_(None))
                .values(requeued(now) | {"chunk_count": 0, "error_reason": None, "error_message": None})
            )
            await connection.execute(
                insert(doomed_collections).values(collection=before.collection, tenant=before.tenant)
            )
        return True

    async def doomed_collections(self) -> list[tuple[str, str]]:
        """All of them; there are few."""
        async with self._begin() as connection:
            rows = await connection.execute(select(doomed_collections))
            return [(row.tenant, row.collection) for row in rows]

    async def forget_collection(self, collection: str) -> None:
        """Removes the note."""
        async with self._begin() as connection:
            await connection.execute(
                delete(doomed_collections).where(doomed_collections.c.collection == collection)
            )

    async def mark_knowledge_base_deleted(self, tenant: str, knowledge_base: str) -> KnowledgeBase | None:
        """Takes every claim away too."""
        async with self._begin() as connection:
            result = await connection.execute(
                update(knowledge_bases)
                .where(_is_kb(tenant, knowledge_base))
                .values(delete_time_ms=func.coalesce(knowledge_bases.c.delete_time_ms, 1))
                .returning(knowledge_bases)
            )
            row = result.one_or_none()
            if row is None:
                return None
            await connection.execute(
                update(documents).where(_of_kb(tenant, knowledge_base)).values(lease_token=None)
            )
            return knowledge_base_from_row(row)

    async def deleted_knowledge_bases(self) -> list[KnowledgeBase]:
        """Those that a crash or an outage left half deleted."""
        async with self._begin() as connection:
            rows = await connection.execute(
                select(knowledge_bases).where(knowledge_bases.c.delete_time_ms.is_not(None)).limit(100)
            )
            return [knowledge_base_from_row(row) for row in rows]

    async def remove_knowledge_base(self, tenant: str, knowledge_base: str) -> list[str]:
        """Documents, then the knowledge base."""
        async with self._begin() as connection:
            await connection.execute(
                select(knowledge_bases.c.id).where(_is_kb(tenant, knowledge_base)).with_for_update()
            )
            blobs = await connection.execute(
                delete(documents).where(_of_kb(tenant, knowledge_base)).returning(documents.c.blob)
            )
            found = [row.blob for row in blobs]
            await connection.execute(
                delete(knowledge_bases).where(
                    _is_kb(tenant, knowledge_base), knowledge_bases.c.delete_time_ms.is_not(None)
                )
            )
        return found

    async def put_document(self, document: Document) -> tuple[Document, str | None]:
        """Inserts, replaces, or leaves as it is."""
        async with self._begin() as connection:
            if await self._lock(connection, document) is None:
                raise knowledge_base_not_found(document.knowledge_base)
            row = await self._document_row(connection, document.tenant, document.knowledge_base, document.id)
            if row is None:
                created = await connection.execute(
                    insert(documents).values(upload_values(document)).returning(documents)
                )
                return document_from_row(created.one()), None
            current = document_from_row(row)
            hidden = row.delete_time_ms is not None
            if not hidden and current.sha256 == document.sha256 and current.state != DocumentState.FAILED:
                return current, document.blob
            # A worker may still be at the former version: its lease holds until it lets go.
            kept = {"chunk_count": row.chunk_count, "lease_until_ms": row.lease_until_ms}
            if not hidden:
                kept["create_time_ms"] = row.create_time_ms
            values = upload_values(document) | kept
            changed = await connection.execute(
                update(documents).where(_is_document(document)).values(values).returning(documents)
            )
            return document_from_row(changed.one()), current.blob

    async def get_document(self, tenant: str, knowledge_base: str, document: str) -> Document | None:
        """By its key."""
        async with self._begin() as connection:
            row = await self._document_row(connection, tenant, knowledge_base, document)
        return None if row is None or row.delete_time_ms is not None else document_from_row(row)

    async def list_documents(
        self, tenant: str, knowledge_base: str, *, state: DocumentState | None, after: str, limit: int
    ) -> list[Document]:
        """By path."""
        query = (
            select(documents)
            .where(
                _of_kb(tenant, knowledge_base),
                documents.c.delete_time_ms.is_(None),
                documents.c.path > after,
            )
            .order_by(documents.c.path)
            .limit(limit)
        )
        if state is not None:
            query = query.where(documents.c.state == state)
        async with self._begin() as connection:
            return [document_from_row(row) for row in await connection.execute(query)]

    async def mark_document_deleted(
        self, tenant: str, knowledge_base: str, document: str, *, now: datetime
    ) -> bool | None:
        """Takes the claim away, and remembers until when its worker may still write."""
        async with self._begin() as connection:
            await self._bump(connection, tenant, knowledge_base, now)
            result = await connection.execute(
                update(documents)
                .where(_of_kb(tenant, knowledge_base), documents.c.id == document)
                .values(delete_time_ms=ms(now), lease_token=None)
                .returning(documents.c.state, documents.c.lease_until_ms)
            )
            row = result.one_or_none()
        if row is None:
            return None
        return bool(row.state == _INDEXING and row.lease_until_ms > ms(now))

    async def deleted_documents(self, *, now: datetime, limit: int) -> list[tuple[Document, str]]:
        """Those that DeleteDocument could not finish."""
        async with self._begin() as connection:
            rows = await connection.execute(
                select(documents, knowledge_bases.c.collection)
                .join(knowledge_bases)
                .where(
                    documents.c.delete_time_ms.is_not(None),
                    documents.c.lease_until_ms <= ms(now),
                    knowledge_bases.c.delete_time_ms.is_(None),
                )
                .limit(limit)
            )
            return [(document_from_row(row), row.collection) for row in rows]

    async def remove_document(
        self, tenant: str, knowledge_base: str, document: str, *, now: datetime
    ) -> str | None:
        """Not if it was uploaded again meanwhile."""
        async with self._begin() as connection:
            await self._bump(connection, tenant, knowledge_base, now)
            result = await connection.execute(
                delete(documents)
                .where(
                    _of_kb(tenant, knowledge_base),
                    documents.c.id == document,
                    documents.c.delete_time_ms.is_not(None),
                )
                .returning(documents.c.blob)
            )
            row = result.one_or_none()
        return None if row is None else str(row.blob)

    async def claim(self, *, lease: timedelta, now: datetime) -> Claim | None:
        """The longest waiting one. Postgres' workers skip rows that another is just claiming."""
        token = new_id()
        waiting = (
            select(documents.c.tenant, documents.c.knowledge_base, documents.c.id)
            .join(knowledge_bases)
            .where(
                documents.c.delete_time_ms.is_(None),
                knowledge_bases.c.delete_time_ms.is_(None),
                documents.c.lease_until_ms <= ms(now),
                or_(
                    and_(documents.c.state == _PENDING, documents.c.due_ms <= ms(now)),
                    documents.c.state == _INDEXING,
                ),
            )
            .order_by(documents.c.due_ms, documents.c.path)
            .limit(1)
            .with_for_update(skip_locked=True, of=documents)
        )
        async with self._begin() as connection:
            found = (await connection.execute(waiting)).one_or_none()
            if found is None:
                return None
            row = (
                await connection.execute(
                    update(documents)
                    .where(
                        tuple_(documents.c.tenant, documents.c.knowledge_base, documents.c.id)
                        == tuple_(found.tenant, found.knowledge_base, found.id)
                    )
                    .values(
                        state=_INDEXING,
                        lease_token=token,
                        lease_until_ms=ms(now + lease),
                        attempts=documents.c.attempts + 1,
                        update_time_ms=ms(now),
                    )
                    .returning(documents)
                )
            ).one()
        first = row.first_failure_ms
        return Claim(
            document=document_from_row(row),
            token=token,
            first_failure=None if first is None else datetime.fromtimestamp(first / 1000, UTC),
        )

    async def renew(self, claim: Claim, *, lease: timedelta, now: datetime) -> bool:
        """Only while the token is still the claim's."""
        async with self._begin() as connection:
            return await _update_claimed(connection, claim, {"lease_until_ms": ms(now + lease)})

    async def finish(
        self, claim: Claim, *, collection: str, chunk_count: int, warnings: Sequence[str], now: datetime
    ) -> bool:
        """Also lost if a re-index has moved the knowledge base to another collection."""
        document = claim.document
        values = settled(_READY, now) | {
            "chunk_count": chunk_count,
            "warnings": json.dumps(list(warnings)),
            "error_reason": None,
            "error_message": None,
        }
        async with self._begin() as connection:
            serving = await self._lock(connection, document)
            if serving != collection or not await _update_claimed(connection, claim, values):
                return False
            await self._bump(connection, document.tenant, document.knowledge_base, now)
        return True

    async def fail(self, claim: Claim, error: DocumentError, *, chunks_removed: bool, now: datetime) -> bool:
        """The revision grows if chunks went."""
        values = settled(_FAILED, now) | {"error_reason": error.reason, "error_message": error.message}
        if chunks_removed:
            values["chunk_count"] = 0
        async with self._begin() as connection:
            serving = await self._lock(connection, claim.document)
            if serving is None or not await _update_claimed(connection, claim, values):
                return False
            await self._bump(connection, claim.document.tenant, claim.document.knowledge_base, now)
        return True

    async def postpone(self, claim: Claim, *, until: datetime, now: datetime) -> bool:
        """Back into the queue."""
        values = settled(_PENDING, now) | {
            "due_ms": ms(until),
            "first_failure_ms": func.coalesce(documents.c.first_failure_ms, ms(now)),
        }
        async with self._begin() as connection:
            return await _update_claimed(connection, claim, values)

    async def abandon(self, claim: Claim) -> None:
        """Only if nobody else has claimed it since."""
        async with self._begin() as connection:
            await connection.execute(
                update(documents)
                .where(_is_document(claim.document), documents.c.lease_token.is_(None))
                .values(lease_until_ms=0)
            )

    async def queue_depth(self) -> Counts:
        """One statement over an index."""
        async with self._begin() as connection:
            rows = await connection.execute(
                select(documents.c.state, func.count().label("documents"))
                .where(documents.c.delete_time_ms.is_(None))
                .group_by(documents.c.state)
            )
            by_state = {row.state: row.documents for row in rows}
        return counts_of(by_state, 0)

    async def _snapshots(
        self, connection: AsyncConnection, tenant: str, which: ColumnElement[bool], *, limit: int
    ) -> list[Snapshot]:
        rows = await connection.execute(
            select(knowledge_bases)
            .where(knowledge_bases.c.tenant == tenant, which, knowledge_bases.c.delete_time_ms.is_(None))
            .order_by(knowledge_bases.c.id)
            .limit(limit)
        )
        found = [knowledge_base_from_row(row) for row in rows]
        counted = await connection.execute(
            select(
                documents.c.knowledge_base,
                documents.c.state,
                func.count().label("documents"),
                func.sum(documents.c.chunk_count).label("chunks"),
            )
            .where(
                documents.c.tenant == tenant,
                documents.c.knowledge_base.in_([kb.id for kb in found]),
                documents.c.delete_time_ms.is_(None),
            )
            .group_by(documents.c.knowledge_base, documents.c.state)
        )
        by_state: dict[str, dict[int, int]] = {kb.id: {} for kb in found}
        chunks: dict[str, int] = dict.fromkeys(by_state, 0)
        for row in counted:
            by_state[row.knowledge_base][row.state] = row.documents
            chunks[row.knowledge_base] += int(row.chunks)
        return [Snapshot(knowledge_base=kb, counts=counts_of(by_state[kb.id], chunks[kb.id])) for kb in found]

    async def _lock(self, connection: AsyncConnection, document: Document) -> str | None:
        """Locks its knowledge base, always before any document: two orders would deadlock.

        Returns:
            The collection that serves it; None if it is not there or being deleted.
        """
        result = await connection.execute(
            select(knowledge_bases.c.collection)
            .where(
                _is_kb(document.tenant, document.knowledge_base), knowledge_bases.c.delete_time_ms.is_(None)
            )
            .with_for_update()
        )
        return result.scalar_one_or_none()

    async def _document_row(
        self, connection: AsyncConnection, tenant: str, knowledge_base: str, document: str
    ) -> Row[Any] | None:
        result = await connection.execute(
            select(documents).where(_of_kb(tenant, knowledge_base), documents.c.id == document)
        )
        return result.one_or_none()

    async def _bump(
        self, connection: AsyncConnection, tenant: str, knowledge_base: str, now: datetime
    ) -> None:
        await connection.execute(
            update(knowledge_bases).where(_is_kb(tenant, knowledge_base)).values(revision=_next_revision(now))
        )

    @asynccontextmanager
    async def _begin(self) -> AsyncIterator[AsyncConnection]:
        with mapped():
            async with self._engine.begin() as connection:
                yield connection


async def _update_claimed(connection: AsyncConnection, claim: Claim, values: dict[str, Any]) -> bool:
    changed = await connection.execute(
        update(documents)
        .where(_is_document(claim.document), documents.c.lease_token == claim.token)
        .values(values)
    )
    return bool(changed.rowcount)


def _is_kb(tenant: str, knowledge_base: str) -> ColumnElement[bool]:
    return and_(knowledge_bases.c.tenant == tenant, knowledge_bases.c.id == knowledge_base)


def _of_kb(tenant: str, knowledge_base: str) -> ColumnElement[bool]:
    return and_(documents.c.tenant == tenant, documents.c.knowledge_base == knowledge_base)


def _is_document(document: Document) -> ColumnElement[bool]:
    return and_(_of_kb(document.tenant, document.knowledge_base), documents.c.id == document.id)


def _next_revision(now: datetime) -> ColumnElement[int]:
    """One more, and at least the time: it grows even over deleting and creating anew."""
    return case((knowledge_bases.c.revision < ms(now), ms(now)), else_=knowledge_bases.c.revision + 1)
