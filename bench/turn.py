"""What a turn costs: streaming turns with one search each, through all services, against a stand-in model.

    python bench/turn.py [--json FILE] [--clients 1,16] [--turns N] [--search OnDemand|Always]

CPU is read from the kernel for each service with its children; that of the
clients and of the stand-in model is not counted. `cpu_ms_per_turn` is what our
services use; Milvus is listed beside it. Machines differ by more than the code
does, so the cost of a bare gRPC call on the same machine, in the same run, is
printed too.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import grpc
import psutil
from agentteams.embedding.v1.embedding_service_pb2 import EmbeddingModel, EmbedRequest, EmbedResponse
from agentteams.embedding.v1.embedding_service_pb2_grpc import (
    EmbeddingServiceServicer,
    EmbeddingServiceStub,
    add_EmbeddingServiceServicer_to_server,
)

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from agentteams_cli.stack import Endpoint  # noqa: E402
from tests.support.stack import MODELS, LiveStack, knowledge_base, running_stack, team  # noqa: E402

TEAM = "bench"
WARM_UP_TURNS, WARM_UP_CLIENTS = 60, 4
LIMIT_S = 300.0  # of everything: a benchmark that hangs is a failed one
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, kw_only=True)
class Figures:
    """One measurement."""

    clients: int
    turns: int
    turns_per_s: float
    p50_ms: float
    p99_ms: float
    first_token_p50_ms: float
    cpu_ms_per_turn: float
    cpu_ms_per_turn_with_milvus: float
    cpu_ms_per_turn_by_service: Mapping[str, float]
    bare_call_cpu_ms: float  # mean of just before and just after: other tenants of the machine come and go


def cpu_ms(pid: int) -> float:
    """CPU time of a process, all its threads, and its children, living and gone."""
    total = 0.0
    for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        try:
            fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        except FileNotFoundError:
            continue  # ended since; its parent has its time
        total += sum(int(ticks) for ticks in fields[11:15]) * 1000 / _TICKS
    return total


@asynccontextmanager
async def model_server(chunks: int) -> AsyncIterator[str]:
    """The stand-in in a process of its own; yields its base URL."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.support.model_server"),
        *("--scenario", "one-search", "--chunks", str(chunks)),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        line = await asyncio.wait_for(process.stdout.readline(), 20)
        yield line.decode().split()[-1]
    finally:
        process.terminate()
        await process.wait()


class _Echo(EmbeddingServiceServicer):
    async def Embed(self, request: EmbedRequest, context: object) -> EmbedResponse:
        return EmbedResponse(vectors=b"x" * 3500)

    async def GetEmbeddingModel(self, request: object, context: object) -> EmbeddingModel:
        raise NotImplementedError


async def bare_call_ms(calls: int = 1000) -> float:
    """CPU of one grpc.aio call with 3.5 kB each way, both sides, and nothing of ours in it."""
    server = grpc.aio.server()
    add_EmbeddingServiceServicer_to_server(_Echo(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        embed, request = EmbeddingServiceStub(channel).Embed, EmbedRequest(texts=["x" * 3500])
        for _ in range(100):
            await embed(request)
        before = time.process_time()
        for _ in range(calls):
            await embed(request)
        cost = (time.process_time() - before) * 1000 / calls
    await server.stop(None)
    return cost


async def load(live: LiveStack, *, clients: int, turns: int, first: int) -> dict[str, list[float] | float]:
    """Runs the clients. Raises: RuntimeError if a turn was not a whole answer."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(ROOT / "bench" / "turn_client.py")),
        *("--port", str(live.stack.services["gateway"].port), "--team", TEAM),
        *("--clients", str(clients), "--turns", str(turns), "--first", str(first)),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        stdout, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise RuntimeError("the clients failed; the reason is above")
    return dict(json.loads(stdout))


async def measure(live: LiveStack, *, clients: int, turns: int, first: int) -> Figures:
    """One measurement of so many turns by so many clients."""
    services = live.stack.services
    bare = await bare_call_ms()
    before = {name: cpu_ms(service.pid) for name, service in services.items()}
    result = await load(live, clients=clients, turns=turns, first=first)
    by_service = {name: (cpu_ms(s.pid) - before[name]) / turns for name, s in services.items()}
    bare = (bare + await bare_call_ms()) / 2
    turn_s, first_s, wall_s = result["turn_s"], result["first_token_s"], result["wall_s"]
    assert isinstance(turn_s, list)
    assert isinstance(first_s, list)
    assert isinstance(wall_s, float)
    total = sum(by_service.values())
    return Figures(
        clients=clients,
        turns=turns,
        turns_per_s=turns / wall_s,
        p50_ms=1000 * statistics.median(turn_s),
        p99_ms=1000 * statistics.quantiles(turn_s, n=100, method="inclusive")[98],
        first_token_p50_ms=1000 * statistics.median(first_s),
        cpu_ms_per_turn=total - by_service["milvus"],
        cpu_ms_per_turn_with_milvus=total,
        cpu_ms_per_turn_by_service=by_service,
        bare_call_cpu_ms=bare,
    )


def show(figures: Sequence[Figures]) -> None:
    """Prints the table."""
    print("clients   turns/s   p50 ms   p99 ms   first token ms   CPU ms/turn   with Milvus")
    for f in figures:
        latencies = f"{f.p50_ms:>7.1f}  {f.p99_ms:>7.1f}   {f.first_token_p50_ms:>14.1f}"
        cpu = f"{f.cpu_ms_per_turn:>11.2f}   {f.cpu_ms_per_turn_with_milvus:>11.2f}"
        print(f"{f.clients:>7}   {f.turns_per_s:>7.1f}  {latencies}   {cpu}")
    print("\nCPU ms/turn   " + "   ".join(f"{f.clients} clients".rjust(10) for f in figures))
    for name in figures[0].cpu_ms_per_turn_by_service:
        values = "   ".join(f"{f.cpu_ms_per_turn_by_service[name]:>10.2f}" for f in figures)
        print(f"{name:<12}  {values}")


async def run(arguments: argparse.Namespace) -> list[Figures]:
    """Starts everything, measures, stops everything."""
    docs = {path.name: path.read_bytes() for path in sorted((ROOT / "docs").glob("*.md"))}
    with tempfile.TemporaryDirectory(prefix="agentteams-bench-") as folder:
        async with (
            asyncio.timeout(LIMIT_S),
            model_server(arguments.chunks) as url,
            running_stack(Path(folder) / "state", chat=Endpoint(url=url, model="stand-in")) as live,
        ):
            await live.apply(MODELS, knowledge_base("docs"), team(TEAM, "agent", search=arguments.search))
            await live.ingest("docs", docs)
            await load(live, clients=WARM_UP_CLIENTS, turns=WARM_UP_TURNS, first=0)
            figures, first = [], WARM_UP_TURNS
            for clients in arguments.clients:
                figures.append(await measure(live, clients=clients, turns=arguments.turns, first=first))
                first += arguments.turns
            return figures


def numbers(text: str) -> list[int]:
    """`1,16` as a list."""
    return [int(part) for part in text.split(",")]


def main() -> None:
    """Reads the arguments, measures, prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="write the figures there, as one object")
    parser.add_argument(
        "--clients", default="1,16", type=lambda text: [int(part) for part in text.split(",")]
    )
    parser.add_argument("--turns", type=int, default=300, help="turns of each measurement")
    parser.add_argument("--chunks", type=int, default=40, help="deltas of one answer of the stand-in model")
    parser.add_argument(
        "--search",
        choices=("OnDemand", "Always"),
        default="OnDemand",
        help="OnDemand: the model asks for the search, two model calls a turn; Always: one",
    )
    arguments = parser.parse_args()
    if arguments.turns < 2 or min(arguments.clients) < 1:
        parser.error("--turns must be 2 or more, --clients 1 or more")
    figures = asyncio.run(run(arguments))
    show(figures)
    print("\nIn bare gRPC calls on this machine at that time:")
    for f in figures:
        calls = f.cpu_ms_per_turn / f.bare_call_cpu_ms
        print(f"{f.clients:>7} clients: a call {f.bare_call_cpu_ms:.2f} ms, a turn {calls:.0f} calls")
    if arguments.json is not None:
        # The figures under most load are the run's own; those of every load are beside them.
        most = max(figures, key=lambda f: f.clients)
        found = {"bench": "turn", "search": arguments.search, "chunks": arguments.chunks} | asdict(most)
        found["loads"] = [asdict(f) for f in figures]
        found["turn_in_bare_calls"] = most.cpu_ms_per_turn / most.bare_call_cpu_ms
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
