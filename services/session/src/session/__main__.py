"""`python -m session` serves; `python -m session migrate` brings the schema up to date."""

import asyncio
import sys
from contextlib import AsyncExitStack

import structlog

from servicekit.clock import SystemClock
from servicekit.errors import ServiceError
from servicekit.identity import load_key
from servicekit.ids import new_id
from servicekit.paging import PageTokens
from servicekit.server import Assembly, run
from session.adapters.database import PostgresDatabase, open_database
from session.adapters.listener import Listener
from session.adapters.news import RunNews
from session.adapters.retention import SqlRetentionStore
from session.adapters.schema import check_schema, migrate
from session.adapters.store import SqlSessionStore
from session.memory_servicer import MemoryServicer, memory_service
from session.servicer import SessionServicer, session_service
from session.settings import DatabaseSettings, Settings
from session.sweeper import Sweeper

log = structlog.get_logger()


def main() -> None:
    """Serves, or migrates."""
    match sys.argv[1:]:
        case []:
            settings = Settings()
            run(settings, name="session", build=lambda stack: build(settings, stack))
        case ["migrate"]:
            asyncio.run(migrate_command(DatabaseSettings()))
        case _:
            sys.exit("usage: python -m session [migrate]")


async def build(settings: Settings, stack: AsyncExitStack) -> Assembly:
    """Puts the server together."""
    database = open_database(
        settings.session_database_url,
        settings.limits(),
        offload_bytes=settings.session_offload_bytes,
    )
    stack.push_async_callback(database.close)

    async def ready() -> None:
        if settings.session_auto_migrate:
            await migrate(database)
        await check_schema(database)
        sweeper.begin()

    clock = SystemClock()
    news = RunNews(most=settings.session_max_followers)
    store = SqlSessionStore(database=database, clock=clock, new_id=new_id, news=news)
    tokens = PageTokens(load_key(settings.identity_key_file))
    kept = SqlRetentionStore(database=database, clock=clock)
    sweeper = Sweeper(store=kept, interval=settings.sweep_interval())
    services = [
        session_service(SessionServicer(store=store, tokens=tokens)),
        memory_service(MemoryServicer(store=store, tokens=tokens)),
    ]
    tasks = [sweeper.run]
    if isinstance(database, PostgresDatabase):
        tasks.append(Listener(database=database, news=news).run)

    async def drain() -> None:
        news.stop()

    return Assembly(services=services, ready=ready, tasks=tasks, drain=drain)


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
