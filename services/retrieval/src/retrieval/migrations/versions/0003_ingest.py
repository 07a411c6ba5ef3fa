"""The queue is fair, documents move, catalogue and store are compared."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0005"


def upgrade() -> None:
    """Adds; code before it leaves the new columns alone, and what it writes is read as a first indexing."""
    op.add_column("documents", sa.Column("queued_ms", sa.BigInteger))
    op.add_column("documents", sa.Column("interruptions", sa.Integer, nullable=False, server_default="0"))
    op.add_column("documents", sa.Column("version", sa.String(26)))
    op.add_column("documents", sa.Column("moved_from", sa.String(26)))
    op.create_index("documents_waiting", "documents", ["tenant", "knowledge_base", "state", "due_ms"])
    op.create_index("documents_settled", "documents", ["tenant", "knowledge_base", "state", "update_time_ms"])
    op.create_index("documents_moved", "documents", ["tenant", "knowledge_base", "moved_from"])
    op.create_table(
        "ingest_state",
        sa.Column("tenant", sa.String(253), primary_key=True),
        sa.Column("knowledge_base", sa.String(63), primary_key=True),
        sa.Column("turn", sa.BigInteger, nullable=False),
        sa.Column("reconcile_due_ms", sa.BigInteger, nullable=False),
        sa.Column("reconcile_time_ms", sa.BigInteger),
        sa.Column("stray_chunks_removed", sa.BigInteger, nullable=False),
        sa.Column("documents_requeued", sa.BigInteger, nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant", "knowledge_base"],
            ["knowledge_bases.tenant", "knowledge_bases.id"],
            ondelete="CASCADE",
        ),
    )
