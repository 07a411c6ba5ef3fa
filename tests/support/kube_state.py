"""What an API server holds, read without kubectl: to compare namespaces, and to find what is left behind."""

import json
import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Any

import httpx
import yaml

from tests.support.kube import Cluster

STATES = (
    "v1/secrets", "v1/services", "v1/serviceaccounts", "apps/v1/deployments", "apps/v1/controllerrevisions",
    "rbac.authorization.k8s.io/v1/roles", "rbac.authorization.k8s.io/v1/rolebindings",
    "networking.k8s.io/v1/networkpolicies", "policy/v1/poddisruptionbudgets",
    "autoscaling/v2/horizontalpodautoscalers", "agentteams.dev/v1alpha1/modelconfigs",
    "agentteams.dev/v1alpha1/knowledgebases", "agentteams.dev/v1alpha1/agentteams",
)  # fmt: skip
_NOT_OURS = ("ServiceAccount/default", "ConfigMap/kube-root-ca.crt")
# What changes from one object to the next of the same wanted state.
_SALTED = ("agentteams.dev/secrets-hash", "agentteams.dev/identity-hash", "secretHash")
_PASSING = ("lastTransitionTime", "clusterIP", "clusterIPs")
_UNSAID = {"apps/v1/deployments", "v1/services", "policy/v1/poddisruptionbudgets"}
_UNSAID |= {"networking.k8s.io/v1/networkpolicies", "autoscaling/v2/horizontalpodautoscalers"}
_QUIET_S = 0.1

State = dict[str, Any]


class Api:
    """Reads, as the administrator."""

    def __init__(self, cluster: Cluster) -> None:
        self._client = httpx.Client(**connection(cluster))

    def get(self, path: str) -> dict[str, Any]:
        """One answer, as JSON."""
        answer = self._client.get(path)
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    def items(self, resource: str, namespace: str = "") -> list[dict[str, Any]]:
        """All objects of `group/version/plural`, with their kind."""
        return _items(self.get(path_of(resource, namespace)))

    def close(self) -> None:
        """Ends the connections."""
        self._client.close()

    @cached_property
    def kinds(self) -> list[str]:
        """All namespaced resources that can be listed."""
        found = [f"v1/{name}" for name in _listable(self.get("/api/v1"))]
        for group in self.get("/apis")["groups"]:
            version = group["preferredVersion"]["groupVersion"]
            found += [f"{version}/{name}" for name in _listable(self.get(f"/apis/{version}"))]
        return found


class AsyncApi:
    """The same, within a loop."""

    def __init__(self, cluster: Cluster) -> None:
        self._client = httpx.AsyncClient(**connection(cluster))

    async def items(self, resource: str, namespace: str) -> list[dict[str, Any]]:
        """All objects of `group/version/plural` in a namespace, with their kind."""
        return _items(await self._get(path_of(resource, namespace)))

    async def namespace(self, name: str) -> dict[str, Any]:
        """The namespace itself."""
        return await self._get(f"/api/v1/namespaces/{name}")

    async def apply(self, resource: str, namespace: str, wanted: Mapping[str, Any]) -> None:
        """Server-side apply, as a user."""
        path = f"{path_of(resource, namespace)}/{wanted['metadata']['name']}"
        query = {"fieldManager": "user", "fieldValidation": "Strict", "force": "true"}
        headers = {"Content-Type": "application/apply-patch+yaml"}
        answer = await self._client.patch(path, params=query, content=json.dumps(wanted), headers=headers)
        assert answer.is_success, answer.text

    async def delete(self, resource: str, namespace: str, name: str) -> None:
        """Begins the deletion."""
        (await self._client.delete(f"{path_of(resource, namespace)}/{name}")).raise_for_status()

    async def create_namespace(self, name: str) -> None:
        """An empty one."""
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        (await self._client.post("/api/v1/namespaces", json=body)).raise_for_status()

    async def patch_status(self, path: str, status: Mapping[str, Any]) -> None:
        """As a controller does it."""
        headers = {"Content-Type": "application/merge-patch+json"}
        body = json.dumps({"status": status})
        (await self._client.patch(f"{path}/status", content=body, headers=headers)).raise_for_status()

    async def close(self) -> None:
        """Ends the connections."""
        await self._client.aclose()

    async def _get(self, path: str) -> dict[str, Any]:
        answer = await self._client.get(path)
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found


def state(api: Api, namespace: str) -> State:
    """What is wanted and said there, by kind and name: equal for two namespaces with the same history."""
    found: State = {}
    for resource in STATES:
        for item in api.items(resource, namespace):
            name = f"{item['kind']}/{item['metadata']['name']}"
            if name in _NOT_OURS:
                continue
            found[name] = _plain(item, said=resource not in _UNSAID)
    text = json.dumps(found, sort_keys=True).replace(namespace, "NAMESPACE")
    plain: State = json.loads(text)
    return plain


def remains(api: Api, namespace: str) -> list[str]:
    """All objects of any kind that are there, but for what every namespace has, events and leases."""
    found = []
    for resource in api.kinds:
        if resource.endswith(("/events", "/leases")):
            continue
        for item in api.items(resource, namespace):
            name = f"{item['kind']}/{item['metadata']['name']}"
            if name not in _NOT_OURS:
                found.append(name)
    return sorted(found)


def eventually(look: Callable[[], object], what: str, wait_s: float) -> None:
    """Until it is true."""
    deadline = time.monotonic() + wait_s
    while not look():
        assert time.monotonic() < deadline, f"{what}: not within {wait_s} s"
        time.sleep(_QUIET_S)


def conditions(item: Mapping[str, Any]) -> dict[str, str]:
    """Reasons by type, of the newest generation only."""
    generation = item["metadata"].get("generation")
    return {
        c["type"]: c["reason"]
        for c in item.get("status", {}).get("conditions", ())
        if c.get("observedGeneration") == generation
    }


def connection(cluster: Cluster) -> dict[str, Any]:
    """Arguments of an HTTP client that reads as the administrator."""
    config = yaml.safe_load(cluster.kubeconfig.read_text())
    server = config["clusters"][0]["cluster"]
    return {
        "base_url": server["server"],
        "verify": ssl.create_default_context(cafile=server["certificate-authority"]),
        "headers": {"Authorization": f"Bearer {config['users'][0]['user']['token']}"},
        "timeout": 20,
    }


def path_of(resource: str, namespace: str) -> str:
    """Of `group/version/plural`, in a namespace or, without one, in all."""
    group_version, _, plural = resource.rpartition("/")
    root = f"/apis/{group_version}" if "/" in group_version else f"/api/{group_version}"
    return f"{root}/namespaces/{namespace}/{plural}" if namespace else f"{root}/{plural}"


def _items(listed: Mapping[str, Any]) -> list[dict[str, Any]]:
    kind = str(listed["kind"]).removesuffix("List")
    return [{"kind": kind, **item} for item in listed.get("items", ())]


def _listable(listing: Mapping[str, Any]) -> Iterable[str]:
    return [r["name"] for r in listing["resources"] if r["namespaced"] and "list" in r["verbs"]]


def _plain(item: Mapping[str, Any], *, said: bool) -> dict[str, Any]:
    metadata = item["metadata"]
    plain = {part: item[part] for part in item if part not in ("metadata", "status", "kind", "apiVersion")}
    if "data" in plain and item["kind"] == "Secret":
        plain["data"] = sorted(plain["data"])
    if said:
        plain["status"] = item.get("status")
    plain["labels"] = metadata.get("labels")
    plain["finalizers"] = metadata.get("finalizers")
    plain["owners"] = [f"{o['kind']}/{o['name']}" for o in metadata.get("ownerReferences", ())]
    plain["deleted"] = "deletionTimestamp" in metadata
    return _without(plain)  # type: ignore[no-any-return]


def _without(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: "salted" if key in _SALTED else _without(below)
            for key, below in value.items()
            if key not in _PASSING
        }
    return [_without(one) for one in value] if isinstance(value, list) else value
