"""Runs that wait to be scored, their scores, and golden set runs of teams.

The code before writes none of them, and deletes them with their runs.
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

TABLES = ("run_scorings", "run_scores", "team_evaluations")
_OWNED = (
    "tenant = current_setting('agentteams.tenant', true)"
    " AND owner = current_setting('agentteams.owner', true)"
)
_SCORING = "current_setting('agentteams.bypass', true) = 'scoring'"
# Whoever scores looks at all that waits, and sums up scores; it reads no conversation that way.
BYPASSES = (
    ("run_scorings", "scoring_select", f"FOR SELECT USING ({_SCORING})"),
    ("run_scorings", "scoring_update", f"FOR UPDATE USING ({_SCORING})"),
    ("run_scores", "scoring_select", f"FOR SELECT USING ({_SCORING})"),
)


def upgrade() -> None:
    """Adds the tables."""
    op.create_table(
        "run_scorings",
        sa.Column("run_id", sa.String(64), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("team", sa.Text(), nullable=False),
        sa.Column("priority", sa.SmallInteger(), nullable=False),
        sa.Column("request", sa.LargeBinary(), nullable=False),
        sa.Column("create_time_us", sa.BigInteger(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("lease_owner", sa.Text(), nullable=False),
        sa.Column("lease_expire_time_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", name="pk_run_scorings"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_run_scorings_run_id", ondelete="CASCADE"),
    )
    op.create_index("ix_run_scorings_priority_create_time_us", "run_scorings", ["priority", "create_time_us"])
    op.create_table(
        "run_scores",
        sa.Column("run_id", sa.String(64), nullable=False),
        sa.Column("evaluator", sa.String(128), nullable=False),
        sa.Column("version", sa.String(128), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("team", sa.Text(), nullable=False),
        sa.Column("team_revision", sa.Text(), nullable=False),
        sa.Column("selection", sa.SmallInteger(), nullable=False),
        sa.Column("scored", sa.Boolean(), nullable=False),
        sa.Column("faithfulness", sa.Double()),
        sa.Column("grounding", sa.Double()),
        sa.Column("retrieval_relevance", sa.Double()),
        sa.Column("answer_relevance", sa.Double()),
        sa.Column("create_time_us", sa.BigInteger(), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", "evaluator", "version", name="pk_run_scores"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_run_scores_run_id", ondelete="CASCADE"),
    )
    op.create_index(
        "ix_run_scores_tenant_team_create_time_us", "run_scores", ["tenant", "team", "create_time_us"]
    )
    op.create_index(
        "ix_run_scores_tenant_owner_create_time_us", "run_scores", ["tenant", "owner", "create_time_us"]
    )
    op.create_table(
        "team_evaluations",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("team", sa.Text(), nullable=False),
        sa.Column("create_time_us", sa.BigInteger(), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "owner", "id", name="pk_team_evaluations"),
    )
    op.create_index(
        "ix_team_evaluations_tenant_owner_team_create_time_us",
        "team_evaluations",
        ["tenant", "owner", "team", "create_time_us"],
    )
    if op.get_bind().dialect.name == "postgresql":
        for table in TABLES:
            op.execute(f"CREATE POLICY owned ON {table} USING ({_OWNED}) WITH CHECK ({_OWNED})")
        for table, name, rule in BYPASSES:
            op.execute(f"CREATE POLICY {name} ON {table} {rule}")
        for table in TABLES:
            op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
            op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")


def downgrade() -> None:
    """Takes them away again, with what they hold."""
    for table in reversed(TABLES):
        op.drop_table(table)
