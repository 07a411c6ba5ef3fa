"""How long sessions are kept, and what is remembered of users."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_OWNED = (
    "tenant = current_setting('agentteams.tenant', true)"
    " AND owner = current_setting('agentteams.owner', true)"
)


def upgrade() -> None:
    """Adds columns to sessions, and the table of memories."""
    op.add_column("sessions", sa.Column("retention_us", sa.BigInteger()))
    op.add_column("sessions", sa.Column("sweep_time_us", sa.BigInteger()))
    op.create_index(
        "ix_sessions_sweep_time_us",
        "sessions",
        ["sweep_time_us"],
        sqlite_where=sa.text("sweep_time_us IS NOT NULL"),
        postgresql_where=sa.text("sweep_time_us IS NOT NULL"),
    )
    op.create_table(
        "memories",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("team", sa.Text(), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("words", sa.Text(), nullable=False),
        sa.Column("create_time_us", sa.BigInteger(), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("body_hash", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_memories"),
        sa.UniqueConstraint("tenant", "owner", "request_id", name="uq_memories_tenant_owner_request_id"),
    )
    op.create_index(
        "ix_memories_tenant_owner_create_time_us_id",
        "memories",
        ["tenant", "owner", "create_time_us", "id"],
    )
    if op.get_bind().dialect.name == "postgresql":
        op.execute(f"CREATE POLICY owned ON memories USING ({_OWNED}) WITH CHECK ({_OWNED})")
        op.execute("ALTER TABLE memories ENABLE ROW LEVEL SECURITY")
        op.execute("ALTER TABLE memories FORCE ROW LEVEL SECURITY")


def downgrade() -> None:
    """Takes them away again, with all memories."""
    op.drop_table("memories")
    op.drop_index("ix_sessions_sweep_time_us", "sessions")
    op.drop_column("sessions", "sweep_time_us")
    op.drop_column("sessions", "retention_us")
