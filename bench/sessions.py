"""What the session service's store costs: appends, long conversations, many sessions. Ratios first.

    python bench/sessions.py [--json FILE] [--stores sqlite,postgres] [--seconds N] [--sessions N]

The service is a real process, asked over gRPC by one client process. Postgres is a
temporary cluster without fsync; SQLite syncs as it does for users. Times are of a
machine, so compare the ratios.
"""

import argparse
import asyncio
import json
import os
import socket
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import psutil
import sqlalchemy as sa
from agentteams.session.v1 import run_pb2, session_pb2
from agentteams.session.v1 import session_service_pb2 as pb
from agentteams.session.v1.session_service_pb2_grpc import SessionServiceStub
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_health.v1 import health_pb2, health_pb2_grpc
from sqlalchemy.engine import Connection

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from servicekit.client import RpcClient, open_channel  # noqa: E402
from servicekit.context import Caller, scope  # noqa: E402
from servicekit.identity import IdentityKey, TokenIssuer  # noqa: E402
from servicekit.ids import new_id  # noqa: E402
from session.adapters.database import PoolLimits, open_database  # noqa: E402
from session.adapters.schema import migrate  # noqa: E402
from session.adapters.tables import messages, sessions  # noqa: E402
from tests.support.postgres import temporary_postgres  # noqa: E402

KEY = IdentityKey(b"a key for benchmarks, 32 bytes or more")
CALLER = Caller("default", "bench")
WRITERS = (1, 16, 64)
LENGTHS = (10, 1_000, 10_000)
ROUNDS = 60
PAGE = 200
_LEASE = Duration(seconds=600)
_READY_S = 30.0
_CHUNK = 2_000  # rows of one INSERT
_WRITER_WARM_UP = 5


@dataclass(frozen=True, kw_only=True)
class Appends:
    """So many runs grow at once, one event an append."""

    writers: int
    per_s: float
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, kw_only=True)
class Listing:
    """All pages of many sessions, one after the other."""

    sessions: int
    page_p50_ms: float
    page_p99_ms: float
    first_page_ms: float
    last_page_ms: float
    rss_before_mb: float
    rss_after_mb: float


@dataclass(frozen=True, kw_only=True)
class Figures:
    """One store."""

    store: str
    appends: Sequence[Appends]
    turn_ms: dict[int, float]
    """Median of a turn (begin, answer, end) that stores the n-th message of its session."""
    listing: Listing

    @property
    def ratios(self) -> dict[str, float]:
        """What can be compared between machines."""
        one = self.appends[0]
        found = {f"appends/s, {a.writers} writers : 1": a.per_s / one.per_s for a in self.appends[1:]}
        base = self.turn_ms[LENGTHS[0]]
        found |= {f"message {n:,} : {LENGTHS[0]}": self.turn_ms[n] / base for n in LENGTHS[1:]}
        listing = self.listing
        found["last page : first page"] = listing.last_page_ms / listing.first_page_ms
        found["memory after : before listing"] = listing.rss_after_mb / listing.rss_before_mb
        return found


@dataclass(frozen=True, kw_only=True)
class Server:
    """A served store."""

    rpc: RpcClient
    stub: Any
    pid: int
    url: str

    def rss_mb(self) -> float:
        """Memory of the service."""
        return float(psutil.Process(self.pid).memory_info().rss) / 1e6


@asynccontextmanager
async def served(url: str, folder: Path) -> AsyncIterator[Server]:
    """The service as a process, with a migrated schema."""
    key = folder / "key"
    key.write_bytes(KEY.to_file())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = {k: v for k, v in os.environ.items() if not k.startswith("AGENTTEAMS_")} | {
        "AGENTTEAMS_SESSION_DATABASE_URL": url,
        "AGENTTEAMS_SESSION_AUTO_MIGRATE": "1",
        "AGENTTEAMS_HOST": "127.0.0.1",
        "AGENTTEAMS_PORT": str(port),
        "AGENTTEAMS_IDENTITY_KEY_FILE": str(key),
        "AGENTTEAMS_LOG_LEVEL": "warning",
    }
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "session", env=env)
    channel = open_channel(f"127.0.0.1:{port}")
    try:
        await _ready(channel)
        issuer = TokenIssuer(KEY, service="bench")
        rpc = RpcClient(channel, issuer=issuer, default_timeout=timedelta(seconds=30))
        yield Server(rpc=rpc, stub=SessionServiceStub(channel), pid=process.pid, url=url)
    finally:
        await channel.close()
        process.terminate()
        await process.wait()


async def _ready(channel: grpc.aio.Channel) -> None:
    health: Any = health_pb2_grpc.HealthStub(channel)
    async with asyncio.timeout(_READY_S):
        while True:
            try:
                answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=1)
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    return
            except grpc.aio.AioRpcError:
                pass  # it starts
            await asyncio.sleep(0.1)


async def begin(server: Server, *, session: str = "", history: int = 0) -> tuple[pb.BeginRunResponse, int]:
    """A run under our lease; returns the sequence of its last event, too."""
    request = pb.BeginRunRequest(
        request_id=str(uuid.uuid4()),
        team="teams/bench",
        session=session,
        input=[session_pb2.Message(role=session_pb2.ROLE_USER, content="How many days of leave are there?")],
        lease_owner="bench",
        lease_duration=_LEASE,
        history_messages=history,
        team_revision="r1",
    )
    begun = await server.rpc.unary(server.stub.BeginRun, request)
    return begun, begun.run.last_sequence


async def append(server: Server, begun: pb.BeginRunResponse, events: Sequence[run_pb2.RunEvent]) -> None:
    """One append."""
    request = pb.AppendRunEventsRequest(run=begun.run.name, fencing_token=begun.fencing_token, events=events)
    await server.rpc.unary(server.stub.AppendRunEvents, request)


def model_call(sequence: int) -> run_pb2.RunEvent:
    """An event of usual size."""
    now = Timestamp()
    now.GetCurrentTime()
    call = run_pb2.ModelCallFinished(step=f"#{sequence}", model="m", text="There are thirty days. " * 10)
    return run_pb2.RunEvent(sequence=sequence, create_time=now, model_call_finished=call)


async def measure_appends(server: Server, *, writers: int, seconds: float) -> Appends:
    """As many appends as go, each writer one after the other."""
    durations: list[float] = []

    async def write() -> None:
        begun, last = await begin(server)
        for n in range(1, _WRITER_WARM_UP + 1):
            await append(server, begun, [model_call(last + n)])
        last += _WRITER_WARM_UP
        await gate.wait()
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            last += 1
            started = time.perf_counter()
            await append(server, begun, [model_call(last)])
            durations.append(time.perf_counter() - started)

    # The warm-up counts against nobody: the time begins when all are through it.
    gate = asyncio.Barrier(writers)
    async with asyncio.TaskGroup() as group:
        for _ in range(writers):
            group.create_task(write())
    return Appends(
        writers=writers,
        per_s=len(durations) / seconds,
        p50_ms=1000 * statistics.median(durations),
        p99_ms=1000 * statistics.quantiles(durations, n=100, method="inclusive")[98],
    )


async def insert(server: Server, table: sa.Table, rows: Sequence[dict[str, Any]]) -> None:
    """Many rows, past the service: how they came there is not measured."""
    database = open_database(server.url, PoolLimits(connections=1))
    try:
        await migrate(database)
        for first in range(0, len(rows), _CHUNK):
            await database.write(partial(_insert, table=table, part=rows[first : first + _CHUNK]))
        if server.url.startswith("postgresql"):
            # What autovacuum does by itself where it is not switched off.
            await database.write(_analyze)
    finally:
        await database.close()


def _insert(connection: Connection, *, table: sa.Table, part: Sequence[dict[str, Any]]) -> None:
    connection.execute(sa.insert(table), part)


def _analyze(connection: Connection) -> None:
    connection.execute(sa.text("ANALYZE"))


def session_row(*, message_count: int, at_us: int) -> dict[str, Any]:
    """A session as the store keeps it."""
    return {
        "id": new_id(),
        "tenant": CALLER.tenant,
        "owner": CALLER.user,
        "team": "bench",
        "display_name": "How many days of leave are there?",
        "create_time_us": at_us,
        "update_time_us": at_us,
        "message_count": message_count,
    }


async def filled_sessions(server: Server, *, length: int, count: int) -> list[str]:
    """Sessions whose next message is the `length`-th."""
    now_us = int(time.time() * 1e6)
    rows = [session_row(message_count=length - 1, at_us=now_us) for _ in range(count)]
    await insert(server, sessions, rows)
    said = [
        {
            "session_id": row["id"],
            "sequence": sequence,
            "tenant": CALLER.tenant,
            "owner": CALLER.user,
            "role": 2 + (sequence + 1) % 2,
            "content": "There are thirty days of leave. " * 6,
            "run_id": "none",
            "create_time_us": now_us,
            "citations": b"",
        }
        for row in rows
        for sequence in range(1, length)
    ]
    await insert(server, messages, said)
    return [f"sessions/{row['id']}" for row in rows]


async def measure_lengths(server: Server) -> dict[int, float]:
    """A turn in sessions of each length, in turns, so that the machine's moods hit all alike."""
    found: dict[int, list[float]] = {length: [] for length in LENGTHS}
    # A short session would not stay short: each round has its own.
    pool = {
        length: await filled_sessions(server, length=length, count=ROUNDS if length < 100 else 1)
        for length in LENGTHS
    }
    for round_ in range(ROUNDS):
        for length in LENGTHS:
            session = pool[length][round_ % len(pool[length])]
            started = time.perf_counter()
            begun, last = await begin(server, session=session, history=20)
            now = Timestamp()
            now.GetCurrentTime()
            answer = session_pb2.Message(
                role=session_pb2.ROLE_ASSISTANT, content="There are thirty days of leave."
            )
            done = run_pb2.RunFinished(state=run_pb2.RUN_STATE_SUCCEEDED)
            completed = run_pb2.MessageCompleted(message=answer)
            await append(
                server,
                begun,
                [
                    run_pb2.RunEvent(sequence=last + 1, create_time=now, message_completed=completed),
                    run_pb2.RunEvent(sequence=last + 2, create_time=now, run_finished=done),
                ],
            )
            found[length].append(1000 * (time.perf_counter() - started))
    return {length: statistics.median(times[ROUNDS // 10 :]) for length, times in found.items()}


async def measure_listing(server: Server, *, count: int) -> Listing:
    """Lists all sessions twice; memory is compared between the first and the second time's end."""
    now_us = int(time.time() * 1e6)
    rows = [session_row(message_count=0, at_us=now_us - n) for n in range(count)]
    await insert(server, sessions, rows)

    async def all_pages(limit: int | None = None) -> list[float]:
        times: list[float] = []
        token = ""
        while limit is None or len(times) < limit:
            request = pb.ListSessionsRequest(page_size=PAGE, page_token=token)
            started = time.perf_counter()
            page = await server.rpc.unary(server.stub.ListSessions, request)
            times.append(1000 * (time.perf_counter() - started))
            token = page.next_page_token
            if not token:
                break
        return times

    await all_pages(20)
    before = server.rss_mb()
    times = await all_pages()
    return Listing(
        sessions=count,
        page_p50_ms=statistics.median(times),
        page_p99_ms=statistics.quantiles(times, n=100, method="inclusive")[98],
        first_page_ms=statistics.median(times[:20]),
        last_page_ms=statistics.median(times[-20:]),
        rss_before_mb=before,
        rss_after_mb=server.rss_mb(),
    )


async def measure(store: str, *, seconds: float, count: int) -> Figures:
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
        appends = [await measure_appends(server, writers=n, seconds=seconds) for n in WRITERS]
        turn_ms = await measure_lengths(server)
        listing = await measure_listing(server, count=count)
        return Figures(store=store, appends=appends, turn_ms=turn_ms, listing=listing)


def show(figures: Sequence[Figures]) -> None:
    """Prints the ratios, then what they are of."""
    print("ratio                              " + "".join(f"{f.store:>12}" for f in figures))
    for name in figures[0].ratios:
        print(f"{name:<35}" + "".join(f"{f.ratios[name]:>12.2f}" for f in figures))
    for f in figures:
        print(f"\n{f.store}")
        for a in f.appends:
            shown = f"{a.per_s:>8.0f} appends/s   p50 {a.p50_ms:>6.2f} ms   p99 {a.p99_ms:>6.2f} ms"
            print(f"  {a.writers:>3} writers {shown}")
        print("  turn with message " + ", ".join(f"{n:,}: {ms:.2f} ms" for n, ms in f.turn_ms.items()))
        page = f"page of {PAGE}: p50 {f.listing.page_p50_ms:.2f} ms, p99 {f.listing.page_p99_ms:.2f} ms"
        memory = f"memory {f.listing.rss_before_mb:.1f} to {f.listing.rss_after_mb:.1f} MB"
        print(f"  {f.listing.sessions:,} sessions, {page}; {memory}")


async def run(arguments: argparse.Namespace) -> list[Figures]:
    """All stores, one after the other."""
    return [
        await measure(store, seconds=arguments.seconds, count=arguments.sessions)
        for store in arguments.stores
    ]


def main() -> None:
    """Reads the arguments, measures, prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--stores", default=["sqlite", "postgres"], type=lambda text: text.split(","))
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement of appends")
    parser.add_argument("--sessions", type=int, default=100_000, help="to list")
    arguments = parser.parse_args()
    if not set(arguments.stores) <= {"sqlite", "postgres"}:
        parser.error("--stores takes sqlite, postgres or both with a comma")
    figures = asyncio.run(run(arguments))
    show(figures)
    if arguments.json is not None:
        found = {f.store: asdict(f) | {"ratios": f.ratios} for f in figures}
        arguments.json.write_text(json.dumps({"bench": "sessions"} | found, indent=2) + "\n")


if __name__ == "__main__":
    main()
