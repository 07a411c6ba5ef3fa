"""What a run of the harness showed, as a table."""

import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from tests.chaos.cluster import ORCHESTRATORS
from tests.chaos.history import Event, Fault, History, body_of, failure_of, kind_of
from tests.chaos.violation import Violation

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
    forks: int = 0
    waited: int = 0
    notes: Mapping[str, int] = field(default_factory=dict)
    take_overs_s: Sequence[float] = ()
    other_resumptions: int = 0
    pauses_s: Mapping[str, Sequence[float]] = field(default_factory=dict)
    model_calls: int = 0
    logged_model_calls: int = 0
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
            "forks": str(self.forks),
            "waited for people": f"{self.waited} runs",
            "faults": f"{len(self.faults)} ({kills})",
            "take-overs": f"{len(taken)} after a fault of an orchestrator, {self.other_resumptions} others",
            "take-over, seconds": f"median {statistics.median(taken):.2f}, max {taken[-1]:.2f}"
            if taken
            else "-",
            "model calls": f"{self.model_calls} requests, {self.logged_model_calls} answers in the logs",
            "seen by clients": ", ".join(f"{name} {count}" for name, count in sorted(self.notes.items())),
            "all ended after": f"{self.settle_s:.1f} s",
            "violations": str(len(self.violations)),
        }
        table = [f"{name:<20} {value}" for name, value in rows.items()]
        table += [f"  {violation}" for violation in self.violations[:50]]
        table += ["", "fault                      times   followers   pause: median   max (seconds)"]
        for name, count in sorted(self.kills().items()):
            gaps = sorted(self.pauses_s.get(name, ()))
            shown = f"{statistics.median(gaps):>13.1f}  {gaps[-1]:>5.1f}" if gaps else ""
            table.append(f"{name:<25} {count:>6} {len(gaps):>11}   {shown}")
        return table


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
            if before and not _waited(run.events) and int(body_of(event).get("attempt", 0)) == 2:
                seconds.append(at - before[-1])
            else:
                others += 1
    return seconds, others


def _waited(events: Sequence[Event]) -> bool:
    return any(kind_of(event) == "input_requested" for event in events)


def _wall(event: Mapping[str, object]) -> float:
    return datetime.fromisoformat(str(event["create_time"]).replace("Z", "+00:00")).timestamp()


def logged(history: History, kind: str) -> int:
    """How many events of a kind all logs hold."""
    return sum(kind_of(event) == kind for run in history.runs.values() for event in run.events)


def failure_reasons(history: History) -> list[str]:
    """Why the failed runs failed."""
    failed = [run for run in history.runs.values() if run.state == "RUN_STATE_FAILED"]
    return [failure_of(run) or "without a reason" for run in failed]


def pauses(history: History, faults: Sequence[Fault]) -> dict[str, list[float]]:
    """By fault: how long each client that followed a run at that moment waited for its next item.

    Pauses in which a client had hung up on purpose are short: it comes back within a second.
    Runs that waited for people are left out.
    """
    waited = {name for name, run in history.runs.items() if _waited(run.events)}
    seen: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for stream in history.streams:
        if stream.run in waited:
            continue
        seen[stream.client, stream.run].extend(stream.times)
    found: defaultdict[str, list[float]] = defaultdict(list)
    for fault in faults:
        for times in seen.values():
            after = next((n for n, at in enumerate(times) if at >= fault.wall), 0)
            if after:
                found[f"{fault.kind} {fault.target}"].append(times[after] - times[after - 1])
    return dict(found)
