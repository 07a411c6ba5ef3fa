"""Orchestrators over one store and one model, all in one process; any of them can be killed."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from orchestrator.core.log import Item
from orchestrator.core.model import Message, TextDelta
from orchestrator.core.ports import RunRow
from orchestrator.core.runs import Runs
from tests.support.fake_store import FakeStore, Link
from tests.support.orchestrator_fakes import Bench, FakePeers, flat


@dataclass
class Fleet:
    """Orchestrators over one store, with one model."""

    bench: Bench = field(default_factory=Bench)
    peers: FakePeers = field(default_factory=FakePeers)
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    @property
    def store(self) -> FakeStore:
        return self.bench.store

    async def begin(self, name: str) -> "Process":
        link = self.store.link(name)
        runs = Runs(
            world=self.bench.world, store=link, peers=self.peers, clock=self.bench.clock, address=name
        )
        self.peers.processes[name] = runs
        task = asyncio.create_task(runs.work())
        await asyncio.sleep(0)
        process = Process(fleet=self, name=name, link=link, runs=runs, task=task)
        self.stack.push_async_callback(process.end)
        return process


@dataclass
class Process:
    """One of them."""

    fleet: Fleet
    name: str
    link: Link
    runs: Runs
    task: "asyncio.Task[None]"

    async def start(self, request_id: str = "q1", *, session: str = "", on_busy: Any = "ENQUEUE") -> RunRow:
        return await self.runs.start(
            team_name="teams/helpdesk",
            session=session,
            messages=[Message(role="user", content="Why?")],
            request_id=request_id,
            on_busy=on_busy,
        )

    async def follow(self, run: str = "runs/r1", *, after: int = 0) -> list[Any]:
        async with asyncio.timeout(120):
            return [item async for item in flat(self.runs.follow(run, after=after))]

    async def kill(self) -> None:
        """As kill -9: nothing of what it does reaches anybody."""
        self.link.kill()
        self.fleet.peers.processes.pop(self.name, None)
        await self.end()

    async def end(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])


def events(items: Sequence[Item]) -> list[Any]:
    return [item for item in items if not isinstance(item, TextDelta)]


def texts(items: Sequence[Item]) -> dict[str, str]:
    out: dict[str, str] = {}
    for item in items:
        if isinstance(item, TextDelta):
            assert item.offset in (0, len(out.get(item.message, "")))
            out[item.message] = out.get(item.message, "")[: item.offset] + item.text
    return out
