"""The retrieval service.

python -m retrieval            serves
python -m retrieval worker     indexes documents, in any number of processes
python -m retrieval migrate    prepares the catalogue
"""

import asyncio
import os
import sys
from contextlib import AsyncExitStack

import structlog

from retrieval.adapters.database import new_engine
from retrieval.adapters.migrate import migrate
from retrieval.assembly import assemble
from retrieval.settings import Settings, WorkerSettings
from servicekit.logging import configure_logging
from servicekit.server import Assembly, run

log = structlog.get_logger()

_NICE = 15  # where there are fewer cores than work, searches go first


async def _migrate(settings: Settings) -> None:
    engine = new_engine(settings.database_url.get_secret_value())
    try:
        await migrate(engine)
    finally:
        await engine.dispose()


def main() -> None:
    """Reads the settings and runs."""
    if sys.argv[1:] == ["worker"]:
        worker = WorkerSettings()
        os.nice(_NICE)

        async def build_worker(stack: AsyncExitStack) -> Assembly:
            return await assemble(worker, stack, serve=False)

        run(worker, name="retrieval-worker", build=build_worker)
        return
    settings = Settings()
    if sys.argv[1:] == ["migrate"]:
        configure_logging(service="retrieval", level=settings.log_level)
        asyncio.run(_migrate(settings))
        log.info("catalogue_migrated")
        return
    if sys.argv[1:]:
        sys.exit(f"unknown argument {sys.argv[1]!r}; usage: python -m retrieval [worker|migrate]")

    async def build(stack: AsyncExitStack) -> Assembly:
        return await assemble(settings, stack)

    run(settings, name="retrieval", build=build)


if __name__ == "__main__":
    main()
