"""Quotas of tenants: how many runs of one may be RUNNING at a time.

The code before begins runs without one; they count for those that begin with it.
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_TENANT = "tenant = current_setting('agentteams.tenant', true)"
_QUOTAS = "current_setting('agentteams.bypass', true) = 'quotas'"
# As the trigger of 0006, of a tenant instead of a team. Both fire at the commit, by
# name: that of the team is first in every transaction, so their locks form no circle.
_BOUND = """
CREATE FUNCTION agentteams_bound_tenant_runs() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  bypass text := coalesce(current_setting('agentteams.bypass', true), '');
  running bigint;
BEGIN
  PERFORM pg_advisory_xact_lock(hashtextextended(NEW.tenant, 1));
  PERFORM set_config('agentteams.bypass', 'leases', true);
  SELECT count(*) INTO running FROM runs WHERE tenant = NEW.tenant AND state = 2;
  PERFORM set_config('agentteams.bypass', bypass, true);
  IF running > NEW.max_tenant_runs THEN
    RAISE EXCEPTION 'the tenant has as many runs as its quota allows'
      USING ERRCODE = 'AT002', DETAIL = (running - 1) || ' of ' || NEW.max_tenant_runs;
  END IF;
  RETURN NULL;
END
$$
"""
_BOUND_TRIGGER = (
    "CREATE CONSTRAINT TRIGGER bound_tenant_runs AFTER INSERT ON runs DEFERRABLE INITIALLY DEFERRED"
    " FOR EACH ROW WHEN (NEW.state = 2 AND NEW.max_tenant_runs IS NOT NULL)"
    " EXECUTE FUNCTION agentteams_bound_tenant_runs()"
)


def upgrade() -> None:
    """Adds the table of quotas, and to each run the one under which it began."""
    op.add_column("runs", sa.Column("max_tenant_runs", sa.Integer()))
    op.create_table(
        "run_quotas",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("max_concurrent_runs", sa.Integer(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", name="pk_run_quotas"),
    )
    if op.get_bind().dialect.name == "postgresql":
        op.execute(f"CREATE POLICY tenant_select ON run_quotas FOR SELECT USING ({_TENANT})")
        op.execute(f"CREATE POLICY quotas ON run_quotas USING ({_QUOTAS}) WITH CHECK ({_QUOTAS})")
        op.execute("ALTER TABLE run_quotas ENABLE ROW LEVEL SECURITY")
        op.execute("ALTER TABLE run_quotas FORCE ROW LEVEL SECURITY")
        op.execute(_BOUND)
        op.execute(_BOUND_TRIGGER)


def downgrade() -> None:
    """Takes them away again."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP TRIGGER bound_tenant_runs ON runs")
        op.execute("DROP FUNCTION agentteams_bound_tenant_runs")
    op.drop_table("run_quotas")
    op.drop_column("runs", "max_tenant_runs")
