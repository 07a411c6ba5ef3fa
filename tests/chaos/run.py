"""Traffic, faults and the checker together.

    python -m tests.chaos.run --seed 1 --minutes 2 [--store postgres|sqlite] [--every-s 4] [--json FILE]

Prints a table and exits with 1 if a promise was broken; the history is kept then.
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path

from servicekit.errors import ServiceError
from tests.chaos.cluster import ORCHESTRATORS, Cluster, running_cluster
from tests.chaos.faults import Faults
from tests.chaos.history import Fault, History, Recorder, body_of, kind_of
from tests.chaos.traffic import Clock, read_store, run_clients, unfinished
from tests.chaos.validate import Violation, validate

# After the last fault: the longest pause between two attempts that these faults lead to, and some.
BOUND_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One run of the harness."""

    seed: int
    seconds: float
    store: str
    every_s: float = 4.0
    grpc_clients: int = 10
    openai_clients: int = 3
    chunk_delay_s: float = 0.03
    bound_s: float = BOUND_S


@dataclass(kw_only=True)
class Report:
    """What came of it."""

    plan: Plan
    turns: int = 0
    states: Mapping[str, int] = field(default_factory=dict)
    failures: Mapping[str, int] = field(default_factory=dict)
    faults: Sequence[Fault] = ()
    notes: Mapping[str, int] = field(default_factory=dict)
    take_overs_s: Sequence[float] = ()
    other_resumptions: int = 0
    settle_s: float = 0.0
    violations: Sequence[Violation] = ()

    def kills(self) -> Mapping[str, int]:
        """By what was done and to whom."""
        return Counter(f"{fault.kind} {fault.target}" for fault in self.faults)

    def lines(self) -> list[str]:
        """The summary table."""
        plan, taken = self.plan, sorted(self.take_overs_s)
        kills = ", ".join(f"{name} {count}" for name, count in sorted(self.kills().items()))
        states = ", ".join(f"{name} {count}" for name, count in sorted(self.states.items()))
        failures = ", ".join(f"{name} {count}" for name, count in sorted(self.failures.items()))
        rows = {
            "seed, store": f"{plan.seed}, {plan.store}; {plan.seconds:.0f} s, a fault each {plan.every_s:g}",
            "turns": f"{self.turns} ({states})",
            "failed because of": failures or "-",
            "faults": f"{len(self.faults)} ({kills})",
            "take-overs": f"{len(taken)} after a fault of an orchestrator, {self.other_resumptions} others",
            "take-over, seconds": f"median {statistics.median(taken):.2f}, max {taken[-1]:.2f}"
            if taken
            else "-",
            "seen by clients": ", ".join(f"{name} {count}" for name, count in sorted(self.notes.items())),
            "all ended after": f"{self.settle_s:.1f} s",
            "violations": str(len(self.violations)),
        }
        table = [f"{name:<20} {value}" for name, value in rows.items()]
        return table + [f"  {violation}" for violation in self.violations[:50]]


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
    taken, others = take_overs(history, faults.done)
    return Report(
        plan=plan,
        turns=len(history.runs),
        states=Counter(run.state.removeprefix("RUN_STATE_").lower() for run in history.runs.values()),
        failures=Counter(_reasons(history)),
        faults=faults.done,
        notes=recorder.counts,
        take_overs_s=taken,
        other_resumptions=others,
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


def take_overs(history: History, faults: Sequence[Fault]) -> tuple[list[float], int]:
    """Seconds from the fault of an orchestrator to run_resumed; how many resumptions had another cause."""
    hits = sorted(f.wall for f in faults if f.target in ORCHESTRATORS)
    seconds, others = [], 0
    for run in history.runs.values():
        begun = _wall(run.events[0]) if run.events else 0.0
        for event in run.events:
            if kind_of(event) != "run_resumed":
                continue
            at = _wall(event)
            before = [hit for hit in hits if begun <= hit <= at and at - hit < 20]
            if before and int(body_of(event).get("attempt", 0)) == 2:
                seconds.append(at - before[-1])
            else:
                others += 1
    return seconds, others


def _wall(event: Mapping[str, object]) -> float:
    return datetime.fromisoformat(str(event["create_time"]).replace("Z", "+00:00")).timestamp()


def _reasons(history: History) -> list[str]:
    found = []
    for run in history.runs.values():
        if run.state == "RUN_STATE_FAILED" and run.events:
            details = body_of(run.events[-1]).get("status", {}).get("details", [])
            found.append(next((d["reason"] for d in details if "reason" in d), "without a reason"))
    return found


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
