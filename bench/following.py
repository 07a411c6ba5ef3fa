"""What followers of runs cost the store, when nothing happens and when something does.

    python bench/following.py [--json FILE] [--followers N] [--seconds N]

Two ways to follow a run whose owner cannot be asked: `poll` (GetRun and ListRunEvents
after 100 ms, ever more slowly, once a second in the end) and `wait` (what the orchestrator
does: core/following.py, ListRunEvents with `wait`). The session service is a real process on
a temporary Postgres, which counts the statements. Compare the ratios.
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import asyncpg
import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench.sessions import CALLER, Server, append, begin, model_call, served  # noqa: E402
from orchestrator.adapters.session_client import SessionClient  # noqa: E402
from orchestrator.core.following import Following  # noqa: E402
from servicekit.context import scope  # noqa: E402
from tests.support.postgres import Postgres, temporary_postgres  # noqa: E402

EVENTS = 20
_SETTLE_S = 6.0  # until pollers ask once a second
_HEARD_S = 15.0
_STATEMENTS = (
    "SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_statements WHERE query NOT LIKE '%pg_stat%'"
)

Follow = Callable[[SessionClient, str], AsyncIterator[int]]


@dataclass(frozen=True, kw_only=True)
class Figures:
    """One way to follow. Idle: of all followers together, per second."""

    way: str
    followers: int
    idle_statements_per_s: float
    idle_service_cpu_ms_per_s: float
    event_p50_ms: float
    event_p99_ms: float


async def poll(client: SessionClient, run: str) -> AsyncIterator[int]:
    """As before there was `wait`."""
    after, delay = 1, 0.1
    while True:
        await client.get(run)
        events = await client.events(run, after=after)
        if events:
            after, delay = events[-1].sequence, 0.1
            yield after
        else:
            await asyncio.sleep(delay)
            delay = min(1.5 * delay, 1.0)


async def wait(client: SessionClient, run: str) -> AsyncIterator[int]:
    """As the orchestrator does."""
    following = Following(store=client, peers=cast(Any, None), address="", find=lambda _: None)
    async for items in following.follow(run, after=1, forwarded=False):
        yield cast(Any, items[-1]).sequence


async def measure(server: Server, admin: Any, *, way: Follow, followers: int, seconds: float) -> Figures:
    """Followers of as many runs: first nothing happens, then an event in some."""
    client = SessionClient(server.rpc, owner="bench", address="", lease=timedelta(seconds=600))
    runs = [(await begin(server))[0] for _ in range(followers)]
    heard: dict[str, asyncio.Future[float]] = {
        r.run.name: asyncio.get_running_loop().create_future() for r in runs
    }

    async def follow(run: str) -> None:
        async for _ in way(client, run):
            heard[run].set_result(time.perf_counter())
            return

    tasks = [asyncio.ensure_future(follow(begun.run.name)) for begun in runs]
    await asyncio.sleep(_SETTLE_S)
    process = psutil.Process(server.pid)
    statements, cpu = await admin.fetchval(_STATEMENTS), sum(process.cpu_times()[:2])
    await asyncio.sleep(seconds)
    statements = await admin.fetchval(_STATEMENTS) - statements
    cpu = sum(process.cpu_times()[:2]) - cpu
    latencies = []
    for begun in runs[:EVENTS]:
        began = time.perf_counter()
        await append(server, begun, [model_call(2)])
        async with asyncio.timeout(_HEARD_S):
            latencies.append(1000 * (await heard[begun.run.name] - began))
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    latencies.sort()
    return Figures(
        way=way.__name__,
        followers=followers,
        idle_statements_per_s=round(statements / seconds, 1),
        idle_service_cpu_ms_per_s=round(1000 * cpu / seconds, 1),
        event_p50_ms=round(statistics.median(latencies), 1),
        event_p99_ms=round(latencies[-1], 1),
    )


async def compare(postgres: Postgres, folder: Path, *, followers: int, seconds: float) -> Sequence[Figures]:
    """Both ways, one after the other."""
    database = await postgres.create()
    admin = await asyncpg.connect(host="127.0.0.1", port=postgres.port, user="postgres", database=database)
    await admin.execute("CREATE EXTENSION pg_stat_statements")
    try:
        async with served(postgres.url(database), folder) as server:
            with scope(caller=CALLER):
                ways: Sequence[Follow] = (poll, wait)
                return [
                    await measure(server, admin, way=way, followers=followers, seconds=seconds)
                    for way in ways
                ]
    finally:
        await admin.close()


def main() -> None:
    """Prints a table; writes JSON if asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--followers", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=30.0)
    asked = parser.parse_args()
    with temporary_postgres() as postgres, tempfile.TemporaryDirectory() as folder:
        postgres.stop("fast")
        with (postgres.data / "postgresql.auto.conf").open("a") as file:
            file.write("shared_preload_libraries = 'pg_stat_statements'\n")
        postgres.start()
        figures = asyncio.run(
            compare(postgres, Path(folder), followers=asked.followers, seconds=asked.seconds)
        )
    for one in figures:
        print(json.dumps(asdict(one)))
    if asked.json:
        asked.json.write_text(json.dumps([asdict(one) for one in figures], indent=2) + "\n")


if __name__ == "__main__":
    main()
