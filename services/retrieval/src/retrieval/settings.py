"""Settings of this service; the only place that reads the environment."""

from datetime import timedelta
from pathlib import Path

from pydantic import Field, SecretStr, field_validator

from capacity import parse_bytes
from retrieval.adapters.originals import S3Access, check_address, open_blobs
from retrieval.core.ingest_limits import IngestLimits
from retrieval.core.original_sweep import ListedBlobs
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
    milvus_memory: str = Field(
        "",
        description="Memory of all its query nodes together, such as 16Gi, where Milvus does not say it "
        "or another bound holds; empty: what Milvus says.",
    )
    embedding_target: str = Field("127.0.0.1:50051", description="host:port of the embedding service.")
    embedding_query_timeout_s: float = Field(10.0, gt=0)
    database_url: SecretStr = Field(
        SecretStr("sqlite:///retrieval.db"),
        description="sqlite:///file or postgresql://user:password@host/database.",
    )
    auto_migrate: bool = Field(
        False, description="Migrate the catalogue at start; on a cluster run `python -m retrieval migrate`."
    )
    originals: str = Field(
        "", description="file:///folder or s3://bucket/prefix of the uploads; empty: the folder blob_dir."
    )
    blob_dir: Path = Field(Path("originals"), description="Folder of the uploads if originals is empty.")
    s3_endpoint: str = Field("", description="http(s)://host:port of an S3 server; empty: Amazon's.")
    s3_region: str = "us-east-1"
    s3_access_key_id: str = Field("", description="Empty: from s3_credentials_file, else the machine's role.")
    s3_secret_access_key: SecretStr = SecretStr("")
    s3_credentials_file: Path | None = Field(
        None, description="As Amazon's tools write it, section [default]; read again every 5 minutes."
    )
    scratch_dir: Path | None = Field(
        None, description="Where originals from S3 are put to be parsed; none: the system's temporary folder."
    )
    source_root: Path | None = Field(
        None, description="Has a folder for each tenant, below which sources may be; none: no sources."
    )
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
    sample_queries: bool = Field(
        True, description="Keep some vectors of queries, never their texts, to tune indexes with."
    )
    tuning_queries: int = Field(5_000, ge=20, le=10_000, description="Of one tuning of an index.")
    tuning_min_chunks: int = Field(2_000, ge=0, description="With fewer, nothing is tuned by itself.")
    tuning_check_hours: float = Field(6.0, gt=0, description="How often the recall is checked.")
    quality_poll_s: float = Field(
        5.0, gt=0, description="How often knowledge bases that are due to be evaluated are looked for."
    )
    ingest_parallel: int = Field(2, ge=1, le=64)
    ingest_batch: int = Field(32, ge=1, le=256)
    ingest_batch_tokens: int = Field(4096, ge=64, le=1_000_000)
    ingest_lease_s: float = Field(60.0, ge=3)
    ingest_sweep_s: float = Field(
        30.0, gt=0, description="How often deletions that were left half done are looked for."
    )
    ingest_patience_s: float = Field(600.0, ge=0, description="Outages that last longer fail documents.")
    reconcile_hours: float = Field(
        6.0, gt=0, description="Between two comparisons of a knowledge base's catalogue with Milvus."
    )
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

    @field_validator("milvus_memory")
    @classmethod
    def _check_memory(cls, value: str) -> str:
        if value:
            parse_bytes("milvus_memory", value, smallest=1)
        return value

    @field_validator("originals")
    @classmethod
    def _check_originals(cls, value: str) -> str:
        if value:
            check_address(value)
        return value

    def blobs(self) -> ListedBlobs:
        """Where originals are kept."""
        return open_blobs(
            self.originals,
            folder=self.blob_dir,
            s3=S3Access(
                endpoint=self.s3_endpoint,
                region=self.s3_region,
                access_key_id=self.s3_access_key_id,
                secret_access_key=self.s3_secret_access_key.get_secret_value(),
                credentials_file=self.s3_credentials_file,
            ),
            scratch=self.scratch_dir,
        )

    def milvus_memory_bytes(self) -> int | None:
        """None: Milvus is asked."""
        return parse_bytes("milvus_memory", self.milvus_memory) if self.milvus_memory else None

    def ingest_limits(self) -> IngestLimits:
        """As the worker wants them."""
        return IngestLimits(
            parallel=self.ingest_parallel,
            batch=self.ingest_batch,
            batch_tokens=self.ingest_batch_tokens,
            lease=timedelta(seconds=self.ingest_lease_s),
            patience=timedelta(seconds=self.ingest_patience_s),
            sweep=timedelta(seconds=self.ingest_sweep_s),
        )


class WorkerSettings(Settings):
    """Of `python -m retrieval worker`: the same, at a port of its own, where only its health is served."""

    port: int = Field(50062, ge=0, le=65535)
    ingest: bool = True
