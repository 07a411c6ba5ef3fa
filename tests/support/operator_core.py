"""The operator's core in this process, step by step, against a real API server: it can die at any write."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from agentteams_operator.adapters.kubernetes import Kubernetes
from agentteams_operator.core.apply import Applier
from agentteams_operator.core.cache import Cache
from agentteams_operator.core.golden_sets import GoldenSets
from agentteams_operator.core.knowledge import KnowledgeBases
from agentteams_operator.core.models import Models
from agentteams_operator.core.objects import KNOWLEDGE, MODEL, POOL, TEAM, Key, Stored, stored
from agentteams_operator.core.outcome import Event
from agentteams_operator.core.ports import (
    Endpoints,
    Knowledge,
    KnowledgeState,
    Probe,
)
from agentteams_operator.core.queue import WorkQueue
from agentteams_operator.core.quotas import Quotas
from agentteams_operator.core.reading import Reader
from agentteams_operator.core.reconciler import Reconciler
from agentteams_operator.core.served import Served
from agentteams_operator.core.teams import Teams
from agentteams_operator.core.texts import Texts
from agentteams_operator.specs.settings import PoolSettings
from manifests import KnowledgeBase, ModelConfig
from manifests.golden import GoldenQuery
from servicekit.clock import SystemClock
from tests.support.kube_state import STATES, AsyncApi

_ROUNDS = 100


class Killed(BaseException):
    """The process is no more."""


class MortalApi:
    """Writes as the operator does, and dies after the nth write is done.

    Attributes:
        writes: What was written: `apply Deployment/at-t`.
    """

    def __init__(self, api: Kubernetes, dies_after: int | None = None) -> None:
        self.writes: list[str] = []
        self._api = api
        self._dies_after = dies_after

    async def apply(self, wanted: Mapping[str, Any]) -> Mapping[str, Any]:
        return self._done(
            f"apply {wanted['kind']}/{wanted['metadata']['name']}", await self._api.apply(wanted)
        )

    async def apply_status(self, one: Stored, status: Mapping[str, Any]) -> Mapping[str, Any]:
        return self._done(f"status {one.key.kind}/{one.key.name}", await self._api.apply_status(one, status))

    async def set_finalizers(self, one: Stored, ours: tuple[str, ...]) -> None:
        await self._api.set_finalizers(one, ours)
        self._done(f"finalizers {one.key.name}")

    async def delete(self, key: Key) -> None:
        await self._api.delete(key)
        self._done(f"delete {key.kind}/{key.name}")

    async def tell(self, one: Stored, event: Event) -> None:
        await self._api.tell(one, event)
        self._done(f"tell {one.key.kind}/{one.key.name} {event.reason}")

    async def secret(self, namespace: str, name: str) -> Mapping[str, bytes]:
        return await self._api.secret(namespace, name)

    async def config_map(self, namespace: str, name: str) -> Mapping[str, str]:
        return await self._api.config_map(namespace, name)

    async def serves(self, kind: str) -> bool:
        return await self._api.serves(kind)

    def _done(self, what: str, answer: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
        self.writes.append(what)
        if self._dies_after is not None and len(self.writes) >= self._dies_after:
            raise Killed
        return answer or {}


class Answering:
    """Endpoints that all answer."""

    async def probe(self, config: ModelConfig, secrets: Mapping[tuple[str, str], bytes]) -> Probe:
        return Probe(reason="Answered", message="it answers")


class Outside:
    """The retrieval service: it outlives operators, and remembers.

    Attributes:
        there: (namespace, name) of knowledge bases.
    """

    def __init__(self) -> None:
        self.there: set[tuple[str, str]] = set()

    async def ensure(self, manifest: KnowledgeBase, allowed: Sequence[str] = ()) -> KnowledgeState:
        self.there.add((manifest.metadata.namespace, manifest.metadata.name))
        return _STATE

    async def get(self, namespace: str, name: str) -> KnowledgeState | None:
        return _STATE if (namespace, name) in self.there else None

    async def set_golden_set(
        self, namespace: str, name: str, *, queries: Sequence[GoldenQuery], called: str
    ) -> str:
        raise NotImplementedError  # no KnowledgeBase of these tests has one

    async def delete(self, namespace: str, name: str) -> None:
        self.there.discard((namespace, name))


_STATE = KnowledgeState(
    model="e", dimensions=8, fingerprint="f", deployment="Lite", documents=0, chunks=0, pending=0, failed=0
)


class Core:
    """One life of the operator, in one namespace: it knows what it lists, and works key by key."""

    def __init__(
        self, api: MortalApi, reads: AsyncApi, namespace: str, *,
        knowledge: Knowledge, endpoints: Endpoints | None = None,
    ) -> None:  # fmt: skip
        self._reads = reads
        self._namespace = namespace
        self.queue = WorkQueue()
        self.cache = Cache(self.queue.add)
        reader, clock = Reader(self.cache.get), SystemClock()
        models = Models(
            cache=self.cache, reader=reader, api=api, endpoints=endpoints or Answering(), clock=clock
        )
        quotas = Quotas(cache=self.cache, defaults={})
        teams = Teams(
            cache=self.cache, reader=reader, quotas=quotas, settings=PoolSettings(image="orchestrator:1"),
            texts=Texts(cache=self.cache, api=api), served=Served(api=api, clock=clock),
            tenant_key=lambda tenant, *, calls_of="": f"agentteams-tenant-key {tenant} 00".encode(),
            clock=clock,
        )  # fmt: skip
        golden_sets = GoldenSets(find=self.cache.get, config_maps=api, knowledge=knowledge)
        bases = KnowledgeBases(
            cache=self.cache,
            reader=reader,
            quotas=quotas,
            knowledge=knowledge,
            golden_sets=golden_sets,
            clock=clock,
        )
        self._reconciler = Reconciler(
            cache=self.cache, queue=self.queue, applier=Applier(api=api, cache=self.cache), workers=1,
            looks={MODEL: models.look, KNOWLEDGE: bases.look, TEAM: teams.look, POOL: teams.look_at_pool},
        )  # fmt: skip

    async def look_around(self, *resources: str) -> None:
        """The cache becomes what the API server has of these resources."""
        lists = await asyncio.gather(*(self._reads.items(r, self._namespace) for r in resources))
        bodies = [item for items in lists for item in items]
        there = {stored(body).key for body in bodies}
        for key in list(self.cache.keys(*(_KINDS[r] for r in resources))):
            if key not in there:
                self.cache.remove(key)
        for body in bodies:
            self.cache.put(body)

    async def work(self, others: Callable[[], Awaitable[bool]]) -> None:
        """Until nothing more is to be done; `others` act after each round, and say whether they have."""
        self.cache.put(await self._reads.namespace(self._namespace))
        await self.look_around(*STATES)
        for key in self.cache.everything():
            self.queue.add(key)
        for _ in range(_ROUNDS):
            while len(self.queue):
                key = await self.queue.get()
                try:
                    await self._reconciler.reconcile(key)
                finally:
                    self.queue.done(key)
            acted = await others()
            await self.look_around(*_CHANGED_BY_OTHERS)
            if not acted and not len(self.queue):
                return
        raise AssertionError("it never comes to rest")


_KINDS = dict(zip(STATES, (
    "Secret", "Service", "ServiceAccount", "Deployment", "ControllerRevision", "Role", "RoleBinding",
    "NetworkPolicy", "PodDisruptionBudget", "HorizontalPodAutoscaler", MODEL, KNOWLEDGE, TEAM,
), strict=True))  # fmt: skip
# The rest is what the answers to our own writes say.
_CHANGED_BY_OTHERS = STATES[3:4] + STATES[10:]
