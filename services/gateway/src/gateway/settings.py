"""Settings of the gateway, from variables with the prefix AGENTTEAMS_."""

import ipaddress
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from servicekit.config import ServerSettings


class Settings(ServerSettings):
    """All that an operator can turn."""

    port: int = Field(8080, ge=0, le=65535, description="HTTP port to listen on; 0 picks a free one.")
    orchestrator_target: str = Field(
        "127.0.0.1:50054",
        description="`host:port` of the orchestrator; on a cluster `{service}.{namespace}.svc:50054`, "
        "which is filled in with the caller's.",
    )
    session_target: str = Field(
        "127.0.0.1:50053", description="`host:port` of the session service, for what is stored."
    )
    api_keys_file: Path | None = Field(
        None, description="YAML or JSON file of API keys; without one only loopback is served."
    )
    start_timeout_s: float = Field(15.0, gt=0, description="Seconds that accepting a question may take.")
    run_timeout_s: float = Field(900.0, gt=0, description="Seconds that a client may follow one run.")
    reconnect_s: float = Field(30.0, ge=0, description="Seconds to find a lost run's stream again.")
    keep_alive_s: float = Field(15.0, gt=0, description="Seconds of silence after which a stream says so.")
    max_body_bytes: int = Field(1024 * 1024, gt=0, description="Largest request body.")
    max_turns: int = Field(1000, gt=0, description="Questions that may be open at once.")

    @model_validator(mode="after")
    def _only_loopback_without_keys(self) -> Self:
        if self.api_keys_file is None and not is_loopback(self.host):
            raise ValueError(
                f"host {self.host}: without API keys only loopback is served; "
                "set AGENTTEAMS_API_KEYS_FILE, or AGENTTEAMS_HOST=127.0.0.1"
            )
        return self


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
