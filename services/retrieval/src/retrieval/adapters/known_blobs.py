"""Which originals documents have, in the catalogue's database."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncEngine

from retrieval.adapters.database import mapped
from retrieval.adapters.rows import ms
from retrieval.adapters.tables import documents, turns

_SWEEP = "originals"
_BLOBS_A_STATEMENT = 500  # SQLite has a bound on parameters


class SqlKnownBlobs:
    """See `KnownBlobs`."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def take_turn(self, *, every: timedelta, now: datetime) -> bool:
        """Whoever moves the time on. The first turn is one interval after the first look."""
        insert = postgresql.insert if self._engine.dialect.name == "postgresql" else sqlite.insert
        following = ms(now + every)
        with mapped():
            async with self._engine.begin() as connection:
                await connection.execute(
                    insert(turns).values(name=_SWEEP, due_ms=following).on_conflict_do_nothing()
                )
                moved = await connection.execute(
                    update(turns)
                    .where(turns.c.name == _SWEEP, turns.c.due_ms <= ms(now))
                    .values(due_ms=following)
                )
                return bool(moved.rowcount)

    async def without_document(self, blobs: Sequence[str]) -> list[str]:
        """By the index of originals."""
        known = set[str]()
        with mapped():
            async with self._engine.begin() as connection:
                for start in range(0, len(blobs), _BLOBS_A_STATEMENT):
                    some = blobs[start : start + _BLOBS_A_STATEMENT]
                    rows = await connection.execute(
                        select(documents.c.blob).where(documents.c.blob.in_(some))
                    )
                    known.update(rows.scalars())
        return [blob for blob in blobs if blob not in known]
