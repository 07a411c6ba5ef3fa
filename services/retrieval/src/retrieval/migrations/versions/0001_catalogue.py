"""Knowledge bases, documents with their queue, collections to drop."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Creates the first tables."""
    op.create_table(
        "knowledge_bases",
        sa.Column("tenant", sa.String(253), primary_key=True),
        sa.Column("id", sa.String(63), primary_key=True),
        sa.Column("embedding_model", sa.String(300), nullable=False),
        sa.Column("max_tokens", sa.Integer, nullable=False),
        sa.Column("overlap_tokens", sa.Integer, nullable=False),
        sa.Column("search_mode", sa.Integer, nullable=False),
        sa.Column("dimension", sa.Integer, nullable=False),
        sa.Column("model_fingerprint", sa.String(200), nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("alias", sa.String(255), nullable=False),
        sa.Column("collection", sa.String(255), nullable=False),
        sa.Column("create_time_ms", sa.BigInteger, nullable=False),
        sa.Column("delete_time_ms", sa.BigInteger),
    )
    op.create_table(
        "documents",
        sa.Column("tenant", sa.String(253), primary_key=True),
        sa.Column("knowledge_base", sa.String(63), primary_key=True),
        sa.Column("id", sa.String(26), primary_key=True),
        sa.Column("path", sa.String(1024), nullable=False),
        sa.Column("media_type", sa.String(100), nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("blob", sa.String(500), nullable=False),
        sa.Column("state", sa.Integer, nullable=False),
        sa.Column("error_reason", sa.String(64)),
        sa.Column("error_message", sa.Text),
        sa.Column("chunk_count", sa.Integer, nullable=False),
        sa.Column("warnings", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("first_failure_ms", sa.BigInteger),
        sa.Column("due_ms", sa.BigInteger, nullable=False),
        sa.Column("lease_token", sa.String(26)),
        sa.Column("lease_until_ms", sa.BigInteger, nullable=False),
        sa.Column("create_time_ms", sa.BigInteger, nullable=False),
        sa.Column("update_time_ms", sa.BigInteger, nullable=False),
        sa.Column("delete_time_ms", sa.BigInteger),
        sa.ForeignKeyConstraint(
            ["tenant", "knowledge_base"], ["knowledge_bases.tenant", "knowledge_bases.id"]
        ),
    )
    op.create_index("documents_queue", "documents", ["state", "due_ms"])
    op.create_index("documents_by_path", "documents", ["tenant", "knowledge_base", "path"])
    op.create_table(
        "doomed_collections",
        sa.Column("collection", sa.String(255), primary_key=True),
        sa.Column("tenant", sa.String(253), nullable=False),
    )
