"""What telemetry costs: the CPU of a turn with traces and without, side by side in one run.

    python -m bench.telemetry [--turns N] [--rounds N] [--clients N] [--ratio R] [--json FILE]

Two stacks of all services, one with a collector and the default sampling, one
with none. Rounds alternate between them, so that both see the same machine; a
round's figure is the CPU of all our services for a turn, as bench/turn.py
counts it. The collector runs in this process and is not counted.
"""

import argparse
import asyncio
import json
import statistics
import tempfile
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from agentteams_cli.stack import Endpoint
from bench.turn import LIMIT_S, ROOT, TEAM, WARM_UP_CLIENTS, WARM_UP_TURNS, cpu_ms, load, model_server
from tests.support.otlp import Collector, collector
from tests.support.stack import MODELS, LiveStack, knowledge_base, running_stack, team

TARGET = 0.05
DOCUMENTS = ("turn.md", "durability.md", "models.md")
PATIENT = MODELS.replace("timeoutSeconds: 2", "timeoutSeconds: 30")  # on a machine that others use, too


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What was measured; CPU in milliseconds a turn, Milvus apart."""

    clients: int
    turns: int
    off_ms: float
    on_ms: float
    cost: float
    """Of the medians of all rounds."""
    cost_of_pairs: tuple[float, ...]
    """Of each round with traces against the one beside it without."""
    on_ms_by_service: Mapping[str, float]
    off_ms_by_service: Mapping[str, float]
    spans: int
    """That came to the collector."""


async def measure(live: LiveStack, *, clients: int, turns: int, first: int) -> dict[str, float]:
    """CPU of each service for a turn."""
    services = live.stack.services
    before = {name: cpu_ms(service.pid) for name, service in services.items()}
    await load(live, clients=clients, turns=turns, first=first)
    return {
        name: (cpu_ms(service.pid) - before[name]) / turns
        for name, service in services.items()
        if name != "milvus"
    }


async def run(arguments: argparse.Namespace) -> Figures:
    """Starts both stacks, measures in turn, stops everything."""
    docs = {name: (ROOT / "docs" / name).read_bytes() for name in DOCUMENTS}
    rounds: dict[bool, list[dict[str, float]]] = {True: [], False: []}
    async with AsyncExitStack() as exits:
        await exits.enter_async_context(asyncio.timeout(LIMIT_S * 3))
        folder = exits.enter_context(tempfile.TemporaryDirectory(prefix="agentteams-bench-"))
        url = await exits.enter_async_context(model_server(arguments.chunks))
        received: Collector = await exits.enter_async_context(collector())
        stacks: dict[bool, LiveStack] = {}
        for traced in (False, True):
            environment = {"AGENTTEAMS_OTLP_ENDPOINT": received.endpoint} if traced else {}
            if traced and arguments.ratio is not None:
                environment["AGENTTEAMS_TRACE_RATIO"] = str(arguments.ratio)
            live = await exits.enter_async_context(
                running_stack(
                    Path(folder) / f"traced-{traced}",
                    chat=Endpoint(url=url, model="stand-in"),
                    extra_env=environment,
                )
            )
            await live.apply(PATIENT, knowledge_base("docs"), team(TEAM, "agent"))
            await live.ingest("docs", docs, within_s=180)
            await load(live, clients=WARM_UP_CLIENTS, turns=WARM_UP_TURNS, first=0)
            stacks[traced] = live
        received.spans.clear()
        first = WARM_UP_TURNS
        for number in range(arguments.rounds):
            for traced in (False, True) if number % 2 else (True, False):
                rounds[traced].append(
                    await measure(
                        stacks[traced], clients=arguments.clients, turns=arguments.turns, first=first
                    )
                )
            first += arguments.turns
        await asyncio.sleep(2)  # the last spans are on their way
    totals = {traced: [sum(one.values()) for one in rounds[traced]] for traced in rounds}
    off, on = statistics.median(totals[False]), statistics.median(totals[True])
    return Figures(
        clients=arguments.clients,
        turns=arguments.turns * arguments.rounds,
        off_ms=off,
        on_ms=on,
        cost=on / off - 1,
        cost_of_pairs=tuple(b / a - 1 for a, b in zip(totals[False], totals[True], strict=True)),
        on_ms_by_service=_medians(rounds[True]),
        off_ms_by_service=_medians(rounds[False]),
        spans=len(received.spans),
    )


def _medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}


def show(figures: Figures) -> None:
    """Prints them."""
    print(f"{figures.turns} turns of each kind, {figures.clients} clients; {figures.spans} spans kept")
    print("CPU ms/turn   without      with")
    for name, without in figures.off_ms_by_service.items():
        print(f"{name:<12}  {without:>8.2f}  {figures.on_ms_by_service[name]:>8.2f}")
    print(f"{'all':<12}  {figures.off_ms:>8.2f}  {figures.on_ms:>8.2f}")
    pairs = ", ".join(f"{100 * cost:+.1f}" for cost in figures.cost_of_pairs)
    print(f"traces cost {100 * figures.cost:+.1f} % (target: {100 * TARGET:.0f} %; round by round: {pairs})")


def main() -> None:
    """Reads the arguments, measures, prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=200, help="turns of each round")
    parser.add_argument("--rounds", type=int, default=6, help="rounds of each kind")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--chunks", type=int, default=40, help="deltas of one answer of the stand-in model")
    parser.add_argument("--ratio", type=float, help="share of traces that are kept; default: the services'")
    parser.add_argument("--json", type=Path, help="write the figures there, as one object")
    arguments = parser.parse_args()
    figures = asyncio.run(run(arguments))
    show(figures)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"bench": "telemetry"} | asdict(figures), indent=2) + "\n")


if __name__ == "__main__":
    main()
