"""What the orchestrator reads from the environment."""

from pathlib import Path

from pydantic import Field, SecretStr, model_validator

from servicekit.config import ServerSettings


class Settings(ServerSettings):
    """Variables begin with AGENTTEAMS_, such as AGENTTEAMS_SESSION_TARGET."""

    session_target: str = Field("127.0.0.1:50053", description="host:port of the session service.")
    retrieval_target: str = Field("127.0.0.1:50052", description="host:port of the retrieval service.")
    embedding_target: str = Field("127.0.0.1:50051", description="host:port of the embedding service.")
    teams_target: str = Field(
        "",
        description="host:port of other namespaces' orchestrators; {service} and {namespace} in it are "
        "filled in. Default: this process, which serves all namespaces in local mode.",
    )
    advertise_address: str = Field(
        "", description="host:port where other orchestrators can call this one. Default: where it listens."
    )
    pool_team: str = Field(
        "", description="The only team whose runs this process works on. Default: all that have no such pool."
    )
    lease_s: float = Field(
        3.0, ge=1, le=600, description="Seconds after which others take over the runs of a silent process."
    )
    renew_s: float = Field(1.0, gt=0, description="Seconds between renewals; less than half of LEASE_S.")
    manifests_dir: Path | None = Field(None, description="Folder of manifests, watched for changes.")
    manifests_cluster: bool = Field(
        False, description="Follow the custom resources of the identity key's tenant instead of a folder."
    )
    secrets_dir: Path | None = Field(None, description="Folder where Secrets are mounted, <name>/<key>.")
    python_tools_dir: Path | None = Field(
        None,
        description="Folder that teams may take Python modules from as tools. Only for local mode: what they "
        "do, this process does. Default: no team may.",
    )
    tokenizers_dir: Path | None = Field(
        None, description="Folder of tokenizers, <ModelConfig>.json each. Default: tokens are estimated."
    )
    builtin_chat_url: str | None = Field(None, description="What provider BuiltIn means: base URL with /v1.")
    builtin_chat_model: str = Field("", description="Model name at that URL.")
    builtin_chat_context_tokens: int | None = Field(
        None, ge=256, description="What that model can read and write in one call. Default: not known."
    )
    builtin_chat_api_key: SecretStr = Field(SecretStr(""), description="Its API key, where it needs one.")

    @model_validator(mode="after")
    def _one_source(self) -> "Settings":
        if (self.manifests_dir is None) != self.manifests_cluster:
            raise ValueError(
                "set AGENTTEAMS_MANIFESTS_DIR to a folder, or AGENTTEAMS_MANIFESTS_CLUSTER=true on a "
                "cluster, and not both"
            )
        return self

    @model_validator(mode="after")
    def _renews_in_time(self) -> "Settings":
        if self.renew_s >= self.lease_s / 2:
            raise ValueError(
                f"AGENTTEAMS_RENEW_S is {self.renew_s}: it must be less than half of AGENTTEAMS_LEASE_S, "
                f"{self.lease_s}, or one late renewal loses every run"
            )
        return self

    @property
    def address(self) -> str:
        """Where others call this process; empty if nobody can know."""
        if self.advertise_address or not self.port or self.host in ("0.0.0.0", "::"):
            return self.advertise_address
        return f"{self.host}:{self.port}"
