"""The catalogue's tables. Times are milliseconds since 1970, so that every database compares them alike."""

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    func,
)

metadata = MetaData()

knowledge_bases = Table(
    "knowledge_bases",
    metadata,
    Column("tenant", String(253), primary_key=True),
    Column("id", String(63), primary_key=True),
    Column("embedding_model", String(300), nullable=False),
    Column("max_tokens", Integer, nullable=False),
    Column("overlap_tokens", Integer, nullable=False),
    Column("search_mode", Integer, nullable=False),
    Column("dimension", Integer, nullable=False),
    Column("model_fingerprint", String(200), nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("alias", String(255), nullable=False),
    Column("collection", String(255), nullable=False),
    Column("create_time_ms", BigInteger, nullable=False),
    # Set: it is being deleted and seen by nobody.
    Column("delete_time_ms", BigInteger),
    # Grows with each change of the spec. Absent from rows that version 0001 wrote: 1.
    Column("generation", BigInteger, nullable=False, server_default="1"),
    # The rest of the spec, as JSON; absent: its defaults.
    Column("spec", Text),
)

documents = Table(
    "documents",
    metadata,
    Column("tenant", String(253), primary_key=True),
    Column("knowledge_base", String(63), primary_key=True),
    Column("id", String(26), primary_key=True),
    Column("path", String(1024), nullable=False),
    Column("media_type", String(100), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("blob", String(500), nullable=False),
    Column("state", Integer, nullable=False),
    Column("error_reason", String(64)),
    Column("error_message", Text),
    Column("chunk_count", Integer, nullable=False),
    Column("warnings", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("first_failure_ms", BigInteger),
    # Not to be claimed before.
    Column("due_ms", BigInteger, nullable=False),
    Column("lease_token", String(26)),
    Column("lease_until_ms", BigInteger, nullable=False),
    Column("create_time_ms", BigInteger, nullable=False),
    Column("update_time_ms", BigInteger, nullable=False),
    Column("delete_time_ms", BigInteger),
    # When it began to wait.
    Column("queued_ms", BigInteger),
    # Claims that ended with their worker.
    Column("interruptions", Integer, nullable=False, server_default="0"),
    # Whether any worker has ever had it, and may have written chunks of it. 1 unless we know better.
    Column("claimed", Integer, nullable=False, server_default="1"),
    # The claim whose chunks can be found.
    Column("version", String(26)),
    # The document that it was before; its chunks can be copied while this one waits.
    Column("moved_from", String(26)),
    # Values of metadata fields, as JSON; absent: none.
    Column("metadata", Text),
    # The source it came from, and its file's size and time of change; absent: it was uploaded.
    Column("source", String(63)),
    Column("source_stamp", String(50)),
    ForeignKeyConstraint(["tenant", "knowledge_base"], ["knowledge_bases.tenant", "knowledge_bases.id"]),
    Index("documents_queue", "state", "due_ms"),
    Index("documents_next", "tenant", "knowledge_base", "state", "due_ms", "path"),
    Index("documents_settled", "tenant", "knowledge_base", "state", "update_time_ms"),
    Index("documents_moved", "tenant", "knowledge_base", "moved_from"),
    Index("documents_by_path", "tenant", "knowledge_base", "path"),
    Index("documents_by_blob", "blob"),
)

_SEEN = documents.c.delete_time_ms.is_(None)
Index(
    "documents_counted",
    documents.c.tenant,
    documents.c.knowledge_base,
    documents.c.state,
    documents.c.chunk_count,
    postgresql_where=_SEEN,
    sqlite_where=_SEEN,
)
# Since when a document has waited; `create_time_ms` in rows that version 0002 wrote.
waiting_since = func.coalesce(documents.c.queued_ms, documents.c.create_time_ms)
Index(
    "documents_oldest",
    documents.c.state,
    waiting_since,
    postgresql_where=_SEEN,
    sqlite_where=_SEEN,
)

# Collections that a re-index has left and that must be dropped.
doomed_collections = Table(
    "doomed_collections",
    metadata,
    Column("collection", String(255), primary_key=True),
    Column("tenant", String(253), nullable=False),
    # Where it is, unless it is a collection of the default database.
    Column("database", String(255)),
    # The shared collection that it is a scope of.
    Column("shared", String(255)),
)

# How indexing of a knowledge base gets on. No row: nothing was done yet.
ingest_state = Table(
    "ingest_state",
    metadata,
    Column("tenant", String(253), primary_key=True),
    Column("knowledge_base", String(63), primary_key=True),
    # Who was served longest ago comes next.
    Column("turn", BigInteger, nullable=False),
    Column("reconcile_due_ms", BigInteger, nullable=False),
    Column("reconcile_time_ms", BigInteger),
    Column("stray_chunks_removed", BigInteger, nullable=False),
    Column("documents_requeued", BigInteger, nullable=False),
    ForeignKeyConstraint(
        ["tenant", "knowledge_base"],
        ["knowledge_bases.tenant", "knowledge_bases.id"],
        ondelete="CASCADE",
    ),
)

# Originals that nobody needs and whose store was away.
doomed_blobs = Table("doomed_blobs", metadata, Column("blob", String(500), primary_key=True))

# What one process does for all, now and then.
turns = Table(
    "turns",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("due_ms", BigInteger, nullable=False),
)

# How looking through a source gets on.
source_states = Table(
    "source_states",
    metadata,
    Column("tenant", String(253), primary_key=True),
    Column("knowledge_base", String(63), primary_key=True),
    Column("name", String(63), primary_key=True),
    Column("lease_token", String(26)),
    Column("lease_until_ms", BigInteger, nullable=False),
    Column("due_ms", BigInteger, nullable=False),
    Column("sync_time_ms", BigInteger),
    Column("files", BigInteger, nullable=False),
    Column("message", Text, nullable=False),
    ForeignKeyConstraint(
        ["tenant", "knowledge_base"],
        ["knowledge_bases.tenant", "knowledge_bases.id"],
        ondelete="CASCADE",
    ),
)
