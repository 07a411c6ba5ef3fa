"""A team that other namespaces may ask: the API server and the operator together."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_operator_knowledge import apply, kubectl
from tests.integration.test_operator_teams import team
from tests.support.kube import Cluster, shared_cluster
from tests.support.operator_process import WAIT_S, fake_endpoint, model, running_operator

pytestmark = pytest.mark.slow
SELECTOR = {"from": "Selector", "selector": {"matchLabels": {"rag": "yes"}}}


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    cluster = shared_cluster()
    cluster.install_crds()
    return cluster


async def until_allowed(cluster: Cluster, namespace: str, *wanted: str) -> dict[str, Any]:
    async with asyncio.timeout(WAIT_S):
        while True:
            found: dict[str, Any] = json.loads(
                await kubectl(cluster, "-n", namespace, "get", "at/t", "-o", "json")
            )
            if found.get("status", {}).get("allowedTenants", []) == list(wanted) and "status" in found:
                return found
            await asyncio.sleep(0.2)


async def test_the_owner_of_a_team_allows_by_labels_and_takes_it_back(
    cluster: Cluster, tmp_path: Path
) -> None:
    with (
        cluster.namespace("owner") as owner,
        cluster.namespace("user") as user,
        fake_endpoint() as endpoint,
        running_operator(
            cluster, tmp_path, namespaces=[owner, user], lease_namespace=owner, lease_s="6"
        ) as operator,
    ):
        await apply(cluster, owner, model(endpoint), team(allowedNamespaces=SELECTOR))
        before = await until_allowed(cluster, owner)
        await kubectl(cluster, "label", "namespace", user, "rag=yes")
        allowed = await until_allowed(cluster, owner, user)
        # Who may ask is no part of a revision.
        assert allowed["status"]["updatedRevision"] == before["status"]["updatedRevision"]
        await kubectl(cluster, "label", "namespace", user, "rag-")
        await until_allowed(cluster, owner)
        await apply(cluster, owner, team(allowedNamespaces={"from": "All"}))
        await until_allowed(cluster, owner, "*")
        assert "Traceback" not in operator.log
