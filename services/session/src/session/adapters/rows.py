"""Rows to domain objects and back."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from servicekit.errors import Conflict, FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted
from session.adapters.tables import messages, run_events, runs, sessions
from session.core.model import Event, Message, Owner, Role, Run, RunState, Session

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

# The columns of each kind of row, in the order in which the functions below read them.
SESSION = [
    sessions.c.id,
    sessions.c.team,
    sessions.c.display_name,
    sessions.c.create_time_us,
    sessions.c.update_time_us,
    sessions.c.message_count,
    sessions.c.owner,
    sessions.c.retention_us,
]
MESSAGE = [
    messages.c.session_id,
    messages.c.sequence,
    messages.c.role,
    messages.c.content,
    messages.c.run_id,
    messages.c.create_time_us,
    messages.c.citations,
    messages.c.blob_digest,
    messages.c.blob_bytes,
]
RUN = [
    runs.c.id,
    runs.c.tenant,
    runs.c.owner,
    runs.c.team,
    runs.c.session_id,
    runs.c.state,
    runs.c.create_time_us,
    runs.c.end_time_us,
    runs.c.last_sequence,
    runs.c.summary,
    runs.c.status,
    runs.c.attempt,
    runs.c.lost_attempts,
    runs.c.cancel_requested,
    runs.c.lease_address,
    runs.c.wait_expire_time_us,
]
EVENT = [
    run_events.c.sequence,
    run_events.c.kind,
    run_events.c.member,
    run_events.c.create_time_us,
    run_events.c.payload,
    run_events.c.blob_digest,
    run_events.c.blob_bytes,
]

Row = Sequence[Any]


def in_state(table: sa.FromClause, state: RunState) -> sa.ColumnElement[bool]:
    """A literal, not a parameter: a partial index serves only a query that repeats its condition."""
    return table.c.state == sa.literal_column(str(int(state)))


def active(table: sa.FromClause) -> sa.ColumnElement[bool]:
    """Its session belongs to it: RUNNING or WAITING."""
    return sa.or_(in_state(table, RunState.RUNNING), in_state(table, RunState.WAITING))


RUNNING = in_state(runs, RunState.RUNNING)
PENDING = in_state(runs, RunState.PENDING)
WAITING = in_state(runs, RunState.WAITING)
ACTIVE = active(runs)

# The end of a lease that was given back: longer ago than any back-off.
GIVEN_BACK = 0


def owned(table: sa.Table) -> sa.ColumnElement[bool]:
    """The lock on every statement: rows of the caller's tenant and of the caller."""
    return sa.and_(table.c.tenant == sa.bindparam("b_tenant"), table.c.owner == sa.bindparam("b_owner"))


def owner_values(owner: Owner) -> dict[str, Any]:
    """The parameters of `owned`."""
    return {"b_tenant": owner.tenant, "b_owner": owner.user}


def to_us(time: datetime) -> int:
    """Microseconds since 1970."""
    return (time - _EPOCH) // _MICROSECOND


def from_us(time_us: int) -> datetime:
    """The reverse of `to_us`."""
    return _EPOCH + timedelta(microseconds=time_us)


def duration_us(duration: timedelta) -> int:
    """Whole microseconds."""
    return duration // _MICROSECOND


def kept(now_us: int, retention: timedelta | None) -> dict[str, int | None]:
    """The columns that say how long a session is kept that is used now."""
    if retention is None:
        return {"retention_us": None, "sweep_time_us": None}
    return {"retention_us": duration_us(retention), "sweep_time_us": now_us + duration_us(retention)}


# Sets them anew in an UPDATE with `keep_values`, or leaves them. `sweep_time_us`
# too: the end of a shorter time must not be found out about too late.
KEEP = {
    name: sa.func.coalesce(sa.bindparam(f"b_{name}", type_=sa.BigInteger), sessions.c[name])
    for name in ("retention_us", "sweep_time_us")
}


def keep_values(now_us: int, retention: timedelta | None) -> dict[str, int | None]:
    """The parameters of `KEEP`."""
    return {f"b_{name}": value for name, value in kept(now_us, retention).items()}


def session_from(row: Row) -> Session:
    """Of the columns SESSION."""
    return Session(
        id=row[0],
        team=row[1],
        display_name=row[2],
        create_time=from_us(row[3]),
        update_time=from_us(row[4]),
        message_count=row[5],
        user=row[6],
        retention=None if row[7] is None else timedelta(microseconds=row[7]),
    )


def message_from(row: Row, content: str | None = None, citations: bytes | None = None) -> Message:
    """Of the columns MESSAGE; a large one with what blobs.py found for it."""
    return Message(
        session=row[0],
        sequence=row[1],
        role=Role(row[2]),
        content=row[3] if content is None else content,
        run=row[4],
        create_time=from_us(row[5]),
        citations=row[6] if citations is None else citations,
    )


def run_from(row: Row) -> Run:
    """Of the columns RUN."""
    state = RunState(row[5])
    return Run(
        id=row[0],
        tenant=row[1],
        user=row[2],
        team=row[3],
        session=row[4],
        state=state,
        create_time=from_us(row[6]),
        end_time=None if row[7] is None else from_us(row[7]),
        last_sequence=row[8],
        summary=row[9],
        status=row[10],
        attempt=row[11],
        lost_attempts=row[12],
        cancel_requested=row[13],
        owner_address=row[14] if state is RunState.RUNNING else "",
        wait_expire_time=None if row[15] is None else from_us(row[15]),
    )


def event_from(row: Row, payload: bytes | None = None) -> Event:
    """Of the columns EVENT; a large one with what blobs.py found for it."""
    return Event(
        sequence=row[0],
        kind=row[1],
        member=row[2],
        create_time=from_us(row[3]),
        payload=row[4] if payload is None else payload,
    )


def session_not_found(session: str) -> NotFound:
    """No such session, or not the caller's."""
    return NotFound(
        f"no session sessions/{session}",
        reason="SESSION_NOT_FOUND",
        metadata={"session": f"sessions/{session}"},
    )


def run_not_found(run: str) -> NotFound:
    """No such run, or not the caller's."""
    return NotFound(f"no run runs/{run}", reason="RUN_NOT_FOUND", metadata={"run": f"runs/{run}"})


def session_busy(session: str, run: str | None) -> FailedPrecondition:
    """The session has a run that is not finished. `run` None: it has ended just now."""
    active = {} if run is None else {"run": f"runs/{run}"}
    name = f"runs/{run}" if run else "another run"
    return FailedPrecondition(
        f"sessions/{session} works on {name}; try again when it has ended, or cancel it",
        reason="SESSION_BUSY",
        metadata={"session": f"sessions/{session}", **active},
        retry_after=timedelta(seconds=1),
    )


def session_queue_full(session: str, waiting: int) -> ResourceExhausted:
    """As many runs as allowed wait in the session."""
    return ResourceExhausted(
        f"{waiting} questions wait in sessions/{session} already; try again when one has been answered",
        reason="SESSION_QUEUE_FULL",
        metadata={"session": f"sessions/{session}", "waiting": str(waiting)},
        retry_after=timedelta(seconds=2),
    )


def too_many_runs(team: str, limit: int) -> ResourceExhausted:
    """As many runs of the team as allowed are RUNNING."""
    return ResourceExhausted(
        f"teams/{team} has {limit} active runs already, as many as it may "
        f"(limits.maxConcurrentRuns: {limit}); try again when one has ended",
        reason="TOO_MANY_RUNS",
        metadata={"team": team, "limit": str(limit)},
        retry_after=timedelta(seconds=2),
    )


def quota_exhausted(tenant: str, *, active: int, most: int, source: str) -> ResourceExhausted:
    """The tenant has as many RUNNING runs as its quota allows."""
    where = f" ({source})" if source else ""
    return ResourceExhausted(
        f'namespace "{tenant}" has {active} runs at a time already, and its quota is {most}{where}: try '
        "again when one has ended, cancel one, or have the quota raised",
        reason="QUOTA_EXHAUSTED",
        metadata={"tenant": tenant, "limit": str(most), "active": str(active), "source": source},
        retry_after=timedelta(seconds=2),
    )


def request_id_reused(request_id: str) -> InvalidArgument:
    """The request id was used before with another body."""
    return InvalidArgument(
        f"request_id {request_id} was used before with another body; make a new id for a new request",
        reason="REQUEST_ID_REUSED",
        metadata={"request_id": request_id},
    )


def lease_lost(run: str) -> Conflict:
    """Somebody else owns the run now."""
    return Conflict(
        f"runs/{run} belongs to another process now; stop working on it",
        reason="LEASE_LOST",
        metadata={"run": f"runs/{run}"},
    )


def run_finished(run: str, state: RunState) -> FailedPrecondition:
    """The run has ended; its log takes no more."""
    return FailedPrecondition(
        f"runs/{run} has ended ({state.name})",
        reason="RUN_FINISHED",
        metadata={"run": f"runs/{run}", "state": state.name},
    )


def sequence_gap(run: str, *, last: int, got: int) -> FailedPrecondition:
    """The first event does not follow the last stored one."""
    return FailedPrecondition(
        f"event {got} does not follow event {last}, the last one stored of runs/{run}; send {last + 1} first",
        reason="SEQUENCE_GAP",
        metadata={"run": f"runs/{run}", "last_sequence": str(last), "sequence": str(got)},
    )
