"""What is done to the system while clients use it: seeded, and bounded by what supervision allows."""

import asyncio
import os
import random
import resource
import signal
import time
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import asyncpg
import structlog

from tests.chaos.asking import ask_first
from tests.chaos.cluster import ORCHESTRATORS, Cluster
from tests.chaos.history import Fault
from tests.support.cutting_proxy import Cut

log = structlog.get_logger()

# The stack gives a service up that ended more than five times within a minute.
_DEATHS_PER_MINUTE = 4
_LEASE_S = 3.0
_STOPPED_S = _LEASE_S + 2.0

# A disk is full for so long at most: some leases end meanwhile, most hold.
_FULL_S = 4.0
_FULL_TABLES = ("run_events", "messages", "sessions")
_FULL_FUNCTION = (
    "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS"
    " $$ BEGIN RAISE EXCEPTION 'no space left on device' USING ERRCODE = '53100'; END $$"
)
_FULL_TRIGGER = (
    "CREATE CONSTRAINT TRIGGER full_disk AFTER INSERT ON {} {} FOR EACH ROW EXECUTE FUNCTION full_disk()"
)

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
    ("full", "session"): 3,
    ("full", "postgres"): 3,
    ("commit", "postgres"): 3,
    ("lost", "postgres"): 3,
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
        self.thawed: list[float] = []
        """When a stopped process went on."""
        self.model_calls = 0
        """Requests to the stand-in model until the faults ended."""
        self._random = random.Random(f"faults-{self.seed}")
        self._deaths: defaultdict[str, deque[float]] = defaultdict(deque)
        self._busy: set[str] = set()
        self._started = time.monotonic()

    async def run(self, *, for_s: float) -> None:
        """Returns when the time is over and every fault has been taken back."""
        self._started = time.monotonic()
        kinds = [key for key in WEIGHTS if self._possible(*key)]
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
        self.cluster.model.script(ask_first)

    def _possible(self, kind: str, target: str) -> bool:
        if kind == "full" and target == "session":  # whose files are SQLite's
            return self.cluster.postgres is None
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
        return kind not in ("kill", "term") or len(recent) < _DEATHS_PER_MINUTE

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
            "full": self._full,
            "commit": self._commit,
            "lost": self._lost,
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
            self.thawed.append(time.time())

    async def _full(self, target: str, extent: float) -> None:
        """No file can grow any more, for a while."""
        if target == "postgres":
            await self._trigger("", extent)
            return
        pid, none = self.cluster.pid(target), resource.RLIM_INFINITY
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, none))
        try:
            await asyncio.sleep(_FULL_S * extent)  # how long it is full is part of the fault
        finally:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (none, none))

    async def _commit(self, target: str, extent: float) -> None:
        """Every statement works and no transaction can be committed, for a while."""
        await self._trigger("DEFERRABLE INITIALLY DEFERRED", extent)

    async def _lost(self, target: str, extent: float) -> None:
        """Connections break as they commit: the COMMIT does not arrive, or its answer does not."""
        if self.cluster.proxy is not None:
            kind = Cut.AFTER if extent < 0.7 else Cut.BEFORE
            self.cluster.proxy.cut(kind, times=1 + int(extent * 10) % 5)

    async def _trigger(self, when: str, extent: float) -> None:
        try:
            await self._until_done(_FULL_FUNCTION, *(_FULL_TRIGGER.format(t, when) for t in _FULL_TABLES))
            await asyncio.sleep(_FULL_S * extent)  # how long it is full is part of the fault
        finally:
            await self._until_done("DROP FUNCTION IF EXISTS full_disk CASCADE")

    async def _until_done(self, *statements: str) -> None:
        """In one transaction; traffic that holds a lock for too long only delays it."""
        async with asyncio.timeout(30):
            while True:
                try:
                    await self.cluster.sql("; ".join(("SET lock_timeout = '500ms'", *statements)))
                except (asyncpg.PostgresError, OSError, TimeoutError) as error:
                    log.info("fault_waits", error=repr(error))
                    await asyncio.sleep(0.1)
                else:
                    return

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
