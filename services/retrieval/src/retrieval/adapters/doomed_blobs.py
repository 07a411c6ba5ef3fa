"""Originals to delete later, in the catalogue's database."""

from sqlalchemy import delete, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncEngine

from retrieval.adapters.database import mapped
from retrieval.adapters.tables import doomed_blobs


class SqlDoomedBlobs:
    """See `DoomedBlobs`."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def doom_blob(self, blob: str) -> None:
        """Once."""
        insert = postgresql.insert if self._engine.dialect.name == "postgresql" else sqlite.insert
        with mapped():
            async with self._engine.begin() as connection:
                await connection.execute(insert(doomed_blobs).values(blob=blob).on_conflict_do_nothing())

    async def doomed_blobs(self, *, limit: int) -> list[str]:
        """In no order."""
        with mapped():
            async with self._engine.begin() as connection:
                found = await connection.execute(select(doomed_blobs.c.blob).limit(limit))
                return list(found.scalars())

    async def forget_blob(self, blob: str) -> None:
        """What is not there is no error."""
        with mapped():
            async with self._engine.begin() as connection:
                await connection.execute(delete(doomed_blobs).where(doomed_blobs.c.blob == blob))
