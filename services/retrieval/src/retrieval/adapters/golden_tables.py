"""The catalogue's tables of golden sets and evaluations. They go with their knowledge base."""

from sqlalchemy import BigInteger, Boolean, Column, Float, ForeignKeyConstraint, Integer, String, Table, Text

from retrieval.adapters.tables import metadata

golden_sets = Table(
    "golden_sets",
    metadata,
    Column("tenant", String(253), primary_key=True),
    Column("knowledge_base", String(63), primary_key=True),
    Column("sha256", String(64), nullable=False),
    # JSON: [[id, query, {path: grade}], ...]
    Column("queries", Text, nullable=False),
    Column("update_time_ms", BigInteger, nullable=False),
    # What people call it; absent: nothing.
    Column("name", String(520)),
    ForeignKeyConstraint(
        ["tenant", "knowledge_base"], ["knowledge_bases.tenant", "knowledge_bases.id"], ondelete="CASCADE"
    ),
)

evaluations = Table(
    "evaluations",
    metadata,
    Column("tenant", String(253), primary_key=True),
    Column("knowledge_base", String(63), primary_key=True),
    # Sorts by time.
    Column("id", String(28), primary_key=True),
    Column("finish_time_ms", BigInteger, nullable=False),
    Column("mode", Integer, nullable=False),
    Column("reranked", Boolean, nullable=False),
    Column("ndcg_at_10", Float, nullable=False),
    Column("recall_at_10", Float, nullable=False),
    Column("recall_at_100", Float, nullable=False),
    Column("mrr_at_10", Float, nullable=False),
    Column("queries", Integer, nullable=False),
    Column("golden_set_sha256", String(64), nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("degraded", Integer, nullable=False),
    Column("missing_documents", Integer, nullable=False),
    ForeignKeyConstraint(
        ["tenant", "knowledge_base"], ["knowledge_bases.tenant", "knowledge_bases.id"], ondelete="CASCADE"
    ),
)

# How evaluations by schedule get on. No row: none was begun.
evaluation_schedules = Table(
    "evaluation_schedules",
    metadata,
    Column("tenant", String(253), primary_key=True),
    Column("knowledge_base", String(63), primary_key=True),
    # Grows with each one that is begun.
    Column("turn", BigInteger, nullable=False),
    Column("lease_token", String(26)),
    Column("lease_until_ms", BigInteger, nullable=False),
    Column("failures", Integer, nullable=False),
    Column("failure_ms", BigInteger),
    Column("retry_ms", BigInteger),
    Column("message", Text, nullable=False),
    ForeignKeyConstraint(
        ["tenant", "knowledge_base"], ["knowledge_bases.tenant", "knowledge_bases.id"], ondelete="CASCADE"
    ),
)
