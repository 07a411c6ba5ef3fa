"""Originals to delete later."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0002"


def upgrade() -> None:
    """A table that the code before it does not know."""
    op.create_table("doomed_blobs", sa.Column("blob", sa.String(500), primary_key=True))
