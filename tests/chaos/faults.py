"""What is done to the system while clients use it: seeded, and bounded by what supervision allows."""

import asyncio
import os
import random
import signal
import time
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import structlog

from tests.chaos.cluster import ORCHESTRATORS, Cluster
from tests.chaos.history import Fault

log = structlog.get_logger()

# The stack gives a service up that ended more than five times within a minute.
_DEATHS_PER_MINUTE = 4
_LEASE_S = 3.0
_STOPPED_S = _LEASE_S + 2.0

CHAT = "/v1/chat/completions"

# How often each kind is drawn. Orchestrators and the session service are what runs depend on.
WEIGHTS: Mapping[tuple[str, str], int] = {
    ("kill", "orchestrator"): 5,
    ("kill", "orchestrator-2"): 5,
    ("kill", "session"): 4,
    ("kill", "gateway"): 2,
    ("kill", "retrieval"): 2,
    ("kill", "embedding"): 2,
    ("kill", "milvus"): 1,
    ("kill", "postgres"): 3,
    ("term", "orchestrator"): 2,
    ("term", "orchestrator-2"): 2,
    ("term", "session"): 2,
    ("term", "gateway"): 1,
    ("term", "retrieval"): 1,
    ("term", "embedding"): 1,
    ("term", "postgres"): 1,
    ("stop", "orchestrator"): 3,
    ("stop", "orchestrator-2"): 3,
    ("stall", "model"): 3,
    ("cut", "model"): 3,
    ("status", "model"): 2,
}


@dataclass(kw_only=True)
class Faults:
    """Draws faults until told to end, and remembers each.

    Args:
        cluster: What is hurt.
        seed: The same seed draws the same faults.
        every_s: The mean time between two.
    """

    cluster: Cluster
    seed: int
    every_s: float

    def __post_init__(self) -> None:
        self.done: list[Fault] = []
        self.model_calls = 0
        """Requests to the stand-in model until the faults ended."""
        self._random = random.Random(f"faults-{self.seed}")
        self._deaths: defaultdict[str, deque[float]] = defaultdict(deque)
        self._busy: set[str] = set()
        self._started = time.monotonic()

    async def run(self, *, for_s: float) -> None:
        """Returns when the time is over and every fault has been taken back."""
        self._started = time.monotonic()
        kinds = [key for key in WEIGHTS if self._possible(key[1])]
        weights = [WEIGHTS[key] for key in kinds]
        async with asyncio.TaskGroup() as group:
            while True:
                await asyncio.sleep(self.every_s * self._random.uniform(0.5, 1.5))
                if time.monotonic() - self._started > for_s:
                    break
                kind, target = self._random.choices(kinds, weights)[0]
                # Drawn before it is known whether it can be done now: the draws stay those of the seed.
                extent = self._random.random()
                if self._may(kind, target):
                    group.create_task(self._strike(kind, target, extent))
        self.model_calls = self.cluster.model.counts[CHAT]
        self.cluster.model.control({"clear": True})

    def _possible(self, target: str) -> bool:
        if target == "postgres":
            return self.cluster.postgres is not None
        return target == "model" or target in self.cluster.live.stack.services

    def _may(self, kind: str, target: str) -> bool:
        if target in self._busy:
            return False
        if target == "model":
            return True
        if target != "postgres" and not self.cluster.pid(target):
            return False
        # A stopped one and a killed one at once would leave nobody to take over.
        if target in ORCHESTRATORS and self._busy & set(ORCHESTRATORS):
            return False
        recent = self._deaths[target]
        while recent and time.monotonic() - recent[0] > 65:
            recent.popleft()
        return kind == "stop" or len(recent) < _DEATHS_PER_MINUTE

    async def _strike(self, kind: str, target: str, extent: float) -> None:
        fault = Fault(
            seconds=round(time.monotonic() - self._started, 2), wall=time.time(), kind=kind, target=target
        )
        self.done.append(fault)
        log.info("fault", kind=kind, target=target, seconds=fault.seconds)
        self._busy.add(target)
        try:
            await self._actions()[kind](target, extent)
        except ProcessLookupError:
            self.done.remove(fault)  # it had ended already
        finally:
            self._busy.discard(target)

    def _actions(self) -> Mapping[str, Callable[[str, float], Awaitable[None]]]:
        return {
            "kill": self._kill,
            "term": self._term,
            "stop": self._stop,
            "stall": self._stall,
            "cut": self._cut,
            "status": self._status,
        }

    async def _kill(self, target: str, extent: float) -> None:
        self._deaths[target].append(time.monotonic())
        if target == "postgres":
            await self.cluster.restart_postgres(kill=True, down_s=2 * extent)
            return
        os.kill(self.cluster.pid(target), signal.SIGKILL)

    async def _term(self, target: str, extent: float) -> None:
        self._deaths[target].append(time.monotonic())
        if target == "postgres":
            await self.cluster.restart_postgres(kill=False, down_s=2 * extent)
            return
        os.kill(self.cluster.pid(target), signal.SIGTERM)

    async def _stop(self, target: str, extent: float) -> None:
        pid = self.cluster.pid(target)
        os.kill(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(_STOPPED_S + 2 * extent)  # longer than its lease: that is the fault
        finally:
            os.kill(pid, signal.SIGCONT)

    async def _stall(self, target: str, extent: float) -> None:
        at = ("headers", "first_chunk", "middle")[int(extent * 3)]
        self._order({"kind": "stall", "at": at, "seconds": 4.0, "after_chunks": 3})

    async def _cut(self, target: str, extent: float) -> None:
        self._order({"kind": "cut", "after_chunks": 1 + int(extent * 8)})

    async def _status(self, target: str, extent: float) -> None:
        self._order({"kind": "status", "status": 503 if extent < 0.5 else 500})

    def _order(self, fault: dict[str, object]) -> None:
        # What POST /control does.
        self.cluster.model.control({"faults": [{"path": CHAT, "times": 1} | fault]})
