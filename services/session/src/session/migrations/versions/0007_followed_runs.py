"""Until when somebody waits for what comes next in a run."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds a column to runs."""
    op.add_column("runs", sa.Column("followed_until_us", sa.BigInteger()))


def downgrade() -> None:
    """Takes it away again."""
    op.drop_column("runs", "followed_until_us")
