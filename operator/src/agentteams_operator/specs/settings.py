"""What all pools of orchestrators have in common: from the operator's settings."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


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
