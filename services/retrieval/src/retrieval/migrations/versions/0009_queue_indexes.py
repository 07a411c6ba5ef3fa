"""A claim and the figures of the queue read the beginning of an index, not all that waits.

Code before it finds `documents_waiting` gone and uses the index that begins with the same columns.
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

_SEEN = sa.text("delete_time_ms IS NULL")


def upgrade() -> None:
    """Indexes only."""
    op.create_index("documents_next", "documents", ["tenant", "knowledge_base", "state", "due_ms", "path"])
    op.drop_index("documents_waiting", "documents")
    op.create_index(
        "documents_counted",
        "documents",
        ["tenant", "knowledge_base", "state", "chunk_count"],
        postgresql_where=_SEEN,
        sqlite_where=_SEEN,
    )
    op.create_index(
        "documents_oldest",
        "documents",
        ["state", sa.text("coalesce(queued_ms, create_time_ms)")],
        postgresql_where=_SEEN,
        sqlite_where=_SEEN,
    )
