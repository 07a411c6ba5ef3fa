"""Settings of this service; the only place that reads the environment."""

from datetime import timedelta
from pathlib import Path

from pydantic import Field, SecretStr, field_validator

from retrieval.core.ingest_limits import IngestLimits
from servicekit.config import ServerSettings


class Settings(ServerSettings):
    """Variables with the prefix AGENTTEAMS_, such as AGENTTEAMS_MILVUS_URI."""

    port: int = Field(50052, ge=0, le=65535)
    milvus_uri: str = Field(
        "http://127.0.0.1:19530",
        description="http(s)://host:port of Milvus Lite (as a server), Standalone or Distributed.",
    )
    milvus_token: SecretStr = Field(SecretStr(""), description="API key or user:password.")
    milvus_timeout_s: float = Field(10.0, gt=0)
    embedding_target: str = Field("127.0.0.1:50051", description="host:port of the embedding service.")
    embedding_query_timeout_s: float = Field(10.0, gt=0)
    database_url: SecretStr = Field(
        SecretStr("sqlite:///retrieval.db"),
        description="sqlite:///file or postgresql://user:password@host/database.",
    )
    auto_migrate: bool = Field(
        False, description="Migrate the catalogue at start; on a cluster run `python -m retrieval migrate`."
    )
    blob_dir: Path = Field(Path("originals"), description="Folder of the uploaded originals.")
    tokenizer_file: Path | None = Field(
        None, description="tokenizer.json of the embedding model; none: tokens are estimated."
    )
    max_document_bytes: int = Field(64 * 1024 * 1024, gt=0)
    max_chunks_per_document: int = Field(50_000, gt=0, le=99_999)
    snapshot_ttl_s: float = Field(2.0, gt=0, description="How late changes of other replicas are seen.")
    rerank_timeout_s: float = Field(10.0, gt=0)
    hybrid_budget_s: float = Field(0.1, ge=0, description="With less time left, only vectors are compared.")
    ingest: bool = Field(
        True,
        description="Run the ingest worker in this process; false where `python -m retrieval worker` runs.",
    )
    ingest_parallel: int = Field(2, ge=1, le=64)
    ingest_batch: int = Field(32, ge=1, le=256)
    ingest_batch_tokens: int = Field(4096, ge=64, le=1_000_000)
    ingest_lease_s: float = Field(60.0, ge=3)
    ingest_patience_s: float = Field(600.0, ge=0, description="Outages that last longer fail documents.")
    parse_timeout_s: float = Field(60.0, gt=0)
    parse_memory_mb: int = Field(1024, ge=256)

    @field_validator("milvus_uri")
    @classmethod
    def _check_uri(cls, value: str) -> str:
        if not value.startswith(("http://", "https://", "tcp://", "unix:")):
            raise ValueError(
                f"must be http://host:port or https://host:port, got {value!r}; a file is opened by "
                "`milvus-lite server --data-dir FOLDER --host 127.0.0.1 --port 19530 --max-workers 1`"
            )
        return value

    def ingest_limits(self) -> IngestLimits:
        """As the worker wants them."""
        return IngestLimits(
            parallel=self.ingest_parallel,
            batch=self.ingest_batch,
            batch_tokens=self.ingest_batch_tokens,
            lease=timedelta(seconds=self.ingest_lease_s),
            patience=timedelta(seconds=self.ingest_patience_s),
        )


class WorkerSettings(Settings):
    """Of `python -m retrieval worker`: the same, at a port of its own, where only its health is served."""

    port: int = Field(50062, ge=0, le=65535)
    ingest: bool = True
