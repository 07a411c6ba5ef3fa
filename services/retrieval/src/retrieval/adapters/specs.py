"""Specs of knowledge bases in SQL."""

from datetime import datetime

from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine

from retrieval.adapters.database import mapped
from retrieval.adapters.spec_rows import spec_to_text
from retrieval.adapters.statements import next_revision
from retrieval.adapters.tables import knowledge_bases
from retrieval.core.model import KnowledgeBase, KnowledgeBaseSpec


class SqlSpecs:
    """See `Specs`."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def replace_spec(self, before: KnowledgeBase, spec: KnowledgeBaseSpec, *, now: datetime) -> bool:
        """Compares and swaps the generation."""
        statement = (
            update(knowledge_bases)
            .where(
                knowledge_bases.c.tenant == before.tenant,
                knowledge_bases.c.id == before.id,
                knowledge_bases.c.generation == before.generation,
                knowledge_bases.c.delete_time_ms.is_(None),
            )
            .values(
                search_mode=spec.search_mode,
                spec=spec_to_text(spec),
                generation=before.generation + 1,
                revision=next_revision(now),
            )
        )
        with mapped():
            async with self._engine.begin() as connection:
                return bool((await connection.execute(statement)).rowcount)
