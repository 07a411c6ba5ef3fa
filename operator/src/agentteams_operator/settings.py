"""What the operator reads from the environment."""

from typing import Annotated, Literal

from pydantic import Field

from agentteams_operator.core.quotas import NO_LIMIT, Limited
from agentteams_operator.specs.settings import PoolNetwork
from servicekit.config import ServerSettings


class Settings(ServerSettings):
    """Variables begin with AGENTTEAMS_. The cluster: the pod's account, else KUBECONFIG."""

    namespaces: tuple[str, ...] = Field((), description="Namespaces to watch, as JSON. Default: all.")
    lease_namespace: str = Field("default", description="Namespace of the Lease: the operator's own.")
    lease_s: float = Field(15.0, ge=1, le=600, description="Seconds after which a standby takes over.")
    watch_silent_s: float = Field(
        70.0, ge=1, le=600, description="A watch that says nothing for so long is begun anew."
    )
    resync_s: float = Field(
        600.0,
        ge=1,
        le=86_400,
        description="Each object is looked at again, and endpoints asked, so often at least.",
    )
    workers: int = Field(8, ge=1, le=64, description="Objects that are worked on side by side.")
    orchestrator_image: str = Field("agentteams/orchestrator:dev", description="Image of orchestrators.")
    orchestrator_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    orchestrator_environment: dict[str, str] = Field(
        default_factory=dict,
        description="More variables of orchestrators, as JSON: AGENTTEAMS_SESSION_TARGET, "
        "AGENTTEAMS_RETRIEVAL_TARGET, AGENTTEAMS_EMBEDDING_TARGET, and what BuiltIn means.",
    )
    pool_replicas: int = Field(1, ge=0, le=1000, description="Pods of a namespace's shared orchestrators.")
    pool_max_replicas: int = Field(
        1, ge=1, le=1000, description="More than POOL_REPLICAS: an autoscaler goes up to it."
    )
    pool_scaler: Literal["HPA", "KEDA"] = Field(
        "HPA",
        description="Who scales pools that do not say it: HPA needs a metrics adapter, KEDA Prometheus.",
    )
    prometheus_url: str = Field("", description="Address of the Prometheus that KEDA asks.")
    pool_network: PoolNetwork = Field(
        default_factory=PoolNetwork,
        description="What NetworkPolicies of orchestrators allow, as JSON: enabled, dns, metricsFrom, "
        "modelEndpoints, as networkPolicies of the chart.",
    )
    quotas: dict[Limited, Annotated[int, Field(ge=0, le=NO_LIMIT)]] = Field(
        default_factory=dict, description="Most of each in a namespace that does not say it, as JSON."
    )
    system_namespace: str = Field("agentteams", description="Namespace of the gateway and the services.")
    retrieval_target: str = Field("127.0.0.1:50052", description="host:port of the retrieval service.")
    session_target: str = Field("127.0.0.1:50053", description="host:port of the session service.")
