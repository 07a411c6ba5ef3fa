"""All of a knowledge base's spec, its generation, and metadata of documents."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0003"


def upgrade() -> None:
    """Adds columns that the code before need not know."""
    op.add_column(
        "knowledge_bases", sa.Column("generation", sa.BigInteger, nullable=False, server_default="1")
    )
    op.add_column("knowledge_bases", sa.Column("spec", sa.Text))
    op.add_column("documents", sa.Column("metadata", sa.Text))
    op.add_column("doomed_collections", sa.Column("database", sa.String(255)))
    op.add_column("doomed_collections", sa.Column("shared", sa.String(255)))
