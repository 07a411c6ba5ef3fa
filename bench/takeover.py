"""How long a run pauses when its orchestrator is killed: from SIGKILL to the next event of its log.

    python bench/takeover.py [--json FILE] [--rounds N] [--store sqlite|postgres]

Two orchestrators; the run is begun on one, which is killed while the model writes,
and followed on the other. The pause is what a client of the other sees.
"""

import argparse
import asyncio
import json
import os
import signal
import statistics
import sys
import tempfile
import time
import uuid
from contextlib import AsyncExitStack
from pathlib import Path

from agentteams.orchestrator.v1 import orchestrator_service_pb2 as pb
from agentteams.orchestrator.v1.orchestrator_service_pb2_grpc import OrchestratorServiceStub
from agentteams.session.v1 import session_pb2

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from servicekit.client import RpcClient  # noqa: E402
from servicekit.context import Caller, scope  # noqa: E402
from servicekit.errors import ServiceError  # noqa: E402
from tests.chaos.cluster import ORCHESTRATORS, Cluster, running_cluster  # noqa: E402

CHUNK_DELAY_S = 0.2  # 16 pieces: the model writes for three seconds, enough to be killed in
GIVE_UP_S = 30.0
# The stack gives a service up that dies more than five times a minute.
ROUND_S = 8.0


async def one_round(cluster: Cluster, first: str, second: str) -> float:
    """The pause, in seconds. Raises: RuntimeError if the run did not go on."""
    async with AsyncExitStack() as exits:
        a, b = [await exits.enter_async_context(cluster.rpc(name)) for name in (first, second)]
        message = session_pb2.Message(role=session_pb2.ROLE_USER, content=f"How many days? {uuid.uuid4()}")
        run = await a.unary(
            OrchestratorServiceStub(a.channel).StartRun,
            pb.StartRunRequest(team="teams/solo", input=[message], request_id=str(uuid.uuid4())),
        )
        last = 0
        async for response in _stream(a, run.name, 0):
            last = max([last, *(item.event.sequence for item in response.items if item.HasField("event"))])
            if last > 1 and any(item.HasField("text_delta") for item in response.items):
                break
        os.kill(cluster.pid(first), signal.SIGKILL)
        killed = time.monotonic()
        pause = 0.0
        while time.monotonic() - killed < GIVE_UP_S:
            try:
                async for response in _stream(b, run.name, last):
                    events = [item.event for item in response.items if item.HasField("event")]
                    if events and not pause:
                        pause = time.monotonic() - killed
                    if any(event.HasField("run_finished") for event in events):
                        return pause
            except ServiceError:
                await asyncio.sleep(0.1)  # as a client does that lost its stream
        raise RuntimeError(f"{run.name} has not ended {GIVE_UP_S:.0f} s after the kill")


def _stream(rpc: RpcClient, run: str, after: int):  # type: ignore[no-untyped-def]  # the stub's generic type
    request = pb.StreamRunEventsRequest(run=run, after_sequence=after)
    return rpc.server_stream(OrchestratorServiceStub(rpc.channel).StreamRunEvents, request)


async def run(arguments: argparse.Namespace) -> list[float]:
    """All rounds; the orchestrators are killed in turns."""
    pauses = []
    with tempfile.TemporaryDirectory(prefix="agentteams-bench-") as folder:
        async with running_cluster(
            Path(folder) / "state", store=arguments.store, chunk_delay_s=CHUNK_DELAY_S
        ) as cluster:
            with scope(caller=Caller("default", "bench")):
                for number in range(arguments.rounds):
                    started = time.monotonic()
                    first, second = ORCHESTRATORS[:: 1 if number % 2 else -1]
                    pauses.append(await one_round(cluster, first, second))
                    await cluster.live.healthy()
                    await asyncio.sleep(max(0.0, ROUND_S - (time.monotonic() - started)))
    return pauses


def main() -> None:
    """Reads the arguments, measures, prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--store", choices=("sqlite", "postgres"), default="postgres")
    arguments = parser.parse_args()
    pauses = sorted(asyncio.run(run(arguments)))
    print(f"take-over after SIGKILL, {len(pauses)} rounds on {arguments.store}, default lease:")
    print(f"median {statistics.median(pauses):.2f} s, max {pauses[-1]:.2f} s, min {pauses[0]:.2f} s")
    if arguments.json is not None:
        found = {"bench": "takeover", "store": arguments.store, "median_s": statistics.median(pauses)}
        arguments.json.write_text(json.dumps(found | {"pauses_s": pauses}, indent=2) + "\n")


if __name__ == "__main__":
    main()
