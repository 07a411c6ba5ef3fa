"""Golden sets that teams are asked by schedule.

The code before does not look at them.
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

# They are the namespace's, not one user's.
_OWNED = "tenant = current_setting('agentteams.tenant', true)"
_SCORING = "current_setting('agentteams.bypass', true) = 'scoring'"


def upgrade() -> None:
    """Adds the table."""
    op.create_table(
        "team_golden_sets",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("team", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("questions", sa.Integer(), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.Column("set_time_us", sa.BigInteger(), nullable=False),
        sa.Column("turn", sa.BigInteger(), nullable=False),
        sa.Column("lease_token", sa.String(64), nullable=False),
        sa.Column("lease_expire_time_us", sa.BigInteger(), nullable=False),
        sa.Column("done", sa.Integer(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("failure_time_us", sa.BigInteger()),
        sa.Column("retry_time_us", sa.BigInteger()),
        sa.Column("failure", sa.Text(), nullable=False),
        sa.Column("newest", sa.LargeBinary(), nullable=False),
        sa.Column("newest_time_us", sa.BigInteger()),
        sa.Column("former", sa.LargeBinary(), nullable=False),
        sa.Column("former_time_us", sa.BigInteger()),
        sa.PrimaryKeyConstraint("tenant", "team", name="pk_team_golden_sets"),
    )
    if op.get_bind().dialect.name == "postgresql":
        table = "team_golden_sets"
        op.execute(f"CREATE POLICY owned ON {table} USING ({_OWNED}) WITH CHECK ({_OWNED})")
        op.execute(f"CREATE POLICY scoring_select ON {table} FOR SELECT USING ({_SCORING})")
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")


def downgrade() -> None:
    """Takes it away again, with what it holds."""
    op.drop_table("team_golden_sets")
