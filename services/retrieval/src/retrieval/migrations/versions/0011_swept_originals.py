"""For originals without a document: whose they are, and whose turn it is to look."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Adds only; code before it does not look at them."""
    op.create_index("documents_by_blob", "documents", ["blob"])
    op.create_table(
        "turns",
        sa.Column("name", sa.String(63), primary_key=True),
        sa.Column("due_ms", sa.BigInteger, nullable=False),
    )
