"""Folders that are looked through."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0004"


def upgrade() -> None:
    """A table and columns that the code before need not know."""
    op.add_column("documents", sa.Column("source", sa.String(63)))
    op.add_column("documents", sa.Column("source_stamp", sa.String(50)))
    op.create_table(
        "source_states",
        sa.Column("tenant", sa.String(253), primary_key=True),
        sa.Column("knowledge_base", sa.String(63), primary_key=True),
        sa.Column("name", sa.String(63), primary_key=True),
        sa.Column("lease_token", sa.String(26)),
        sa.Column("lease_until_ms", sa.BigInteger, nullable=False),
        sa.Column("due_ms", sa.BigInteger, nullable=False),
        sa.Column("sync_time_ms", sa.BigInteger),
        sa.Column("files", sa.BigInteger, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant", "knowledge_base"],
            ["knowledge_bases.tenant", "knowledge_bases.id"],
            ondelete="CASCADE",
        ),
    )
