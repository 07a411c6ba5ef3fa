"""Runs that wait, are tried again, and are asked to stop.

Everything has a default that is right for what the code before writes: it
knows running runs only, in their first attempt, whose input is in `messages`.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds columns to runs, and the table of messages that wait."""
    for column in (
        sa.Column("attempt", sa.Integer(), nullable=False, server_default="1"),
        sa.Column("lost_attempts", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("cancel_requested", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("lease_address", sa.Text(), nullable=False, server_default=""),
        sa.Column("history_messages", sa.Integer(), nullable=False, server_default="20"),
        sa.Column("first_input", sa.BigInteger()),
        sa.Column("input_count", sa.Integer()),
        sa.Column("queue_position", sa.BigInteger()),
        sa.Column("after_run", sa.String(64), nullable=False, server_default=""),
    ):
        op.add_column("runs", column)
    op.create_index(
        "ix_runs_pending_session_id_queue_position",
        "runs",
        ["session_id", "queue_position"],
        sqlite_where=sa.text("state = 1"),
        postgresql_where=sa.text("state = 1"),
    )
    op.create_table(
        "queued_messages",
        sa.Column("run_id", sa.String(64), nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("role", sa.SmallInteger(), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("citations", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", "position", name="pk_queued_messages"),
        sa.ForeignKeyConstraint(
            ["run_id"], ["runs.id"], name="fk_queued_messages_run_id", ondelete="CASCADE"
        ),
    )


def downgrade() -> None:
    """Takes them away again. Runs that wait are lost: the code before cannot begin them."""
    op.execute("DELETE FROM runs WHERE state = 1")
    op.drop_table("queued_messages")
    op.drop_index("ix_runs_pending_session_id_queue_position", "runs")
    for name in (
        "attempt",
        "lost_attempts",
        "cancel_requested",
        "lease_address",
        "history_messages",
        "first_input",
        "input_count",
        "queue_position",
        "after_run",
    ):
        op.drop_column("runs", name)
