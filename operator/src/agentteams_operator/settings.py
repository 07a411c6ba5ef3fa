"""What the operator reads from the environment."""

from pydantic import Field

from servicekit.config import ServerSettings


class Settings(ServerSettings):
    """Variables begin with AGENTTEAMS_. The cluster: the pod's account, else KUBECONFIG."""

    namespaces: tuple[str, ...] = Field((), description="Namespaces to watch, as JSON. Default: all.")
    lease_namespace: str = Field("default", description="Namespace of the Lease: the operator's own.")
    lease_s: float = Field(15.0, ge=1, le=600, description="Seconds after which a standby takes over.")
    workers: int = Field(8, ge=1, le=64, description="Objects that are worked on side by side.")
    retrieval_target: str = Field("127.0.0.1:50052", description="host:port of the retrieval service.")
