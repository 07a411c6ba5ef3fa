"""Names of golden sets, and schedules of evaluations."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Adds only; code before it does not look at them."""
    op.add_column("golden_sets", sa.Column("name", sa.String(520)))
    op.create_table(
        "evaluation_schedules",
        sa.Column("tenant", sa.String(253), primary_key=True),
        sa.Column("knowledge_base", sa.String(63), primary_key=True),
        sa.Column("turn", sa.BigInteger, nullable=False),
        sa.Column("lease_token", sa.String(26)),
        sa.Column("lease_until_ms", sa.BigInteger, nullable=False),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("failure_ms", sa.BigInteger),
        sa.Column("retry_ms", sa.BigInteger),
        sa.Column("message", sa.Text, nullable=False),
        # The code before deletes a knowledge base without knowing of these rows.
        sa.ForeignKeyConstraint(
            ["tenant", "knowledge_base"], ["knowledge_bases.tenant", "knowledge_bases.id"], ondelete="CASCADE"
        ),
    )
