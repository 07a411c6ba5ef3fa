"""Traffic, faults and the checker together.

    python -m tests.chaos.run --seed 1 --minutes 2 [--store postgres|sqlite] [--every-s 4] [--json FILE]

Prints a table and exits with 1 if a promise was broken; the history is kept then.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from servicekit.errors import ServiceError
from tests.chaos.cluster import Cluster, running_cluster
from tests.chaos.faults import CHAT, Faults
from tests.chaos.history import Recorder
from tests.chaos.model_calls import model_calls
from tests.chaos.report import Plan, Report, failure_reasons, logged, pauses, take_overs
from tests.chaos.traffic import Clock, read_store, run_clients, unfinished
from tests.chaos.validate import validate


async def chaos(plan: Plan, folder: Path) -> Report:
    """Runs it all in `folder`, which keeps the history and the services' logs."""
    recorder = Recorder(folder / "history.jsonl")
    try:
        async with running_cluster(
            folder / "state", store=plan.store, chunk_delay_s=plan.chunk_delay_s
        ) as cluster:
            return await _run(plan, cluster, recorder)
    finally:
        recorder.close()


async def _run(plan: Plan, cluster: Cluster, recorder: Recorder) -> Report:
    now = time.monotonic()
    clock = Clock(ask_until=now + plan.seconds, wait_until=now + plan.seconds + plan.bound_s)
    cluster.model.journal = []
    faults = Faults(cluster=cluster, seed=plan.seed, every_s=plan.every_s)
    async with asyncio.TaskGroup() as group:
        clients = run_clients(
            cluster,
            recorder=recorder,
            clock=clock,
            seed=plan.seed,
            grpc_clients=plan.grpc_clients,
            openai_clients=plan.openai_clients,
        )
        group.create_task(clients)
        group.create_task(faults.run(for_s=plan.seconds))
    settle_s = await _settled(plan, cluster, clock)
    history = recorder.history
    history.runs, history.sessions = await read_store(cluster, grpc_clients=plan.grpc_clients)
    history.thawed = faults.thawed
    history.model_calls = model_calls(cluster.model.journal, CHAT)
    taken, others = take_overs(history, faults.done)
    return Report(
        plan=plan,
        turns=len(history.runs),
        # Plain ones: `asdict` makes something else of a Counter.
        states=dict(Counter(run.state.removeprefix("RUN_STATE_").lower() for run in history.runs.values())),
        failures=dict(Counter(failure_reasons(history))),
        faults=faults.done,
        forks=len({fork.request_id for fork in history.forks}),
        waited=logged(history, "input_requested"),
        notes=recorder.counts,
        take_overs_s=taken,
        other_resumptions=others,
        pauses_s=pauses(history, faults.done),
        model_calls=faults.model_calls + cluster.model.counts[CHAT],
        logged_model_calls=logged(history, "model_call_finished"),
        settle_s=settle_s,
        violations=validate(history),
    )


async def _settled(plan: Plan, cluster: Cluster, clock: Clock) -> float:
    """Waits until nothing runs, at most until the bound; returns the seconds since the faults ended."""
    left: int | None = None
    while True:
        try:
            left = await unfinished(cluster, grpc_clients=plan.grpc_clients)
        except ServiceError:
            left = None
        if left == 0 or not clock.may_wait:
            return time.monotonic() - clock.ask_until
        await asyncio.sleep(0.5)  # polling another process


def main() -> None:
    """Reads the arguments, runs, prints; exits with 1 on a violation."""
    parser = argparse.ArgumentParser(
        prog="tests.chaos.run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=2.0, help="of traffic under faults")
    parser.add_argument("--store", choices=("postgres", "sqlite"), default="postgres")
    parser.add_argument("--every-s", type=float, default=4.0, help="mean time between two faults")
    parser.add_argument("--clients", type=int, default=10, help="over gRPC; a third as many over HTTP")
    parser.add_argument("--json", type=Path, help="write the report there")
    parser.add_argument("--keep", type=Path, help="keep history and logs in this folder, whatever happens")
    arguments = parser.parse_args()
    plan = Plan(
        seed=arguments.seed,
        seconds=60 * arguments.minutes,
        store=arguments.store,
        every_s=arguments.every_s,
        grpc_clients=arguments.clients,
        openai_clients=max(1, arguments.clients // 3),
    )
    folder = arguments.keep or Path(tempfile.mkdtemp(prefix="agentteams-chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    report = asyncio.run(chaos(plan, folder))
    print("\n".join(report.lines()))  # noqa: T201
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(asdict(report), indent=2, default=str) + "\n")
    if report.violations:
        print(f"history and logs: {folder}")  # noqa: T201
        sys.exit(1)


if __name__ == "__main__":
    main()
