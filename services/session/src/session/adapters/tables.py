"""The schema, as the code sees it; migrations/ builds it, a test compares both.

Every table but run_quotas carries tenant and owner, also where a parent row has them: each
statement filters by both, and row level security can later do so too. Times
are microseconds since 1970 in UTC, the same in both databases and cheap to
compare; `to_timestamp(create_time_us / 1e6)` shows one in psql.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
    text,
)

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)

sessions = Table(
    "sessions",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("team", Text, nullable=False),
    Column("display_name", Text, nullable=False),
    Column("create_time_us", BigInteger, nullable=False),
    Column("update_time_us", BigInteger, nullable=False),
    # Also the sequence of the last message: the next one is found without counting rows.
    Column("message_count", BigInteger, nullable=False),
    # NULL for a session that a run created: the run has the request id then.
    Column("request_id", Text),
    Column("body_hash", LargeBinary),
    # How long it is kept after its last use; NULL: for ever.
    Column("retention_us", BigInteger),
    # When the sweeper looks at it next, NULL with the above: at its end or
    # before, so that using a session need not move it.
    Column("sweep_time_us", BigInteger),
    # The newest summary of the older messages, and the last message that it covers; empty and 0: none.
    Column("history_summary", Text, nullable=False, server_default=""),
    Column("summary_through", BigInteger, nullable=False, server_default="0"),
    UniqueConstraint("tenant", "owner", "request_id"),
    Index(None, "tenant", "owner", "update_time_us", "id"),
    Index(
        None,
        "sweep_time_us",
        sqlite_where=text("sweep_time_us IS NOT NULL"),
        postgresql_where=text("sweep_time_us IS NOT NULL"),
    ),
    # Small rows with a text key: without SQLite's hidden integer key there is
    # one B-tree less to write at each commit.
    sqlite_with_rowid=False,
)

messages = Table(
    "messages",
    metadata,
    Column("session_id", String(64), ForeignKey("sessions.id", ondelete="CASCADE"), primary_key=True),
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("tenant", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("role", SmallInteger, nullable=False),
    Column("content", Text, nullable=False),
    Column("run_id", String(64), nullable=False),
    Column("create_time_us", BigInteger, nullable=False),
    Column("citations", LargeBinary, nullable=False),
    # Of a large message: its text and citations are in `blobs`, and empty here.
    Column("blob_digest", LargeBinary),
    Column("blob_bytes", BigInteger),
)

runs = Table(
    "runs",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("session_id", String(64), ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False),
    Column("team", Text, nullable=False),
    Column("team_revision", Text, nullable=False),
    Column("state", SmallInteger, nullable=False),
    Column("create_time_us", BigInteger, nullable=False),
    Column("end_time_us", BigInteger),
    Column("last_sequence", BigInteger, nullable=False),
    Column("summary", LargeBinary, nullable=False),
    Column("status", LargeBinary, nullable=False),
    Column("request_id", Text, nullable=False),
    Column("body_hash", LargeBinary, nullable=False),
    # Of the last owner, also when the run has ended: the next one of the
    # session gets its lease, and a late writer is told the truth. The time is
    # NULL unless the run is RUNNING, and 0 once the lease was given back.
    Column("lease_owner", Text, nullable=False),
    Column("lease_duration_us", BigInteger, nullable=False),
    Column("lease_expire_time_us", BigInteger),
    Column("fencing_token", BigInteger, nullable=False),
    Column("lease_address", Text, nullable=False, server_default=""),
    # The defaults here and below are those of a row that the code of revision 0001 writes.
    Column("attempt", Integer, nullable=False, server_default="1"),
    # Attempts whose owner was lost; a lease that was given back is none of them.
    Column("lost_attempts", Integer, nullable=False, server_default="0"),
    Column("cancel_requested", Boolean, nullable=False, server_default=false()),
    Column("history_messages", Integer, nullable=False, server_default="20"),
    # Where its input is in the conversation. NULL: it waits, or revision 0001 wrote it.
    Column("first_input", BigInteger),
    Column("input_count", Integer),
    # The smallest is next. NULL for a run that never waited.
    Column("queue_position", BigInteger),
    # The run whose end began this one; empty: no run's.
    Column("after_run", String(64), nullable=False, server_default=""),
    # As its caller gave it; NULL: none.
    Column("answer_schema", LargeBinary),
    # How many runs of the team might run when this one began, itself included; 0: any number. On
    # Postgres a trigger holds the run's commit to it (migration 0006), on SQLite begin_run does.
    Column("max_active_runs", Integer, nullable=False, server_default="0"),
    # How many runs of the tenant might run when this one began, itself included; NULL: any number.
    # A trigger of migration 0009, on SQLite quota_rows, hold the run to it.
    Column("max_tenant_runs", Integer),
    # Until when it waits for a person; NULL unless it is WAITING.
    Column("wait_expire_time_us", BigInteger),
    # Until when somebody waits for its events: appends say so then. See news.
    Column("followed_until_us", BigInteger),
    UniqueConstraint("tenant", "owner", "request_id"),
    Index(None, "tenant", "owner", "create_time_us", "id"),
    Index(None, "session_id", "create_time_us", "id"),
    # One active run a session, whatever the code does.
    Index(
        "uq_runs_active_session_id",
        "session_id",
        unique=True,
        sqlite_where=text("state = 2 OR state = 6"),
        postgresql_where=text("state = 2 OR state = 6"),
    ),
    # Counts what runs. It is also how expired leases are found: it holds only
    # what runs right now, and no column of it changes at an append, so appends
    # stay cheap (HOT updates).
    Index(
        "ix_runs_running_tenant_team",
        "tenant",
        "team",
        sqlite_where=text("state = 2"),
        postgresql_where=text("state = 2"),
    ),
    Index(
        "ix_runs_waiting_wait_expire_time_us",
        "wait_expire_time_us",
        sqlite_where=text("state = 6"),
        postgresql_where=text("state = 6"),
    ),
    Index(
        "ix_runs_pending_session_id_queue_position",
        "session_id",
        "queue_position",
        sqlite_where=text("state = 1"),
        postgresql_where=text("state = 1"),
    ),
    sqlite_with_rowid=False,
)

# How many runs of a tenant may be RUNNING, where somebody has said so. Of a tenant, and nobody's in it.
run_quotas = Table(
    "run_quotas",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("max_concurrent_runs", Integer, nullable=False),
    # Where that is set, in words.
    Column("source", Text, nullable=False),
)

# The input of runs that wait. It gets its place in `messages` when the run begins.
queued_messages = Table(
    "queued_messages",
    metadata,
    Column("run_id", String(64), ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("tenant", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("role", SmallInteger, nullable=False),
    Column("content", Text, nullable=False),
    Column("citations", LargeBinary, nullable=False),
)

# What runs ask of people, and what those say.
run_inputs = Table(
    "run_inputs",
    metadata,
    Column("run_id", String(64), ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
    # A path of call ids: as deep as teams are nested.
    Column("call_id", String(1024), primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("owner", Text, nullable=False),
    # A serialised InputRequested.
    Column("request", LargeBinary, nullable=False),
    Column("expire_time_us", BigInteger),
    # A serialised RunInput; NULL until somebody has said something.
    Column("input", LargeBinary),
    Column("provided_by", Text, nullable=False, server_default=""),
    Column("provided_time_us", BigInteger),
    # The log holds input_provided: there is nothing more to do about it.
    Column("in_log", Boolean, nullable=False, server_default=false()),
)

run_events = Table(
    "run_events",
    metadata,
    Column("run_id", String(64), ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("tenant", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("member", Text, nullable=False),
    Column("create_time_us", BigInteger, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    # Of a large event: its payload is in `blobs`, and empty here.
    Column("blob_digest", LargeBinary),
    Column("blob_bytes", BigInteger),
)

# Large contents, which the rows of the session name by SHA-256: see blobs.py.
blobs = Table(
    "blobs",
    metadata,
    Column("session_id", String(64), ForeignKey("sessions.id", ondelete="CASCADE"), primary_key=True),
    Column("digest", LargeBinary, primary_key=True),
    # So many bytes at most of each, before compression: no row is large.
    Column("part", Integer, primary_key=True, autoincrement=False),
    Column("tenant", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("compressed", Boolean, nullable=False),
    Column("data", LargeBinary, nullable=False),
)

memories = Table(
    "memories",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("owner", Text, nullable=False),
    # Empty: for every team.
    Column("team", Text, nullable=False),
    Column("content", Text, nullable=False),
    # The different words of `content`, each with a space on both sides.
    Column("words", Text, nullable=False),
    Column("create_time_us", BigInteger, nullable=False),
    Column("request_id", Text, nullable=False),
    Column("body_hash", LargeBinary, nullable=False),
    UniqueConstraint("tenant", "owner", "request_id"),
    Index(None, "tenant", "owner", "create_time_us", "id"),
)

# Finished runs that wait to be scored. A run leaves the table when its scores are stored.
run_scorings = Table(
    "run_scorings",
    metadata,
    Column("run_id", String(64), ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("team", Text, nullable=False),
    # The smallest first.
    Column("priority", SmallInteger, nullable=False),
    # A serialised ScoringRequest.
    Column("request", LargeBinary, nullable=False),
    Column("create_time_us", BigInteger, nullable=False),
    # How often it was claimed.
    Column("attempt", Integer, nullable=False),
    Column("lease_owner", Text, nullable=False),
    # 0: nobody's.
    Column("lease_expire_time_us", BigInteger, nullable=False),
    Index(None, "priority", "create_time_us"),
)

run_scores = Table(
    "run_scores",
    metadata,
    Column("run_id", String(64), ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
    Column("evaluator", String(128), primary_key=True),
    Column("version", String(128), primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("team", Text, nullable=False),
    Column("team_revision", Text, nullable=False),
    Column("selection", SmallInteger, nullable=False),
    # There are scores; what follows is part of the payload, for averages.
    Column("scored", Boolean, nullable=False),
    Column("faithfulness", Double),
    Column("grounding", Double),
    Column("retrieval_relevance", Double),
    Column("answer_relevance", Double),
    Column("create_time_us", BigInteger, nullable=False),
    # A serialised RunScores.
    Column("payload", LargeBinary, nullable=False),
    Index(None, "tenant", "team", "create_time_us"),
    Index(None, "tenant", "owner", "create_time_us"),
)

# What golden set runs of teams found, by who started them.
team_evaluations = Table(
    "team_evaluations",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("owner", Text, primary_key=True),
    # Made by the caller, hence unique only for the caller.
    Column("id", String(64), primary_key=True),
    Column("team", Text, nullable=False),
    Column("create_time_us", BigInteger, nullable=False),
    # A serialised TeamEvaluation.
    Column("payload", LargeBinary, nullable=False),
    Index(None, "tenant", "owner", "team", "create_time_us"),
)

# Golden sets that teams are asked by schedule, and how that gets on.
team_golden_sets = Table(
    "team_golden_sets",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("team", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("questions", Integer, nullable=False),
    # Serialised questions.
    Column("payload", LargeBinary, nullable=False),
    Column("set_time_us", BigInteger, nullable=False),
    Column("turn", BigInteger, nullable=False),
    # Empty: nobody evaluates it.
    Column("lease_token", String(64), nullable=False),
    Column("lease_expire_time_us", BigInteger, nullable=False),
    Column("done", Integer, nullable=False),
    Column("failures", Integer, nullable=False),
    Column("failure_time_us", BigInteger),
    Column("retry_time_us", BigInteger),
    Column("failure", Text, nullable=False),
    # Serialised TeamEvaluations without their questions; empty: none.
    Column("newest", LargeBinary, nullable=False),
    Column("newest_time_us", BigInteger),
    Column("former", LargeBinary, nullable=False),
    Column("former_time_us", BigInteger),
)
