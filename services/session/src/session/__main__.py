"""`python -m session` serves; `python -m session migrate` brings the schema up to date."""

import asyncio
import sys

import structlog

from servicekit.errors import ServiceError
from servicekit.server import run
from session.adapters.database import open_database
from session.adapters.schema import migrate
from session.assembly import assemble
from session.settings import DatabaseSettings, Settings

log = structlog.get_logger()


def main() -> None:
    """Serves, or migrates."""
    match sys.argv[1:]:
        case []:
            settings = Settings()
            run(settings, name="session", build=lambda stack: assemble(settings, stack))
        case ["migrate"]:
            asyncio.run(migrate_command(DatabaseSettings()))
        case _:
            sys.exit("usage: python -m session [migrate]")


async def migrate_command(settings: DatabaseSettings) -> None:
    """Migrates and says from where to where."""
    try:
        database = open_database(settings.session_database_url, settings.limits())
        before, after = await migrate(database)
        await database.close()
    except (ServiceError, ValueError) as error:
        sys.exit(f"migration failed: {error}")
    log.info("schema_migrated", before=before, after=after)


if __name__ == "__main__":
    main()
