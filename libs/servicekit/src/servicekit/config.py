"""Settings that every service has. The only place, with each service's own
`settings.py`, that reads the environment."""

import os
from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

FROM_ENVIRONMENT = SettingsConfigDict(
    env_prefix="AGENTTEAMS_",
    frozen=True,
    extra="ignore",
    hide_input_in_errors=True,  # a wrong setting may be a key that stands in the wrong variable
    # What must not stand in an environment is mounted: a file for each, such as agentteams_database_url.
    secrets_dir=os.environ.get("AGENTTEAMS_SETTINGS_DIR"),
)
"""Variables with the prefix AGENTTEAMS_, and files of the folder that AGENTTEAMS_SETTINGS_DIR names."""


class TraceSettings(BaseSettings):
    """What becomes of traces (docs/telemetry.md)."""

    model_config = FROM_ENVIRONMENT

    otlp_endpoint: str | None = Field(None, description="OTLP/gRPC collector for traces; none: no traces.")
    trace_ratio: float = Field(
        0.05, ge=0, le=1, description="Share of traces that are kept whatever becomes of them."
    )
    trace_slow_s: float = Field(10.0, gt=0, description="Runs that take longer are kept.")
    trace_content: bool = Field(
        False, description="Whether prompts and answers are part of traces; whoever reads traces reads them."
    )


class ServerSettings(TraceSettings):
    """Read from variables with the prefix AGENTTEAMS_, such as AGENTTEAMS_PORT."""

    model_config = FROM_ENVIRONMENT

    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 in a container.")
    port: int = Field(0, ge=0, le=65535, description="Port to listen on; 0 picks a free one.")
    metrics_port: int = Field(0, ge=0, le=65535, description="Port of /metrics; 0 switches it off.")
    identity_key_file: Path = Field(description="File with the key that signs tokens between services.")
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    drain_delay_s: float = Field(
        0.0, ge=0, description="Seconds between NOT_SERVING and the end of new calls; 5 on a cluster."
    )
    grace_s: float = Field(20.0, ge=0, description="Seconds that calls in flight get at a stop.")
