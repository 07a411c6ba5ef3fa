"""The process, put together: settings, adapters, servicers."""

from contextlib import AsyncExitStack

from servicekit.clock import SystemClock
from servicekit.identity import load_key
from servicekit.ids import new_id
from servicekit.paging import PageTokens
from servicekit.server import Assembly
from session.adapters.database import PostgresDatabase, open_database
from session.adapters.listener import Listener
from session.adapters.news import RunNews
from session.adapters.retention import SqlRetentionStore
from session.adapters.schema import check_schema, migrate
from session.adapters.store import SqlSessionStore
from session.golden_servicer import GoldenSetServicer, golden_set_service
from session.memory_servicer import MemoryServicer, memory_service
from session.quota_servicer import QuotaServicer, quota_service
from session.score_servicer import ScoreServicer, score_service
from session.servicer import SessionServicer, session_service
from session.settings import Settings
from session.sweeper import Sweeper


async def assemble(settings: Settings, stack: AsyncExitStack) -> Assembly:
    """Everything that serves; `stack` closes it."""
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
    store = SqlSessionStore(
        database=database, clock=clock, new_id=new_id, news=news, default_quota=settings.default_quota()
    )
    tokens = PageTokens(load_key(settings.identity_key_file))
    kept = SqlRetentionStore(database=database, clock=clock)
    sweeper = Sweeper(store=kept, interval=settings.sweep_interval())
    services = [
        session_service(SessionServicer(store=store, tokens=tokens)),
        memory_service(MemoryServicer(store=store, tokens=tokens)),
        quota_service(QuotaServicer(store=store)),
        score_service(ScoreServicer(store=store, tokens=tokens)),
        golden_set_service(GoldenSetServicer(store=store, tokens=tokens, new_id=new_id)),
    ]
    tasks = [sweeper.run]
    if isinstance(database, PostgresDatabase):
        tasks.append(Listener(database=database, news=news).run)

    async def drain() -> None:
        news.stop()

    return Assembly(services=services, ready=ready, tasks=tasks, drain=drain)
