"""Who says how many pods a pool has: a HorizontalPodAutoscaler or KEDA, never both, or nobody."""

from dataclasses import dataclass
from typing import Any, Literal

from agentteams_operator.core.objects import SCALER
from agentteams_operator.specs.settings import PoolSettings
from manifests import Runtime

METRIC = "agentteams_active_runs"
HPA, SCALED_OBJECT = SCALER, "ScaledObject"
SCALERS = (HPA, SCALED_OBJECT)

Scaler = Literal["HPA", "KEDA"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """How a pool is scaled."""

    by: Scaler
    low: int
    high: int
    target: int


def scaling_of(runtime: Runtime, settings: PoolSettings, *, shared: bool) -> Scaling | None:
    """What is asked for; None: the number of pods is fixed."""
    wanted = runtime.autoscaling
    if wanted is not None:
        return Scaling(
            by=wanted.type or settings.scaler,
            low=wanted.min_replicas,
            high=wanted.max_replicas,
            target=wanted.target_active_runs,
        )
    if shared and settings.max_replicas > settings.replicas:
        return Scaling(
            by=settings.scaler,
            low=settings.replicas,
            high=settings.max_replicas,
            target=settings.target_active_runs,
        )
    return None


def horizontal_pod_autoscaler(pool: str, wanted: Scaling) -> dict[str, Any]:
    """The spec. Needs an adapter that serves the metric of pods."""
    average = {"type": "AverageValue", "averageValue": str(wanted.target)}
    return {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": pool},
        "minReplicas": wanted.low,
        "maxReplicas": wanted.high,
        "metrics": [{"type": "Pods", "pods": {"metric": {"name": METRIC}, "target": average}}],
    }


def scaled_object(namespace: str, pool: str, wanted: Scaling, settings: PoolSettings) -> dict[str, Any]:
    """The spec: runs of this pool's pods, as Prometheus has them."""
    # Pods of a Deployment: its name and two parts without '-', so that pool a is not pool a-b.
    pods = f"{pool}-[a-z0-9]+-[a-z0-9]+"
    return {
        "scaleTargetRef": {"name": pool},
        "minReplicaCount": wanted.low,
        "maxReplicaCount": wanted.high,
        "triggers": [
            {
                "type": "prometheus",
                "metricType": "AverageValue",
                "metadata": {
                    "serverAddress": settings.prometheus_url,
                    "query": f'sum({METRIC}{{namespace="{namespace}",pod=~"{pods}"}})',
                    "threshold": str(wanted.target),
                },
            }
        ],
    }
