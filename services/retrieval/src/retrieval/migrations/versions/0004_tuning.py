"""Tunings of indexes, and the queries that they measure with."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0006"


def upgrade() -> None:
    """Only new tables: code before it knows nothing of them."""
    op.create_table(
        "tunings",
        sa.Column("tenant", sa.String(253), primary_key=True),
        sa.Column("knowledge_base", sa.String(63), primary_key=True),
        sa.Column("state", sa.Integer, nullable=False),
        sa.Column("kind", sa.Integer, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("due_ms", sa.BigInteger, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("lease_token", sa.String(26)),
        sa.Column("lease_until_ms", sa.BigInteger, nullable=False),
        sa.Column("finish_ms", sa.BigInteger),
        sa.Column("check_ms", sa.BigInteger),
        sa.Column("policy", sa.Text, nullable=False),
        sa.Column("collection", sa.String(255), nullable=False),
        sa.Column("search_params", sa.Text, nullable=False),
        sa.Column("measured", sa.Text),
        sa.Column("shadow", sa.String(255), nullable=False),
        sa.Column("former", sa.String(255), nullable=False),
        sa.Column("paused_until_ms", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "query_samples",
        sa.Column("tenant", sa.String(253), primary_key=True),
        sa.Column("knowledge_base", sa.String(63), primary_key=True),
        sa.Column("slot", sa.Integer, primary_key=True),
        sa.Column("model_fingerprint", sa.String(200), nullable=False),
        sa.Column("time_ms", sa.BigInteger, nullable=False),
        sa.Column("vector", sa.LargeBinary, nullable=False),
    )
