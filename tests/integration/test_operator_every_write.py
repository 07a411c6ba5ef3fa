"""The operator dies after each of its writes: the next one ends where one alone would have.

The core runs in this process, so that every write can be the last (tests/integration/test_operator_killed.py
kills real processes, after some of them).
"""

import base64
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from lightkube import AsyncClient, KubeConfig

from agentteams_operator.adapters.kubernetes import Kubernetes
from tests.support.kube import Cluster, shared_cluster
from tests.support.kube_state import Api, AsyncApi, State, state
from tests.support.operator_core import Core, Killed, MortalApi, Outside

pytestmark = pytest.mark.slow

SERVES = {"replicas": 1, "updatedReplicas": 1, "readyReplicas": 1, "availableReplicas": 1}
PATHS = {
    "ModelConfig": "agentteams.dev/v1alpha1/modelconfigs", "AgentTeam": "agentteams.dev/v1alpha1/agentteams",
    "KnowledgeBase": "agentteams.dev/v1alpha1/knowledgebases", "Secret": "v1/secrets",
}  # fmt: skip
STEPS = ("create", "update", "back", "delete")
PARTS = 8


class World:
    """An API server, what is outside of it, and a user."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.api = Api(cluster)
        self.reads = AsyncApi(cluster)
        self.client = AsyncClient(config=KubeConfig.from_file(cluster.kubeconfig), lazy=False)
        self.outside = Outside()

    async def close(self) -> None:
        self.api.close()
        await self.reads.close()
        await self.client.aclose()

    async def namespace(self) -> str:
        """A new one; the cluster ends with the test run."""
        name = f"cut-{secrets.token_hex(4)}"
        await self.reads.create_namespace(name)
        return name

    async def live(self, namespace: str, dies_after: int | None = None) -> list[str]:
        """One life of an operator, until its work is done or the nth write; what it wrote."""
        mortal = MortalApi(Kubernetes(self.client, identity="test"), dies_after)
        core = Core(mortal, self.reads, namespace, knowledge=self.outside)
        try:
            await core.work(lambda: self._others(namespace))
        except Killed:
            assert dies_after is not None
        return mortal.writes

    async def _others(self, namespace: str) -> bool:
        """Pods come up, as the controllers of a cluster see to it."""
        acted = False
        for found in await self.reads.items("apps/v1/deployments", namespace):
            generation = found["metadata"]["generation"]
            if found.get("status", {}).get("observedGeneration") != generation:
                path = f"/apis/apps/v1/namespaces/{namespace}/deployments/{found['metadata']['name']}"
                await self.reads.patch_status(path, SERVES | {"observedGeneration": generation})
                acted = True
        return acted

    async def create(self, namespace: str) -> None:
        """All kinds, with a Secret, a finalizer, a shared pool and one of its own."""
        refs = [{"name": "docs", "knowledgeBaseRef": {"name": "docs"}}]
        await self.apply(
            namespace, secret("one"), model(), embedding(), knowledge(), team("t", knowledge=refs),
            team("u", runtime={"replicas": 1}),
        )  # fmt: skip

    async def update(self, namespace: str) -> None:
        """A new revision, a new key, an autoscaler, a policy that takes the finalizer away."""
        scaled = {"autoscaling": {"maxReplicas": 3}}
        await self.apply(
            namespace, secret("two"), team("t", instructions="Be brief."), team("u", runtime=scaled),
            knowledge(deletionPolicy="Retain"),
        )  # fmt: skip

    async def back(self, namespace: str) -> None:
        """A pool of its own is given up, the finalizer comes back."""
        await self.apply(namespace, team("u"), knowledge())

    async def delete(self, namespace: str) -> None:
        """All of it."""
        for name in ("agentteams/t", "agentteams/u", "knowledgebases/docs", "modelconfigs/m",
                     "modelconfigs/e"):  # fmt: skip
            plural, _, one = name.partition("/")
            await self.reads.delete(f"agentteams.dev/v1alpha1/{plural}", namespace, one)
        await self.reads.delete("v1/secrets", namespace, "llm")

    async def apply(self, namespace: str, *objects: Mapping[str, Any]) -> None:
        for one in objects:
            await self.reads.apply(PATHS[one["kind"]], namespace, one)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    cluster = shared_cluster()
    cluster.install_crds()
    made = World(cluster)
    yield made
    await made.close()


def custom(kind: str, name: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    metadata = {"name": name}
    return {"apiVersion": "agentteams.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec}


def secret(value: str) -> dict[str, Any]:
    data = {"apiKey": base64.b64encode(value.encode()).decode()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "llm"}, "data": data}


def model() -> dict[str, Any]:
    key = {"name": "llm", "key": "apiKey"}
    spec = {"type": "Chat", "provider": "OpenAI", "model": "m", "credentialsSecretKeyRef": key}
    return custom("ModelConfig", "m", spec)


def embedding() -> dict[str, Any]:
    return custom("ModelConfig", "e", {"type": "Embedding", "provider": "BuiltIn"})


def knowledge(**more: Any) -> dict[str, Any]:
    spec = {"embedding": {"modelConfigRef": {"name": "e"}}, "deletionPolicy": "Delete"}
    return custom("KnowledgeBase", "docs", spec | more)


def team(name: str, **spec: Any) -> dict[str, Any]:
    given = {"modelConfigRef": {"name": "m"}, "members": [{"name": "a"}]}
    return custom("AgentTeam", name, given | spec)


def events(api: Api, namespace: str) -> Counter[str]:
    found = api.items("events.k8s.io/v1/events", namespace)
    return Counter(f"{e['regarding']['name']}: {e['reason']} {e.get('note')}" for e in found)


def unowned(found: State) -> list[str]:
    """What would be left when the garbage collector has done its work."""
    teams = {name for name in found if name.startswith("AgentTeam/")}
    return [name for name, one in found.items() if not one["owners"] or set(one["owners"]) & teams]


async def test_one_who_finds_everything_done_writes_nothing(world: World) -> None:
    """And what each step takes undisturbed is remembered for the tests below."""
    assert len(await alone(world)) == len(STEPS)


async def alone(world: World) -> list[tuple[int, State]]:
    """How many writes each step takes undisturbed, and the state after it."""
    if not _ALONE:
        namespace = await world.namespace()
        for step in STEPS:
            await getattr(world, step)(namespace)
            count = len(await world.live(namespace))
            _ALONE.append((count, state(world.api, namespace)))
            # Nothing is written by one who finds everything done.
            assert await rewritten(world, namespace) == []
    return _ALONE


_ALONE: list[tuple[int, State]] = []


@pytest.mark.parametrize("part", range(PARTS))
async def test_it_dies_after_each_write_and_the_next_one_ends_as_one_alone(world: World, part: int) -> None:
    wanted = await alone(world)
    most = max(count for count, _ in wanted)
    assert most > 25
    for n in range(1 + part, most + 1, PARTS):
        namespace = await world.namespace()
        last = max(i for i, (count, _) in enumerate(wanted) if n <= count)
        for step, (count, end) in list(zip(STEPS, wanted, strict=True))[: last + 1]:
            await getattr(world, step)(namespace)
            writes = await world.live(namespace, n) if n <= count else []
            assert len(writes) in (0, n)
            await world.live(namespace)
            where = f"{step}, cut after {n} of {count}: {writes[-1:]}"
            assert state(world.api, namespace) == end, where
            if step == "delete":
                assert unowned(end) == [], where
                assert not any(tenant == namespace for tenant, _ in world.outside.there), where
        twice = {told: times for told, times in events(world.api, namespace).items() if times > 1}
        assert twice == {}, n


async def rewritten(world: World, namespace: str) -> list[str]:
    """Objects whose version another life of the operator moves."""

    def versions() -> dict[str, str]:
        return {
            f"{item['kind']}/{item['metadata']['name']}": item["metadata"]["resourceVersion"]
            for resource in ("agentteams.dev/v1alpha1/agentteams", "apps/v1/deployments", "v1/secrets",
                             "v1/services", "apps/v1/controllerrevisions")
            for item in world.api.items(resource, namespace)
        }  # fmt: skip

    first = versions()
    await world.live(namespace)
    return [name for name, version in versions().items() if first.get(name) != version]
