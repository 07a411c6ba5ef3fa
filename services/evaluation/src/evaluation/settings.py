"""Settings, read from the environment."""

from datetime import timedelta
from pathlib import Path

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import SettingsConfigDict

from evaluation.core.golden_worker import GoldenLimits
from servicekit.config import ServerSettings


class Settings(ServerSettings):
    """Variables begin with AGENTTEAMS_, such as AGENTTEAMS_SESSION_TARGET."""

    # A refused setting is logged, and one of them is a key.
    model_config = SettingsConfigDict(hide_input_in_errors=True)

    port: int = Field(50056, ge=0, le=65535, description="Port to listen on; 0 picks a free one.")
    session_target: str = Field("127.0.0.1:50053", description="host:port of the session service.")
    embedding_target: str = Field("127.0.0.1:50051", description="host:port of the embedding service.")
    orchestrator_target: str = Field(
        "127.0.0.1:50054",
        description="host:port of the orchestrator; {service} and {namespace} in it are filled in.",
    )
    manifests_dir: Path | None = Field(None, description="Folder of manifests, watched for changes.")
    manifests_cluster: bool = Field(
        False,
        description="Follow the custom resources of every namespace of the cluster instead of a folder.",
    )
    secrets_dir: Path | None = Field(
        None,
        description="Secrets of ModelConfigs: files <name>/<key>; on a cluster <namespace>__<name>__<key>.",
    )
    builtin_chat_url: str | None = Field(None, description="What provider BuiltIn means: base URL with /v1.")
    builtin_chat_model: str = Field("", description="Model name at that URL.")
    builtin_chat_api_key: SecretStr = Field(SecretStr(""), description="Its API key, where it needs one.")
    evaluation_parallel_runs: int = Field(2, ge=1, le=64, description="Runs that are scored at a time.")
    evaluation_poll_s: float = Field(2.0, gt=0, description="Pause when no run waits.")
    evaluation_lease_s: float = Field(
        300.0,
        ge=1,
        le=600,
        description="How long a claimed run is left to this process; a bound for one run.",
    )
    evaluation_max_age_h: float = Field(24.0, gt=0, description="A run that waited longer is given up.")
    evaluation_judge_calls_per_minute: int = Field(
        120, ge=1, description="Calls of judge models, all teams together; runs wait beyond it."
    )
    evaluation_judge_tokens_per_minute: int = Field(
        200_000, ge=1, description="Their tokens, sent and written."
    )
    evaluation_remembered_answers: int = Field(
        20_000, ge=1, description="Answers of judges that are not asked for again."
    )
    evaluation_max_golden_runs: int = Field(
        2, ge=1, le=64, description="Golden set runs at a time; one more is refused."
    )
    evaluation_scheduled_golden_sets: int = Field(
        2, ge=1, le=64, description="Golden sets that are asked by schedule at a time."
    )
    evaluation_golden_poll_s: float = Field(
        10.0, gt=0, description="How often golden sets that are due are looked for."
    )
    evaluation_golden_lease_s: float = Field(
        120.0, ge=2, le=600, description="How long one is left to a process that says nothing."
    )

    @model_validator(mode="after")
    def _one_source(self) -> "Settings":
        if (self.manifests_dir is None) != self.manifests_cluster:
            raise ValueError(
                "set AGENTTEAMS_MANIFESTS_DIR to a folder, or AGENTTEAMS_MANIFESTS_CLUSTER=true on a "
                "cluster, and not both"
            )
        return self

    def lease(self) -> timedelta:
        """As a duration."""
        return timedelta(seconds=self.evaluation_lease_s)

    def golden_limits(self) -> GoldenLimits:
        """Of golden sets that are asked by schedule."""
        return GoldenLimits(
            poll=timedelta(seconds=self.evaluation_golden_poll_s),
            lease=timedelta(seconds=self.evaluation_golden_lease_s),
            parallel=self.evaluation_scheduled_golden_sets,
        )
