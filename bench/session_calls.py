"""CPU that the session service spends on each call of a turn, next to a bare gRPC call.

    python bench/session_calls.py [--json FILE] [--stores sqlite,postgres] [--rounds N]

The service is a real process; its CPU comes from the kernel, in nanoseconds. Each round makes
50 calls of each kind, 8 at a time, and a bare call (health) before them: the ratio to that is
what can be compared between machines, and between hours of one that others use too.
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from agentteams.session.v1 import run_pb2, session_pb2
from agentteams.session.v1 import session_service_pb2 as pb
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_health.v1 import health_pb2, health_pb2_grpc

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench.sessions import CALLER, Server, append, begin, model_call, served  # noqa: E402
from servicekit.context import scope  # noqa: E402
from tests.support.postgres import temporary_postgres  # noqa: E402

CALLS = 50
AT_A_TIME = 8
HISTORY = 20
BARE = "bare gRPC call"
T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True, kw_only=True)
class Cost:
    """One kind of call: medians of the rounds."""

    store: str
    call: str
    cpu_ms: float
    to_bare: float


def cpu_ms(pid: int) -> float:
    """What all threads of a process have used."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e6


async def each(work: Callable[[T], Awaitable[U]], items: Iterable[T]) -> list[U]:
    """Some at a time; results in no order."""
    left, done = list(items), []

    async def one() -> None:
        while left:
            done.append(await work(left.pop()))

    await asyncio.gather(*(one() for _ in range(AT_A_TIME)))
    return done


def end(sequence: int) -> list[run_pb2.RunEvent]:
    """An answer with a citation, and the end."""
    now = Timestamp()
    now.GetCurrentTime()
    cited = session_pb2.Citation(number=1, document="knowledgeBases/k/documents/d", text="x" * 600)
    answer = session_pb2.Message(
        role=session_pb2.ROLE_ASSISTANT, content="There are thirty days. [1] " * 10, citations=[cited]
    )
    finished = run_pb2.RunFinished(state=run_pb2.RUN_STATE_SUCCEEDED)
    return [
        run_pb2.RunEvent(
            sequence=sequence,
            create_time=now,
            message_completed=run_pb2.MessageCompleted(message=answer),
        ),
        run_pb2.RunEvent(sequence=sequence + 1, create_time=now, run_finished=finished),
    ]


async def measure(store: str, url: str, folder: Path, *, rounds: int) -> Sequence[Cost]:
    """All kinds of calls on one store. The first two rounds warm up."""
    found: dict[str, list[float]] = defaultdict(list)
    async with served(url, folder) as server:

        async def phase(call: str, work: Callable[[T], Awaitable[U]], items: Iterable[T]) -> list[U]:
            before = cpu_ms(server.pid)
            done = await each(work, items)
            found[call].append((cpu_ms(server.pid) - before) / CALLS)
            return done

        with scope(caller=CALLER):
            for _ in range(rounds + 2):
                await _round(server, phase)
    costs = {call: values[2:] for call, values in found.items()}
    return [
        Cost(
            store=store,
            call=call,
            cpu_ms=round(statistics.median(values), 2),
            to_bare=round(statistics.median(a / b for a, b in zip(values, costs[BARE], strict=True)), 2),
        )
        for call, values in costs.items()
    ]


async def _round(server: Server, phase: Callable[..., Awaitable[list[Any]]]) -> None:
    health: Any = health_pb2_grpc.HealthStub(server.rpc.channel)
    many = range(CALLS)
    await phase(BARE, lambda _: health.Check(health_pb2.HealthCheckRequest(), timeout=5), many)
    runs = await phase("BeginRun, new session", lambda _: _begun(server), many)
    grow = partial(append, server)
    await phase("AppendRunEvents, 1 event", lambda run: grow(run, [model_call(2)]), runs)
    await phase("AppendRunEvents, 3 events", lambda run: grow(run, [model_call(n) for n in (3, 4, 5)]), runs)
    await phase("AppendRunEvents, answer and end", lambda run: grow(run, end(6)), runs)
    await phase("BeginRun, with history", lambda run: _begun(server, run.run.session), runs)
    get = partial(server.rpc.unary, server.stub.GetRun)
    await phase("GetRun", lambda run: get(pb.GetRunRequest(name=run.run.name)), runs)


async def _begun(server: Server, session: str = "") -> pb.BeginRunResponse:
    return (await begin(server, session=session, history=HISTORY))[0]


def main() -> None:
    """Prints a table; writes JSON if asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--stores", default="sqlite,postgres")
    parser.add_argument("--rounds", type=int, default=12)
    asked = parser.parse_args()
    costs: list[Cost] = []
    for store in asked.stores.split(","):
        with ExitStack() as exits:
            folder = Path(exits.enter_context(tempfile.TemporaryDirectory()))
            url = f"sqlite:///{folder / 'session.db'}"
            if store == "postgres":
                server = exits.enter_context(temporary_postgres())
                url = server.url(asyncio.run(server.create()))
            costs += asyncio.run(measure(store, url, folder, rounds=asked.rounds))
    for cost in costs:
        print(f"{cost.store:9} {cost.call:32} {cost.cpu_ms:6.2f} ms  {cost.to_bare:5.2f} x bare")
    if asked.json:
        asked.json.write_text(json.dumps([asdict(cost) for cost in costs], indent=2) + "\n")


if __name__ == "__main__":
    main()
