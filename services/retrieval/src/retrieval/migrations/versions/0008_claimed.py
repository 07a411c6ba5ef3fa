"""Whether a document was ever claimed: one that was not has no former chunks to look for."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Rows that are there, and those that the code before adds, may have been."""
    op.add_column("documents", sa.Column("claimed", sa.Integer, nullable=False, server_default="1"))
