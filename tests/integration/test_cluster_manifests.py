"""Services that follow a real API server instead of a folder."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from manifests import Objects, cluster_source
from tests.support.kube import WHY, LocalCluster, find_assets, temporary_cluster

_PATIENCE_S = 30

CHAT = {"type": "Chat", "provider": "OpenAICompatible", "model": "m", "endpoint": {"url": "https://m/v1"}}
SPEC = {"modelConfigRef": {"name": "chat"}, "members": [{"name": "agent", "instructions": "first"}]}


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """One of its own: its API server is stopped in a test."""
    if find_assets() is None:
        pytest.skip(WHY)
    with temporary_cluster() as cluster:
        cluster.install_crds()
        yield cluster


@pytest.fixture
def namespace(cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))
    with cluster.namespace() as name:
        yield name


def our(kind: str, name: str, spec: Any) -> dict[str, Any]:
    return {"apiVersion": "agentteams.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}


def revision(cluster: LocalCluster, namespace: str, number: int, instructions: str) -> None:
    """What the operator writes for a new revision: the revision, then the one word that serves it."""
    spec = {**SPEC, "members": [{"name": "agent", "instructions": instructions}]}
    cluster.apply(
        {
            "apiVersion": "apps/v1",
            "kind": "ControllerRevision",
            "metadata": {"name": f"help-r{number}", "labels": {"agentteams.dev/team": "help"}},
            "revision": number,
            "data": spec,
        },
        namespace=namespace,
    )
    status = f'{{"status": {{"currentRevision": "r{number}"}}}}'
    cluster.kubectl(
        "patch", "agentteam", "help", f"--namespace={namespace}", "--subresource=status",
        "--type=merge", "-p", status,
    )  # fmt: skip


@asynccontextmanager
async def following(namespace: str | None) -> AsyncIterator[Objects]:
    async with AsyncExitStack() as stack:
        source = cluster_source(stack, namespace=namespace)
        task = asyncio.ensure_future(source.watch())
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await source.ready()
            yield source.objects
        finally:
            task.cancel()
            await asyncio.wait([task])


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(_PATIENCE_S):
        while not true():  # noqa: ASYNC110  what is waited for is in another process
            await asyncio.sleep(0.05)


def instructions(objects: Objects, namespace: str) -> str:
    team = objects.team(namespace, "help")
    return "" if team is None else team.spec.members[0].instructions


async def test_the_revision_that_the_status_names_is_served(cluster: LocalCluster, namespace: str) -> None:
    cluster.apply(our("ModelConfig", "chat", CHAT), our("AgentTeam", "help", SPEC), namespace=namespace)
    async with following(namespace) as objects, following(None) as everywhere:
        assert objects.team(namespace, "help") is None
        assert "no revision" in objects.team_problems(namespace, "help")[0]
        await asyncio.to_thread(revision, cluster, namespace, 1, "one")
        await until(lambda: instructions(objects, namespace) == "one")
        assert objects.team_problems(namespace, "help") == []
        await asyncio.to_thread(revision, cluster, namespace, 2, "two")
        await until(lambda: instructions(objects, namespace) == "two")
        # A service for all tenants sees other namespaces too, one of a tenant does not.
        with cluster.namespace() as other:
            cluster.apply(our("ModelConfig", "chat", CHAT), namespace=other)
            await until(lambda: everywhere.model(other, "chat") is not None)
            assert objects.models(other) == []
        cluster.kubectl("delete", "agentteam", "help", f"--namespace={namespace}", "--wait=false")
        await until(lambda: objects.team(namespace, "help") is None)


async def test_an_api_server_that_was_away_is_followed_again(cluster: LocalCluster, namespace: str) -> None:
    cluster.apply(our("ModelConfig", "chat", CHAT), namespace=namespace)
    async with following(namespace) as objects:
        assert objects.model(namespace, "chat") is not None
        await asyncio.to_thread(cluster.stop_api_server, kill=True)
        await asyncio.sleep(1)
        assert objects.model(namespace, "chat") is not None  # what was known is served
        await asyncio.to_thread(cluster.start_api_server)
        cluster.apply(our("ModelConfig", "late", CHAT), namespace=namespace)
        await until(lambda: objects.model(namespace, "late") is not None)
