"""Runs that wait for people, summaries of conversations, and bounds on running runs.

The code before reads every run but one that waits: roll out this service before
the orchestrators that let runs wait.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005_blobs"
branch_labels = None
depends_on = None

_OWNED = (
    "tenant = current_setting('agentteams.tenant', true)"
    " AND owner = current_setting('agentteams.owner', true)"
)
_LEASES = "current_setting('agentteams.bypass', true) = 'leases'"

# Runs when a transaction that began a run commits, so that the lock, which makes
# the count right, is held no longer than a commit takes. It counts the runs of
# every user of the team, which the transaction itself may not see.
_BOUND = """
CREATE FUNCTION agentteams_bound_running_runs() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  bypass text := coalesce(current_setting('agentteams.bypass', true), '');
  running bigint;
BEGIN
  PERFORM pg_advisory_xact_lock(hashtextextended(NEW.tenant || '/' || NEW.team, 0));
  PERFORM set_config('agentteams.bypass', 'leases', true);
  SELECT count(*) INTO running FROM (
    SELECT 1 FROM runs WHERE tenant = NEW.tenant AND team = NEW.team AND state = 2
    LIMIT NEW.max_active_runs + 1
  ) AS bounded;
  PERFORM set_config('agentteams.bypass', bypass, true);
  IF running > NEW.max_active_runs THEN
    RAISE EXCEPTION 'as many runs as allowed are running' USING ERRCODE = 'AT001';
  END IF;
  RETURN NULL;
END
$$
"""
_BOUND_TRIGGER = (
    "CREATE CONSTRAINT TRIGGER bound_running_runs AFTER INSERT ON runs DEFERRABLE INITIALLY DEFERRED"
    " FOR EACH ROW WHEN (NEW.state = 2 AND NEW.max_active_runs > 0)"
    " EXECUTE FUNCTION agentteams_bound_running_runs()"
)


def upgrade() -> None:
    """Adds columns, indexes, and the table of what people are asked and say."""
    for column in (
        sa.Column("answer_schema", sa.LargeBinary()),
        sa.Column("max_active_runs", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("wait_expire_time_us", sa.BigInteger()),
    ):
        op.add_column("runs", column)
    op.add_column("sessions", sa.Column("history_summary", sa.Text(), nullable=False, server_default=""))
    op.add_column(
        "sessions", sa.Column("summary_through", sa.BigInteger(), nullable=False, server_default="0")
    )
    _partial_index("uq_runs_active_session_id", ["session_id"], "state = 2 OR state = 6", unique=True)
    _partial_index("ix_runs_running_tenant_team", ["tenant", "team"], "state = 2")
    _partial_index("ix_runs_waiting_wait_expire_time_us", ["wait_expire_time_us"], "state = 6")
    op.drop_index("uq_runs_running_session_id", "runs")
    op.create_table(
        "run_inputs",
        sa.Column("run_id", sa.String(64), nullable=False),
        sa.Column("call_id", sa.String(1024), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("request", sa.LargeBinary(), nullable=False),
        sa.Column("expire_time_us", sa.BigInteger()),
        sa.Column("input", sa.LargeBinary()),
        sa.Column("provided_by", sa.Text(), nullable=False, server_default=""),
        sa.Column("provided_time_us", sa.BigInteger()),
        sa.Column("in_log", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.PrimaryKeyConstraint("run_id", "call_id", name="pk_run_inputs"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_run_inputs_run_id", ondelete="CASCADE"),
    )
    if op.get_bind().dialect.name == "postgresql":
        op.execute(f"CREATE POLICY owned ON run_inputs USING ({_OWNED}) WITH CHECK ({_OWNED})")
        op.execute(f"CREATE POLICY leases_select ON run_inputs FOR SELECT USING ({_LEASES})")
        op.execute("ALTER TABLE run_inputs ENABLE ROW LEVEL SECURITY")
        op.execute("ALTER TABLE run_inputs FORCE ROW LEVEL SECURITY")
        op.execute(_BOUND)
        op.execute(_BOUND_TRIGGER)


def downgrade() -> None:
    """Takes them away again. Runs that wait are lost: the code before cannot continue them."""
    postgres = op.get_bind().dialect.name == "postgresql"
    if postgres:
        op.execute("DROP TRIGGER bound_running_runs ON runs")
        op.execute("DROP FUNCTION agentteams_bound_running_runs")
        op.execute("ALTER TABLE runs NO FORCE ROW LEVEL SECURITY")
    op.execute("DELETE FROM runs WHERE state = 6")
    if postgres:
        op.execute("ALTER TABLE runs FORCE ROW LEVEL SECURITY")
    op.drop_table("run_inputs")
    _partial_index("uq_runs_running_session_id", ["session_id"], "state = 2", unique=True)
    for name in (
        "uq_runs_active_session_id",
        "ix_runs_running_tenant_team",
        "ix_runs_waiting_wait_expire_time_us",
    ):
        op.drop_index(name, "runs")
    for name in ("answer_schema", "max_active_runs", "wait_expire_time_us"):
        op.drop_column("runs", name)
    for name in ("history_summary", "summary_through"):
        op.drop_column("sessions", name)


def _partial_index(name: str, columns: list[str], where: str, *, unique: bool = False) -> None:
    op.create_index(
        name,
        "runs",
        columns,
        unique=unique,
        sqlite_where=sa.text(where),
        postgresql_where=sa.text(where),
    )
