"""Settings, read from the environment."""

from datetime import timedelta

from pydantic import Field
from pydantic_settings import BaseSettings

from servicekit.config import FROM_ENVIRONMENT, ServerSettings
from session.adapters.blobs import OFFLOAD_BYTES
from session.adapters.database import PoolLimits
from session.core.quotas import Quota


class DatabaseSettings(BaseSettings):
    """What `python -m session migrate` needs, and the server too."""

    model_config = FROM_ENVIRONMENT

    session_database_url: str = Field(
        description="sqlite:///path/to/file.db or postgresql+asyncpg://user:password@host:5432/name."
    )
    session_pool_size: int = Field(10, ge=1, le=200, description="Connections to Postgres; SQLite readers.")
    session_pool_timeout_s: float = Field(
        5.0, gt=0, description="How long a call waits for a connection before UNAVAILABLE."
    )
    session_statement_timeout_s: float = Field(
        15.0, gt=0, description="How long one statement may take on Postgres."
    )

    def limits(self) -> PoolLimits:
        """How much of the database this process may use."""
        return PoolLimits(
            connections=self.session_pool_size,
            timeout=timedelta(seconds=self.session_pool_timeout_s),
            statement_timeout=timedelta(seconds=self.session_statement_timeout_s),
        )


class Settings(DatabaseSettings, ServerSettings):
    """Variables with the prefix AGENTTEAMS_, such as AGENTTEAMS_SESSION_DATABASE_URL."""

    port: int = Field(50053, ge=0, le=65535, description="Port to listen on; 0 picks a free one.")
    session_auto_migrate: bool = Field(
        False, description="Migrate the schema at the start; for one machine. A cluster runs a job."
    )
    session_offload_bytes: int = Field(
        OFFLOAD_BYTES,
        ge=0,
        description="Larger messages and events leave their rows; 0: none does, as code before schema"
        " 0005 needs it while it runs beside this one.",
    )
    session_sweep_interval_s: float = Field(
        60.0, ge=1, description="Pause between two searches for sessions whose retention is over."
    )

    session_max_followers: int = Field(
        2_000, ge=1, description="Calls that may wait for events of runs at a time."
    )

    session_max_concurrent_runs: int | None = Field(
        None,
        ge=0,
        description="Runs that a tenant may have at a time, unless the operator says another number."
        " Default: any number.",
    )

    def default_quota(self) -> Quota | None:
        """For tenants of which nobody has said one."""
        most = self.session_max_concurrent_runs
        source = "AGENTTEAMS_SESSION_MAX_CONCURRENT_RUNS of the session service"
        return None if most is None else Quota(most=most, source=source)

    def sweep_interval(self) -> timedelta:
        """As a duration."""
        return timedelta(seconds=self.session_sweep_interval_s)
