"""What large contents cost, and what they leave alone: rows, other pages, memory. Ratios first.

    python bench/large.py [--json FILE] [--stores sqlite,postgres] [--events N]

A run gets N tool results of 1 MiB and then as many small ones; another one only the small
ones. Listing the small ones must cost the same in both. The service is a real process.
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import sqlalchemy as sa
from agentteams.session.v1 import run_pb2
from agentteams.session.v1 import session_service_pb2 as pb
from google.protobuf.timestamp_pb2 import Timestamp

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench.sessions import CALLER, Server, append, begin, served  # noqa: E402
from servicekit.context import scope  # noqa: E402
from session.adapters.database import PoolLimits, open_database  # noqa: E402
from session.adapters.tables import blobs, run_events  # noqa: E402
from tests.support.postgres import temporary_postgres  # noqa: E402

# Of a result, in bytes; the first one stays in its row, the last one is nearly all that an event may have.
SIZES = (400, 64 * 1024 + 1, 1024 * 1024, 7 * 1024 * 1024)
LARGE = 1024 * 1024
PAGE = 50
ROUNDS = 40
_APPENDS = 8  # of each size


@dataclass(frozen=True, kw_only=True)
class Figures:
    """One store."""

    store: str
    append_ms: dict[int, float]
    """Median of an append by the size of its result."""
    page_ms: dict[str, float]
    """Median of a page of small events, in a run without and with large ones before them."""
    longest_row_bytes: int
    rss_before_mb: float
    rss_after_mb: float

    @property
    def ratios(self) -> dict[str, float]:
        """What can be compared between machines."""
        append, page = self.append_ms, self.page_ms
        return {
            "append of 64 KiB : 400 bytes": append[SIZES[1]] / append[SIZES[0]],
            "append of 1 MiB : 64 KiB": append[SIZES[2]] / append[SIZES[1]],
            "page of small events, large before : none": page["large before"] / page["none"],
            "memory after : before reading all": self.rss_after_mb / self.rss_before_mb,
        }


def result(sequence: int, size: int) -> run_pb2.RunEvent:
    """A tool's result: rows of a table, no two results alike."""
    now = Timestamp()
    now.GetCurrentTime()
    row = f'{{"employee": {sequence}, "number": %d, "days": 30}},\n'
    text = "".join(row % n for n in range(size // len(row) + 1))[:size]
    finished = run_pb2.ToolCallFinished(call_id=f"c{sequence}", result=text)
    return run_pb2.RunEvent(sequence=sequence, create_time=now, tool_call_finished=finished)


async def measure_appends(server: Server) -> dict[int, float]:
    """Each size in a run of its own."""
    found = {}
    for size in SIZES:
        begun, last = await begin(server)
        times = []
        # Results of more than two million characters are refused: many of them make a large append.
        parts = max(1, -(-size // 2_000_000))
        for n in range(_APPENDS):
            first = last + 1 + n * parts
            events = [result(first + part, size // parts) for part in range(parts)]
            started = time.perf_counter()
            await append(server, begun, events)
            times.append(1000 * (time.perf_counter() - started))
        found[size] = statistics.median(times)
    return found


async def filled(server: Server, *, large: int, small: int) -> tuple[str, int]:
    """A run with its log, and the sequence after which the small events come."""
    begun, last = await begin(server)
    for n in range(large):
        await append(server, begun, [result(last + 1 + n, LARGE)])
    last += large
    for n in range(small):
        await append(server, begun, [result(last + 1 + n, SIZES[0])])
    return begun.run.name, last


async def page(server: Server, run: str, after: int) -> Sequence[run_pb2.RunEvent]:
    """One page."""
    request = pb.ListRunEventsRequest(run=run, after_sequence=after, page_size=PAGE)
    response: pb.ListRunEventsResponse = await server.rpc.unary(server.stub.ListRunEvents, request)
    return response.events


async def read_all(server: Server, run: str) -> None:
    """The whole log."""
    after = 0
    while events := await page(server, run, after):
        after = events[-1].sequence


async def analyzed(url: str) -> None:
    """What autovacuum does by itself where it is not switched off."""
    database = open_database(url, PoolLimits(connections=1))
    try:
        await database.write(lambda c: c.execute(sa.text("ANALYZE")))
    finally:
        await database.close()


async def longest_row(url: str) -> int:
    """Of run_events and blobs."""
    database = open_database(url, PoolLimits(connections=1))
    try:
        columns = (run_events.c.payload, blobs.c.data)
        queries = [sa.select(sa.func.max(sa.func.length(column))) for column in columns]
        return max([await database.read(lambda c, q=q: c.execute(q).scalar()) or 0 for q in queries])  # type: ignore[misc]
    finally:
        await database.close()


async def measure(store: str, *, events: int) -> Figures:
    """Everything on one store."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="agentteams-bench-")))
        if store == "postgres":
            postgres = stack.enter_context(temporary_postgres())
            url = postgres.url(await postgres.create())
        else:
            url = f"sqlite:///{folder / 'session.db'}"
        server = await stack.enter_async_context(served(url, folder))
        stack.enter_context(scope(caller=CALLER))
        append_ms = await measure_appends(server)
        runs = {
            "none": await filled(server, large=0, small=PAGE),
            "large before": await filled(server, large=events, small=PAGE),
        }
        await analyzed(url)
        times: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(ROUNDS):
            for name, (run, after) in runs.items():
                started = time.perf_counter()
                await page(server, run, after)
                times[name].append(1000 * (time.perf_counter() - started))
        await read_all(server, runs["large before"][0])
        before = server.rss_mb()
        for _ in range(3):
            await read_all(server, runs["large before"][0])
        return Figures(
            store=store,
            append_ms=append_ms,
            page_ms={name: statistics.median(values) for name, values in times.items()},
            longest_row_bytes=await longest_row(url),
            rss_before_mb=before,
            rss_after_mb=server.rss_mb(),
        )


def show(figures: Sequence[Figures]) -> None:
    """Prints the ratios, then what they are of."""
    print(f"{'ratio':<45}" + "".join(f"{f.store:>12}" for f in figures))
    for name in figures[0].ratios:
        print(f"{name:<45}" + "".join(f"{f.ratios[name]:>12.2f}" for f in figures))
    for f in figures:
        print(f"\n{f.store}")
        print("  append of " + ", ".join(f"{size:,}: {ms:.2f} ms" for size, ms in f.append_ms.items()))
        pages = ", ".join(f"{name} {ms:.2f} ms" for name, ms in f.page_ms.items())
        print(f"  page of {PAGE} small events: {pages}")
        memory = f"memory {f.rss_before_mb:.1f} to {f.rss_after_mb:.1f} MB"
        print(f"  longest value of a row {f.longest_row_bytes:,} bytes; {memory}")


async def run(arguments: argparse.Namespace) -> list[Figures]:
    """All stores, one after the other."""
    return [await measure(store, events=arguments.events) for store in arguments.stores]


def main() -> None:
    """Reads the arguments, measures, prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--stores", default=["sqlite", "postgres"], type=lambda text: text.split(","))
    parser.add_argument("--events", type=int, default=60, help="large ones, 1 MiB each")
    arguments = parser.parse_args()
    if not set(arguments.stores) <= {"sqlite", "postgres"}:
        parser.error("--stores takes sqlite, postgres or both with a comma")
    figures = asyncio.run(run(arguments))
    show(figures)
    if arguments.json is not None:
        found = {f.store: asdict(f) | {"ratios": f.ratios} for f in figures}
        arguments.json.write_text(json.dumps({"bench": "large"} | found, indent=2) + "\n")


if __name__ == "__main__":
    main()
