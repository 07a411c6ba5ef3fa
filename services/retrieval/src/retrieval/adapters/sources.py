"""Sources in the catalogue's database."""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncEngine

from retrieval.adapters.database import mapped
from retrieval.adapters.rows import document_from_row, knowledge_base_from_row, moment, ms
from retrieval.adapters.tables import documents, knowledge_bases, source_states
from retrieval.core.model import Document, FolderSource, KnowledgeBase
from retrieval.core.sources import SourceLease, SourceStatus
from servicekit.ids import new_id

_MAX_KNOWLEDGE_BASES = 10_000


class SqlSources:
    """See `SourceStore`."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def due(self, *, now: datetime) -> list[tuple[KnowledgeBase, FolderSource]]:
        """By what the stored specs say; two statements for all of them."""
        with_any = and_(
            knowledge_bases.c.delete_time_ms.is_(None), knowledge_bases.c.spec.contains('"sources": [{')
        )
        with mapped():
            async with self._engine.begin() as connection:
                rows = await connection.execute(
                    select(knowledge_bases).where(with_any).limit(_MAX_KNOWLEDGE_BASES)
                )
                found = [knowledge_base_from_row(row) for row in rows]
                if not found:
                    return []
                waiting = await connection.execute(
                    select(
                        source_states.c.tenant, source_states.c.knowledge_base, source_states.c.name
                    ).where(or_(source_states.c.lease_until_ms > ms(now), source_states.c.due_ms > ms(now)))
                )
                not_yet = {tuple(row) for row in waiting}
        return [
            (knowledge_base, source)
            for knowledge_base in found
            for source in knowledge_base.spec.sources
            if (knowledge_base.tenant, knowledge_base.id, source.name) not in not_yet
        ]

    async def take(
        self, knowledge_base: KnowledgeBase, source: FolderSource, *, lease: timedelta, now: datetime
    ) -> SourceLease | None:
        """The row is made when the source is first looked through."""
        taken = SourceLease(
            tenant=knowledge_base.tenant, knowledge_base=knowledge_base.id, source=source, token=new_id()
        )
        insert = postgresql.insert if self._engine.dialect.name == "postgresql" else sqlite.insert
        new = {
            "tenant": taken.tenant,
            "knowledge_base": taken.knowledge_base,
            "name": source.name,
            "lease_until_ms": 0,
            "due_ms": 0,
            "files": 0,
            "message": "",
        }
        # Not deleted meanwhile: the row would be one of nothing.
        alive = select(knowledge_bases.c.id).where(
            knowledge_bases.c.tenant == taken.tenant,
            knowledge_bases.c.id == taken.knowledge_base,
            knowledge_bases.c.delete_time_ms.is_(None),
        )
        free = and_(
            _is(taken),
            source_states.c.lease_until_ms <= ms(now),
            source_states.c.due_ms <= ms(now),
        )
        with mapped():
            async with self._engine.begin() as connection:
                if (await connection.execute(alive)).one_or_none() is None:
                    return None
                await connection.execute(insert(source_states).values(new).on_conflict_do_nothing())
                changed = await connection.execute(
                    update(source_states)
                    .where(free)
                    .values(lease_token=taken.token, lease_until_ms=ms(now + lease))
                )
        return taken if changed.rowcount else None

    async def keep(self, lease: SourceLease, *, until: datetime) -> bool:
        """While the token is still its."""
        return await self._update(lease, {"lease_until_ms": ms(until)})

    async def release(
        self, lease: SourceLease, *, due: datetime, message: str, files: int | None, now: datetime
    ) -> None:
        """Nothing if another worker has it."""
        values: dict[str, Any] = {
            "lease_token": None,
            "lease_until_ms": 0,
            "due_ms": ms(due),
            "message": message,
        }
        if files is not None:
            values |= {"files": files, "sync_time_ms": ms(now)}
        await self._update(lease, values)

    async def statuses(self, tenant: str, knowledge_base: str) -> dict[str, SourceStatus]:
        """One statement."""
        wanted = and_(source_states.c.tenant == tenant, source_states.c.knowledge_base == knowledge_base)
        with mapped():
            async with self._engine.begin() as connection:
                rows = await connection.execute(select(source_states).where(wanted))
                return {
                    row.name: SourceStatus(
                        name=row.name,
                        sync_time=None if row.sync_time_ms is None else moment(row.sync_time_ms),
                        files=row.files,
                        message=row.message,
                    )
                    for row in rows
                }

    async def documents(self, lease: SourceLease, *, after: str, limit: int) -> list[Document]:
        """By path; all of them begin with the source's name."""
        query = (
            select(documents)
            .where(
                documents.c.tenant == lease.tenant,
                documents.c.knowledge_base == lease.knowledge_base,
                documents.c.delete_time_ms.is_(None),
                documents.c.source == lease.source.name,
                documents.c.path > after,
            )
            .order_by(documents.c.path)
            .limit(limit)
        )
        with mapped():
            async with self._engine.begin() as connection:
                return [document_from_row(row) for row in await connection.execute(query)]

    async def restamp(self, document: Document, stamp: str) -> None:
        """Unless it is another's meanwhile."""
        same = and_(
            documents.c.tenant == document.tenant,
            documents.c.knowledge_base == document.knowledge_base,
            documents.c.id == document.id,
            documents.c.source == document.source,
            documents.c.sha256 == document.sha256,
        )
        with mapped():
            async with self._engine.begin() as connection:
                await connection.execute(update(documents).where(same).values(source_stamp=stamp))

    async def _update(self, lease: SourceLease, values: dict[str, Any]) -> bool:
        with mapped():
            async with self._engine.begin() as connection:
                changed = await connection.execute(
                    update(source_states)
                    .where(_is(lease), source_states.c.lease_token == lease.token)
                    .values(values)
                )
        return bool(changed.rowcount)


def _is(lease: SourceLease) -> ColumnElement[bool]:
    return and_(
        source_states.c.tenant == lease.tenant,
        source_states.c.knowledge_base == lease.knowledge_base,
        source_states.c.name == lease.source.name,
    )
