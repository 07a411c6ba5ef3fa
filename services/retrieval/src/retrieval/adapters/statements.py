"""What all statements of the catalogue share."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, case, func, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from retrieval.adapters.database import READ_ONLY, mapped
from retrieval.adapters.rows import ms
from retrieval.adapters.tables import documents, ingest_state, knowledge_bases
from retrieval.core.model import Claim, Document


class Transactions:
    """Every method of a subclass is one transaction."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._reader = engine.execution_options(**{READ_ONLY: True})

    @asynccontextmanager
    async def _begin(self) -> AsyncIterator[AsyncConnection]:
        with mapped():
            async with self._engine.begin() as connection:
                yield connection

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[AsyncConnection]:
        """For searches: on SQLite it does not wait for a writer."""
        with mapped():
            async with self._reader.begin() as connection:
                yield connection


def is_kb(tenant: str, knowledge_base: str) -> ColumnElement[bool]:
    """The row of a knowledge base."""
    return and_(knowledge_bases.c.tenant == tenant, knowledge_bases.c.id == knowledge_base)


def of_kb(tenant: str, knowledge_base: str) -> ColumnElement[bool]:
    """Its documents."""
    return and_(documents.c.tenant == tenant, documents.c.knowledge_base == knowledge_base)


def is_document(document: Document) -> ColumnElement[bool]:
    """The row of a document."""
    return is_id(document.tenant, document.knowledge_base, document.id)


def is_id(tenant: str, knowledge_base: str, document: str) -> ColumnElement[bool]:
    """The row of a document by its id."""
    return and_(of_kb(tenant, knowledge_base), documents.c.id == document)


def state_of(tenant: str, knowledge_base: str) -> ColumnElement[bool]:
    """How its indexing gets on."""
    return and_(ingest_state.c.tenant == tenant, ingest_state.c.knowledge_base == knowledge_base)


def next_revision(now: datetime) -> ColumnElement[int]:
    """One more, and at least the time: it grows even over deleting and creating anew."""
    return case((knowledge_bases.c.revision < ms(now), ms(now)), else_=knowledge_bases.c.revision + 1)


async def bump(connection: AsyncConnection, tenant: str, knowledge_base: str, now: datetime) -> None:
    """A search could find something else from now on."""
    await connection.execute(
        update(knowledge_bases).where(is_kb(tenant, knowledge_base)).values(revision=next_revision(now))
    )


async def lock_knowledge_base(connection: AsyncConnection, tenant: str, knowledge_base: str) -> str | None:
    """Locks it, always before any document: two orders would deadlock.

    Returns:
        The collection that serves it; None if it is not there or being deleted.
    """
    result = await connection.execute(
        select(knowledge_bases.c.collection)
        .where(is_kb(tenant, knowledge_base), knowledge_bases.c.delete_time_ms.is_(None))
        .with_for_update()
    )
    return result.scalar_one_or_none()


async def document_row(
    connection: AsyncConnection, tenant: str, knowledge_base: str, document: str
) -> Row[Any] | None:
    """Hidden ones too."""
    result = await connection.execute(select(documents).where(is_id(tenant, knowledge_base, document)))
    return result.one_or_none()


async def update_claimed(connection: AsyncConnection, claim: Claim, values: dict[str, Any]) -> bool:
    """False if the claim is lost."""
    changed = await connection.execute(
        update(documents)
        .where(is_document(claim.document), documents.c.lease_token == claim.token)
        .values(values)
    )
    return bool(changed.rowcount)


async def put_state(
    connection: AsyncConnection, tenant: str, knowledge_base: str, values: dict[str, Any]
) -> None:
    """Sets what `values` name; the row is made if it is not there."""
    new = {
        "tenant": tenant,
        "knowledge_base": knowledge_base,
        "turn": 0,
        "reconcile_due_ms": 0,
        "stray_chunks_removed": 0,
        "documents_requeued": 0,
    }
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    await connection.execute(insert(ingest_state).values(new).on_conflict_do_nothing())
    if values:
        await connection.execute(update(ingest_state).where(state_of(tenant, knowledge_base)).values(values))


def next_turn() -> ColumnElement[int]:
    """Behind all others."""
    last = ingest_state.alias("last")
    return select(func.coalesce(func.max(last.c.turn), 0) + 1).scalar_subquery()
