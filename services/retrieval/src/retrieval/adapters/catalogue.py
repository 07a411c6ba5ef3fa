"""The catalogue in SQL: SQLite on one machine, Postgres on a cluster.

Every method is one transaction. SQLite runs with WAL and waits for its writer.
"""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, delete, exists, func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from retrieval.adapters.ingest_queue import SqlIngestQueue
from retrieval.adapters.place_rows import PLACE_COLUMNS, doomed_place, doomed_values, place_from_row
from retrieval.adapters.rows import (
    counts_of,
    document_from_row,
    knowledge_base_from_row,
    knowledge_base_values,
    ms,
    requeued,
    same_bytes,
    upload_values,
)
from retrieval.adapters.statements import (
    bump,
    document_row,
    is_document,
    is_id,
    is_kb,
    lock_knowledge_base,
    next_revision,
    of_kb,
)
from retrieval.adapters.tables import documents, doomed_collections, knowledge_bases
from retrieval.adapters.tuning_rows import params_from_text
from retrieval.adapters.tuning_tables import of_serving_collection, tuned_params, tunings
from retrieval.adapters.upkeep import SqlUpkeep
from retrieval.core.errors import knowledge_base_not_found
from retrieval.core.model import (
    Document,
    DocumentState,
    KnowledgeBase,
    Place,
    Snapshot,
)
from servicekit.ids import new_id

_PENDING, _INDEXING, _READY, _FAILED = DocumentState
# Longer than the store may take over one deletion, with all its retries.
_DELETION_LEASE = timedelta(seconds=60)


class SqlCatalogue(SqlIngestQueue, SqlUpkeep):
    """See `Catalogue`."""

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
        async with self._reading() as connection:
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
                    is_kb(before.tenant, before.id),
                    knowledge_bases.c.collection == before.collection,
                    knowledge_bases.c.delete_time_ms.is_(None),
                )
                .values(
                    collection=collection,
                    dimension=dimension,
                    model_fingerprint=fingerprint,
                    revision=next_revision(now),
                )
            )
            if changed.rowcount == 0:
                return False
            await connection.execute(
                update(documents)
                .where(of_kb(before.tenant, before.id), documents.c.delete_time_ms.is_(None))
                .values(requeued(now) | {"chunk_count": 0, "error_reason": None, "error_message": None})
            )
            await connection.execute(insert(doomed_collections).values(doomed_values(before)))
        return True

    async def doomed_collections(self) -> list[tuple[str, Place]]:
        """All of them; there are few."""
        async with self._begin() as connection:
            rows = await connection.execute(select(doomed_collections))
            return [(row.collection, doomed_place(row)) for row in rows]

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
                .where(is_kb(tenant, knowledge_base))
                .values(delete_time_ms=func.coalesce(knowledge_bases.c.delete_time_ms, 1))
                .returning(knowledge_bases)
            )
            row = result.one_or_none()
            if row is None:
                return None
            await connection.execute(
                update(documents).where(of_kb(tenant, knowledge_base)).values(lease_token=None)
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
                select(knowledge_bases.c.id).where(is_kb(tenant, knowledge_base)).with_for_update()
            )
            blobs = await connection.execute(
                delete(documents).where(of_kb(tenant, knowledge_base)).returning(documents.c.blob)
            )
            found = [row.blob for row in blobs]
            await connection.execute(
                delete(knowledge_bases).where(
                    is_kb(tenant, knowledge_base), knowledge_bases.c.delete_time_ms.is_not(None)
                )
            )
        return found

    async def put_document(self, document: Document) -> tuple[Document, str | None]:
        """Inserts, replaces, or leaves as it is."""
        async with self._begin() as connection:
            if await lock_knowledge_base(connection, document.tenant, document.knowledge_base) is None:
                raise knowledge_base_not_found(document.knowledge_base)
            row = await document_row(connection, document.tenant, document.knowledge_base, document.id)
            if row is None:
                created = await connection.execute(
                    insert(documents).values(upload_values(document) | {"claimed": 0}).returning(documents)
                )
                return document_from_row(created.one()), None
            current = document_from_row(row)
            hidden = row.delete_time_ms is not None
            same = not hidden and current.sha256 == document.sha256 and current.state != DocumentState.FAILED
            if same and current.metadata == document.metadata:
                return current, document.blob
            # A worker may still be at the former version: its lease holds until it lets go.
            kept = {"chunk_count": row.chunk_count, "lease_until_ms": row.lease_until_ms}
            if not hidden:
                kept["create_time_ms"] = row.create_time_ms
            if same:
                kept |= same_bytes(current)
            values = upload_values(document) | kept
            changed = await connection.execute(
                update(documents).where(is_document(document)).values(values).returning(documents)
            )
            return document_from_row(changed.one()), document.blob if same else current.blob

    async def get_document(self, tenant: str, knowledge_base: str, document: str) -> Document | None:
        """By its key."""
        async with self._begin() as connection:
            row = await document_row(connection, tenant, knowledge_base, document)
        return None if row is None or row.delete_time_ms is not None else document_from_row(row)

    async def list_documents(
        self, tenant: str, knowledge_base: str, *, state: DocumentState | None, after: str, limit: int
    ) -> list[Document]:
        """By path."""
        query = (
            select(documents)
            .where(
                of_kb(tenant, knowledge_base),
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
        """Takes the claim away, and remembers until when its worker, or this deletion, is at it."""
        async with self._begin() as connection:
            await bump(connection, tenant, knowledge_base, now)
            row = (
                await connection.execute(
                    select(documents).where(is_id(tenant, knowledge_base, document)).with_for_update()
                )
            ).one_or_none()
            if row is None:
                return None
            deleting = row.delete_time_ms is not None and row.lease_token is not None
            busy = row.lease_until_ms > ms(now) and not deleting
            values = {"delete_time_ms": ms(now), "lease_token": None}
            if not busy:
                values |= _deletion_lease(now)
            await connection.execute(
                update(documents).where(is_id(tenant, knowledge_base, document)).values(values)
            )
        return busy

    async def deleted_documents(self, *, now: datetime, limit: int) -> list[tuple[Document, Place]]:
        """Those that DeleteDocument could not finish, or that have moved. One caller gets each."""
        mover = documents.alias("mover")
        async with self._begin() as connection:
            rows = await connection.execute(
                select(documents, *PLACE_COLUMNS)
                .join(knowledge_bases)
                .where(
                    documents.c.delete_time_ms.is_not(None),
                    documents.c.lease_until_ms <= ms(now),
                    knowledge_bases.c.delete_time_ms.is_(None),
                    # Its chunks are still to be copied.
                    ~exists().where(
                        mover.c.tenant == documents.c.tenant,
                        mover.c.knowledge_base == documents.c.knowledge_base,
                        mover.c.moved_from == documents.c.id,
                        mover.c.delete_time_ms.is_(None),
                        mover.c.state.in_([_PENDING, _INDEXING]),
                    ),
                )
                .limit(limit)
                .with_for_update(skip_locked=True, of=documents)
            )
            found = [(document_from_row(row), place_from_row(row)) for row in rows]
            for document, _ in found:
                await connection.execute(
                    update(documents).where(is_document(document)).values(_deletion_lease(now))
                )
        return found

    async def remove_document(
        self, tenant: str, knowledge_base: str, document: str, *, now: datetime
    ) -> str | None:
        """Not if it was uploaded again meanwhile: then it need not wait for the deletion any more."""
        which = is_id(tenant, knowledge_base, document)
        async with self._begin() as connection:
            await bump(connection, tenant, knowledge_base, now)
            result = await connection.execute(
                delete(documents)
                .where(which, documents.c.delete_time_ms.is_not(None))
                .returning(documents.c.blob)
            )
            row = result.one_or_none()
            if row is None:
                await connection.execute(
                    update(documents).where(which, documents.c.lease_token.is_(None)).values(lease_until_ms=0)
                )
        return None if row is None else str(row.blob)

    async def _snapshots(
        self, connection: AsyncConnection, tenant: str, which: ColumnElement[bool], *, limit: int
    ) -> list[Snapshot]:
        rows = await connection.execute(
            select(knowledge_bases, tuned_params)
            .outerjoin(tunings, of_serving_collection)
            .where(knowledge_bases.c.tenant == tenant, which, knowledge_bases.c.delete_time_ms.is_(None))
            .order_by(knowledge_bases.c.id)
            .limit(limit)
        )
        found, tuned = [], {}
        for row in rows:
            found.append(knowledge_base_from_row(row))
            tuned[row.id] = params_from_text(row.tuned_params)
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
        return [
            Snapshot(
                knowledge_base=kb,
                counts=counts_of(by_state[kb.id], chunks[kb.id]),
                search_params=tuned[kb.id],
            )
            for kb in found
        ]


def _deletion_lease(now: datetime) -> dict[str, Any]:
    """Who uploads the document again waits until its old chunks are gone."""
    return {"lease_token": new_id(), "lease_until_ms": ms(now + _DELETION_LEASE)}
