"""What all pools of orchestrators have in common: from the operator's settings."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

Peers = tuple[dict[str, Any], ...]
"""As `from` or `to` of a NetworkPolicy has them; the API server checks them."""


class PoolNetwork(BaseModel):
    """What the installation's NetworkPolicies allow, for pools too.

    Attributes:
        enabled: Pools have NetworkPolicies.
        dns: Where names are looked up.
        metrics_from: Who may read metrics; none: nobody.
        model_endpoints: Networks, as ipBlock, of model endpoints and MCP servers; none: only what is in the
            namespace.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=True)

    enabled: bool = True
    dns: Peers = ({"namespaceSelector": {}},)
    metrics_from: Peers = ({"namespaceSelector": {}},)
    # Anywhere, but not where clouds hand out credentials.
    model_endpoints: Peers = (
        {"cidr": "0.0.0.0/0", "except": ["169.254.0.0/16"]},
        {"cidr": "::/0", "except": ["fe80::/10", "fd00:ec2::254/128"]},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSettings:
    """What orchestrators are made of.

    Attributes:
        image: Of the orchestrator.
        environment: Its other variables: where the services are, what BuiltIn means.
        replicas: Of the pool that a namespace shares, where nothing scales it.
        max_replicas: More than `replicas`: the shared pool is scaled up to it.
        scaler: Who scales what does not say it.
        prometheus_url: What KEDA asks.
        system_namespace: Where gateway and services are.
        network: What NetworkPolicies allow.
    """

    image: str
    environment: Mapping[str, str] = field(default_factory=dict)
    pull_policy: str = "IfNotPresent"
    replicas: int = 1
    max_replicas: int = 1
    target_active_runs: int = 20
    scaler: Literal["HPA", "KEDA"] = "HPA"
    prometheus_url: str = ""
    requests: Mapping[str, str] = field(default_factory=lambda: {"cpu": "100m", "memory": "192Mi"})
    limits: Mapping[str, str] = field(default_factory=lambda: {"memory": "512Mi"})
    system_namespace: str = "agentteams"
    network: PoolNetwork = field(default_factory=PoolNetwork)
