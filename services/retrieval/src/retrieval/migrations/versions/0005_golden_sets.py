"""Golden sets and evaluations."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0001"


def upgrade() -> None:
    """Creates both tables; code before it does not look at them."""
    op.create_table(
        "golden_sets",
        sa.Column("tenant", sa.String(253), primary_key=True),
        sa.Column("knowledge_base", sa.String(63), primary_key=True),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("queries", sa.Text, nullable=False),
        sa.Column("update_time_ms", sa.BigInteger, nullable=False),
        _with_its_knowledge_base(),
    )
    op.create_table(
        "evaluations",
        sa.Column("tenant", sa.String(253), primary_key=True),
        sa.Column("knowledge_base", sa.String(63), primary_key=True),
        sa.Column("id", sa.String(28), primary_key=True),
        sa.Column("finish_time_ms", sa.BigInteger, nullable=False),
        sa.Column("mode", sa.Integer, nullable=False),
        sa.Column("reranked", sa.Boolean, nullable=False),
        sa.Column("ndcg_at_10", sa.Float, nullable=False),
        sa.Column("recall_at_10", sa.Float, nullable=False),
        sa.Column("recall_at_100", sa.Float, nullable=False),
        sa.Column("mrr_at_10", sa.Float, nullable=False),
        sa.Column("queries", sa.Integer, nullable=False),
        sa.Column("golden_set_sha256", sa.String(64), nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("degraded", sa.Integer, nullable=False),
        sa.Column("missing_documents", sa.Integer, nullable=False),
        _with_its_knowledge_base(),
    )


def _with_its_knowledge_base() -> sa.ForeignKeyConstraint:
    # The code before deletes a knowledge base without knowing of these rows.
    return sa.ForeignKeyConstraint(
        ["tenant", "knowledge_base"], ["knowledge_bases.tenant", "knowledge_bases.id"], ondelete="CASCADE"
    )
