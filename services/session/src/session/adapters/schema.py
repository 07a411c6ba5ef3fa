"""Brings the schema to the newest version, and checks that it is."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlalchemy.engine import Connection

import session.migrations
from session.adapters.database import Database

_MIGRATIONS = Path(session.migrations.__file__).parent
# Any number that no other program locks: two migrations at a time must take turns.
_LOCK = 7_230_518_446_291


class SchemaBehind(RuntimeError):
    """The database lacks migrations that this code needs."""


async def migrate(database: Database) -> tuple[str | None, str]:
    """Runs what is missing, in one transaction. Returns the version before and after."""
    return await database.write(_upgrade)


async def check_schema(database: Database) -> None:
    """Returns if the schema is as new as this code, or newer.

    Newer is fine: during a roll-out the schema goes first, and every
    migration keeps the code before it working.

    Raises:
        SchemaBehind: Naming the command that helps.
        Unavailable: The database does not answer.
    """
    current = await database.read(_current)
    script = ScriptDirectory.from_config(_config())
    head = script.get_current_head()
    known = {revision.revision for revision in script.walk_revisions()}
    if current is None or (current in known and current != head):
        raise SchemaBehind(
            f"the session database has schema version {current or 'none'}, this code needs {head}: "
            "run `python -m session migrate` with the same AGENTTEAMS_SESSION_DATABASE_URL"
        )


def _current(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _upgrade(connection: Connection) -> tuple[str | None, str]:
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:id)"), {"id": _LOCK})
    before = _current(connection)
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    return before, str(_current(connection))


def _config() -> Config:
    config = Config()
    # Alembic reads % in options as the start of a variable.
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config
