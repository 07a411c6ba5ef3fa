"""Row level security on Postgres: each row only for the transactions of its owner.

FORCE holds the tables' owner to it as well. A later migration that reads or
changes rows lifts it for its own transaction: NO FORCE before, FORCE after.
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

TABLES = ("sessions", "messages", "runs", "run_events", "queued_messages")
_OWNED = (
    "tenant = current_setting('agentteams.tenant', true)"
    " AND owner = current_setting('agentteams.owner', true)"
)
_LEASES = "current_setting('agentteams.bypass', true) = 'leases'"
_RETENTION = "current_setting('agentteams.bypass', true) = 'retention'"
# What the calls that are made for nobody in particular may do, and no more.
BYPASSES = (
    ("runs", "leases_select", f"FOR SELECT USING ({_LEASES})"),
    ("runs", "leases_update", f"FOR UPDATE USING ({_LEASES})"),
    ("messages", "leases_select", f"FOR SELECT USING ({_LEASES})"),
    ("sessions", "retention_select", f"FOR SELECT USING ({_RETENTION})"),
    ("sessions", "retention_update", f"FOR UPDATE USING ({_RETENTION})"),
    ("sessions", "retention_delete", f"FOR DELETE USING ({_RETENTION})"),
    ("runs", "retention_select", f"FOR SELECT USING ({_RETENTION})"),
)


def upgrade() -> None:
    """Turns it on."""
    if op.get_bind().dialect.name != "postgresql":
        return
    for table in TABLES:
        op.execute(f"CREATE POLICY owned ON {table} USING ({_OWNED}) WITH CHECK ({_OWNED})")
    for table, name, rule in BYPASSES:
        op.execute(f"CREATE POLICY {name} ON {table} {rule}")
    for table in TABLES:
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")


def downgrade() -> None:
    """Turns it off."""
    if op.get_bind().dialect.name != "postgresql":
        return
    for table in TABLES:
        op.execute(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY")
        op.execute(f"DROP POLICY owned ON {table}")
    for table, name, _ in BYPASSES:
        op.execute(f"DROP POLICY {name} ON {table}")
