"""A team that other namespaces may ask: the API server and the operator together."""

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import pytest

from servicekit.calls import CallKey
from servicekit.testing import TEST_KEY
from tests.integration.test_operator_knowledge import apply, kubectl
from tests.integration.test_operator_teams import team
from tests.support.kube import Cluster
from tests.support.operator_process import WAIT_S, await_condition, fake_endpoint, model, running_operator

pytestmark = pytest.mark.slow
SELECTOR = {"from": "Selector", "selector": {"matchLabels": {"rag": "yes"}}}


async def until_allowed(cluster: Cluster, namespace: str, *wanted: str) -> dict[str, Any]:
    async with asyncio.timeout(WAIT_S):
        while True:
            found: dict[str, Any] = json.loads(
                await kubectl(cluster, "-n", namespace, "get", "at/t", "-o", "json")
            )
            if found.get("status", {}).get("allowedTenants", []) == list(wanted) and "status" in found:
                return found
            await asyncio.sleep(0.2)


async def identity(cluster: Cluster, namespace: str) -> dict[str, str]:
    found = await kubectl(cluster, "-n", namespace, "get", "secret/agentteams-identity", "-o", "json")
    data: dict[str, str] = json.loads(found)["data"]
    return data


async def calls_of(cluster: Cluster, namespace: str) -> dict[str, str]:
    """Directions of the policy of calls, each with the one namespace that it names."""
    listed = json.loads(await kubectl(cluster, "-n", namespace, "get", "networkpolicies", "-o", "json"))[
        "items"
    ]
    found = {}
    for one in listed:
        if one["metadata"]["name"] == "agentteams-calls":
            for direction, side in (("Ingress", "from"), ("Egress", "to")):
                for rule in one["spec"].get(direction.lower(), ()):
                    (expression,) = rule[side][0]["namespaceSelector"]["matchExpressions"]
                    (found[direction],) = expression["values"]
    return found


async def until_calls(cluster: Cluster, namespace: str, wanted: dict[str, str]) -> None:
    async with asyncio.timeout(WAIT_S):
        while await calls_of(cluster, namespace) != wanted:  # noqa: ASYNC110
            await asyncio.sleep(0.2)


async def test_the_owner_of_a_team_allows_by_labels_and_takes_it_back(
    cluster: Cluster, tmp_path: Path
) -> None:
    with (
        cluster.namespace("owner") as owner,
        cluster.namespace("user") as user,
        fake_endpoint() as endpoint,
        running_operator(
            cluster,
            tmp_path,
            namespaces=[owner, user],
            lease_namespace=owner,
            lease_s="6",
            key=TEST_KEY.to_file(),
        ) as operator,
    ):
        await apply(cluster, owner, model(endpoint), team(allowedNamespaces=SELECTOR))
        members = [{"name": "a"}, {"name": "theirs", "teamRef": {"name": "t", "namespace": owner}}]
        await apply(cluster, user, model(endpoint), team(members=members))
        await asyncio.to_thread(await_condition, cluster, user, "at/t", "ResolvedRefs", "RefNotPermitted")
        before = await until_allowed(cluster, owner)
        assert await calls_of(cluster, owner) == await calls_of(cluster, user) == {}
        await kubectl(cluster, "label", "namespace", user, "rag=yes")
        await asyncio.to_thread(await_condition, cluster, user, "at/t", "ResolvedRefs", "AllFound")
        allowed = await until_allowed(cluster, owner, user)
        # Exactly these pods reach those, with a key for that and nothing else.
        await until_calls(cluster, owner, {"Ingress": user})
        await until_calls(cluster, user, {"Egress": owner})
        key = CallKey.read(base64.b64decode((await identity(cluster, user))[f"call-{owner}"]))
        assert key == CallKey.of(TEST_KEY, owner=owner, home=user)
        assert set(await identity(cluster, owner)) == {"key"}
        # Who may ask is no part of a revision.
        assert allowed["status"]["updatedRevision"] == before["status"]["updatedRevision"]
        await kubectl(cluster, "label", "namespace", user, "rag-")
        await until_allowed(cluster, owner)
        await asyncio.to_thread(await_condition, cluster, user, "at/t", "ResolvedRefs", "RefNotPermitted")
        await until_calls(cluster, owner, {})
        await until_calls(cluster, user, {})
        assert set(await identity(cluster, user)) == {"key"}
        await apply(cluster, owner, team(allowedNamespaces={"from": "All"}))
        await until_allowed(cluster, owner, "*")
        assert "Traceback" not in operator.log
