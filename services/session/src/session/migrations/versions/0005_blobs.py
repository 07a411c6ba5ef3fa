"""Large contents leave their rows.

The code before writes none, and reads none: while it still runs, the new one
keeps every content in its row (AGENTTEAMS_SESSION_OFFLOAD_BYTES=0).
"""

import sqlalchemy as sa
from alembic import op

revision = "0005_blobs"
down_revision = "0004"
branch_labels = None
depends_on = None

TABLES = ("messages", "run_events")
_OWNED = (
    "tenant = current_setting('agentteams.tenant', true)"
    " AND owner = current_setting('agentteams.owner', true)"
)
# Who takes a run over reads its messages.
_LEASES = "current_setting('agentteams.bypass', true) = 'leases'"


def upgrade() -> None:
    """Adds the references, and the table of what they name."""
    for table in TABLES:
        op.add_column(table, sa.Column("blob_digest", sa.LargeBinary()))
        op.add_column(table, sa.Column("blob_bytes", sa.BigInteger()))
    op.create_table(
        "blobs",
        sa.Column("session_id", sa.String(64), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("part", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("compressed", sa.Boolean(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("session_id", "digest", "part", name="pk_blobs"),
        sa.ForeignKeyConstraint(
            ["session_id"], ["sessions.id"], name="fk_blobs_session_id", ondelete="CASCADE"
        ),
    )
    if op.get_bind().dialect.name == "postgresql":
        # Compressed already where it helps.
        op.execute("ALTER TABLE blobs ALTER COLUMN data SET STORAGE EXTERNAL")
        op.execute(f"CREATE POLICY owned ON blobs USING ({_OWNED}) WITH CHECK ({_OWNED})")
        op.execute(f"CREATE POLICY leases_select ON blobs FOR SELECT USING ({_LEASES})")
        op.execute("ALTER TABLE blobs ENABLE ROW LEVEL SECURITY")
        op.execute("ALTER TABLE blobs FORCE ROW LEVEL SECURITY")


def downgrade() -> None:
    """Takes them away again. Raises if a content would be lost."""
    bind = op.get_bind()
    if bind.dialect.name == "postgresql":
        op.execute("ALTER TABLE blobs NO FORCE ROW LEVEL SECURITY")
    if bind.execute(sa.text("SELECT count(*) FROM blobs")).scalar():
        raise RuntimeError("some rows keep their content in blobs: delete these sessions first")
    op.drop_table("blobs")
    for table in TABLES:
        op.drop_column(table, "blob_bytes")
        op.drop_column(table, "blob_digest")
