"""Calls between namespaces: which pods may reach which, in one policy beside those of the pools."""

from collections.abc import Sequence
from typing import Any

from agentteams_operator.core.objects import MANAGED_BY, MANAGER, POOL_LABEL, SHARED
from agentteams_operator.core.sharing import EVERYONE

NAME = "agentteams-calls"
_NAMESPACE_NAME = "kubernetes.io/metadata.name"


def calls_policy(
    namespace: str, *, pods: dict[str, str], port: int, callers: Sequence[str], owners: Sequence[str]
) -> list[dict[str, Any]]:
    """The NetworkPolicy that lets calls through, in and out; none where there are no calls.

    Args:
        namespace: Whose pods it is about.
        pods: Labels of orchestrators.
        port: Where they serve.
        callers: Namespaces whose orchestrators may call.
        owners: Namespaces whose teams are called.
    """
    ports = [{"port": port, "protocol": "TCP"}]
    spec: dict[str, Any] = {"podSelector": {"matchLabels": pods}, "policyTypes": []}
    for direction, side, others in (("Ingress", "from", callers), ("Egress", "to", owners)):
        if others:
            peer = {"namespaceSelector": _namespaces(others), "podSelector": {"matchLabels": pods}}
            spec["policyTypes"].append(direction)
            spec[direction.lower()] = [{side: [peer], "ports": ports}]
    if not spec["policyTypes"]:
        return []
    labels = {**pods, MANAGED_BY: MANAGER, POOL_LABEL: SHARED}
    metadata = {"name": NAME, "namespace": namespace, "labels": labels}
    return [
        {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec}
    ]


def _namespaces(names: Sequence[str]) -> dict[str, Any]:
    if EVERYONE in names:
        return {}
    one_of = {"key": _NAMESPACE_NAME, "operator": "In", "values": sorted(names)}
    return {"matchExpressions": [one_of]}
