"""Brings the catalogue's tables to this version's shape."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncEngine

import retrieval

# Any number of replicas may migrate at once; Postgres lets one after the other.
_ADVISORY_LOCK = 7_310_052


async def migrate(engine: AsyncEngine) -> None:
    """Applies what is missing; safe to repeat."""
    async with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            await connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})")
        await connection.run_sync(_upgrade)


def _upgrade(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(retrieval.__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
