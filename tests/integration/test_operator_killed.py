"""A real operator, killed by SIGKILL behind a proxy that lets exactly n writes through.

tests/integration/test_operator_every_write.py dies after each of them, without a process.
"""

import os
import signal
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from servicekit.identity import IdentityKey
from tests.support.kube import Cluster, shared_cluster
from tests.support.kube_node import fake_node
from tests.support.kube_proxy import KubeProxy, kube_proxy
from tests.support.kube_state import Api, conditions, eventually, remains
from tests.support.operator_fork import forked_operator
from tests.support.operator_process import KEY, WAIT_S, fake_endpoint, model, operator_environment
from tests.support.retrieval_stub import RetrievalStub, retrieval_stub

pytestmark = pytest.mark.slow

GROUP = "agentteams.dev/v1alpha1"


class World:
    """A cluster with pods, an endpoint, and a retrieval service."""

    def __init__(self, cluster: Cluster, api: Api, stub: RetrievalStub, endpoint: Any, folder: Path) -> None:
        self.cluster = cluster
        self.api = api
        self.stub = stub
        self.endpoint = endpoint
        self.folder = folder

    @contextmanager
    def operator(
        self, namespace: str, own: str, stop_after: int | None
    ) -> Iterator[tuple[KubeProxy, BaseProcess]]:
        """One of that namespace, behind a proxy; killed at the end if it is not yet."""
        with kube_proxy(self.cluster, self.folder, stop_after=stop_after) as proxy:
            environment = operator_environment(
                proxy.kubeconfig, self.folder, namespaces=[namespace], lease_namespace=own, lease_s=4,
                retrieval_target=self.stub.target, system_namespace=own,
            )  # fmt: skip
            with forked_operator(environment, self.folder / "forked.log") as process:
                yield proxy, process

    def settled(self, namespace: str) -> bool:
        """Everything is ready, with its newest generation."""
        found = [
            conditions(item)
            for kind in ("modelconfigs", "knowledgebases", "agentteams")
            for item in self.api.items(f"{GROUP}/{kind}", namespace)
        ]
        return len(found) == 5 and all(
            c.get("Ready") == "Ready" and c.get("Progressing", "UpToDate") == "UpToDate" for c in found
        )

    def events(self, namespace: str) -> Counter[str]:
        found = self.api.items("events.k8s.io/v1/events", namespace)
        ours = [e for e in found if e.get("reportingController") == "agentteams.dev/operator"]
        return Counter(f"{e['regarding']['name']}: {e['reason']} {e.get('note')}" for e in ours)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    cluster = shared_cluster(controllers=True)
    cluster.install_crds()
    with fake_node(cluster), fake_endpoint() as endpoint, retrieval_stub(IdentityKey(KEY)) as stub:
        api = Api(cluster)
        yield World(cluster, api, stub, endpoint, tmp_path_factory.mktemp("killed"))
        api.close()


def custom(kind: str, name: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    return {"apiVersion": GROUP, "kind": kind, "metadata": {"name": name}, "spec": spec}


def team(name: str, **spec: Any) -> dict[str, Any]:
    return custom("AgentTeam", name, {"modelConfigRef": {"name": "m"}, "members": [{"name": "a"}]} | spec)


KEPT = {"embedding": {"modelConfigRef": {"name": "e"}}, "deletionPolicy": "Delete"}
OBJECTS = [
    custom("ModelConfig", "e", {"type": "Embedding", "provider": "BuiltIn"}),
    custom("KnowledgeBase", "docs", KEPT),
    team("t", knowledge=[{"name": "docs", "knowledgeBaseRef": {"name": "docs"}}]),
    team("u", runtime={"replicas": 2}),
]  # fmt: skip


@pytest.mark.parametrize("writes", [4, 19])
def test_the_next_one_finishes_what_a_killed_one_began_and_what_it_had_to_delete(
    world: World, writes: int
) -> None:
    with ExitStack() as stack:
        namespace, own = (stack.enter_context(world.cluster.namespace(name)) for name in ("cut", "own"))
        before = remains(world.api, namespace)
        with world.operator(namespace, own, writes) as (proxy, process):
            world.cluster.apply(model(world.endpoint), *OBJECTS, namespace=namespace)
            eventually(proxy.held.is_set, f"{writes} writes", WAIT_S)
            kill(process)
            assert len(proxy.writes) == writes
        assert not world.settled(namespace)
        with world.operator(namespace, own, None) as (proxy, process):
            eventually(lambda: world.settled(namespace), "the end", WAIT_S)
            twice = {told: times for told, times in world.events(namespace).items() if times > 1}
            assert twice == {}
            kill(process)
        names = ["at/t", "at/u", "kb/docs", "mc/m", "mc/e"]
        world.cluster.kubectl("delete", *names, f"--namespace={namespace}", "--wait=false")
        with world.operator(namespace, own, None):
            eventually(lambda: remains(world.api, namespace) == before, "nothing is left", WAIT_S)
            assert not any(tenant == namespace for tenant, _ in world.stub.there)


def kill(process: BaseProcess) -> None:
    """As the kernel does when memory is short."""
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join(WAIT_S)
    assert process.exitcode == -signal.SIGKILL
