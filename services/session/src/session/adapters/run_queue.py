"""Runs that wait in their session: how they get into the queue, and out of it.

Whoever changes a queue, or whether its session is free, holds the lock on the
session's row. So a run never begins twice, never waits beside a free session,
and messages get their numbers in the order in which questions are answered.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from session.adapters import rows
from session.adapters.inputs import STOP
from session.adapters.log_events import FIRST_SEQUENCE, run_cancelled, run_started
from session.adapters.news import NOTIFY_FOLLOWERS
from session.adapters.records import (
    ACQUIRED,
    LOCK_SESSION_OF_RUN,
    acquired,
    insert_events,
    insert_messages,
)
from session.adapters.rows import ACTIVE, PENDING, RUN, owned, owner_values, to_us
from session.adapters.tables import queued_messages, runs, sessions
from session.core.model import (
    MAX_WAITING_RUNS,
    AcquiredRun,
    BusyPolicy,
    Lease,
    NewMessage,
    Owner,
    Role,
    Run,
    RunState,
    Summary,
)

_OF_SESSION = sa.and_(runs.c.session_id == sa.bindparam("b_id"), owned(runs))
# Two partial indexes; `state IN (1, 2, 6)` would use neither of them.
UNFINISHED = sa.union_all(
    sa.select(runs.c.id, runs.c.state, runs.c.queue_position).where(_OF_SESSION, ACTIVE),
    sa.select(runs.c.id, runs.c.state, runs.c.queue_position).where(_OF_SESSION, PENDING),
)
_INTERRUPT = sa.update(runs).where(_OF_SESSION, ACTIVE).values(STOP)
_INSERT_QUEUED = sa.insert(queued_messages)

_NEXT = (
    sa.select(runs.c.id, runs.c.team_revision, runs.c.answer_schema)
    .where(_OF_SESSION, PENDING)
    .order_by(runs.c.queue_position)
    .limit(1)
)
_QUEUED = (
    sa.select(queued_messages.c.role, queued_messages.c.content, queued_messages.c.citations)
    .where(queued_messages.c.run_id == sa.bindparam("b_run"), owned(queued_messages))
    .order_by(queued_messages.c.position)
)
_DELETE_QUEUED = sa.delete(queued_messages).where(
    queued_messages.c.run_id == sa.bindparam("b_run"), owned(queued_messages)
)
_ADD_QUEUED = (
    sa.update(sessions)
    .where(sessions.c.id == sa.bindparam("b_id"), owned(sessions))
    .values(
        message_count=sessions.c.message_count + sa.bindparam("b_count"),
        update_time_us=sa.bindparam("b_now"),
    )
    .returning(sessions.c.message_count, sessions.c.history_summary, sessions.c.summary_through)
)
_PROMOTE = (
    sa.update(runs)
    .where(runs.c.id == sa.bindparam("b_run"), owned(runs), PENDING)
    .values(
        state=int(RunState.RUNNING),
        attempt=1,
        last_sequence=FIRST_SEQUENCE,
        fencing_token=runs.c.fencing_token + 1,
        lease_owner=sa.bindparam("b_lease_owner"),
        lease_address=sa.bindparam("b_lease_address"),
        lease_duration_us=sa.bindparam("b_duration"),
        lease_expire_time_us=sa.bindparam("b_now", type_=sa.BigInteger) + sa.bindparam("b_duration"),
        first_input=sa.bindparam("b_first"),
        input_count=sa.bindparam("b_count"),
        after_run=sa.bindparam("b_after"),
    )
    .returning(*ACQUIRED, NOTIFY_FOLLOWERS)
)
_LOCK_FREE_SESSION = (
    sa.select(sessions.c.id)
    .where(sessions.c.id == sa.bindparam("b_id"), owned(sessions))
    .with_for_update(skip_locked=True)
)
_active = runs.alias("active")
IDLE_SESSIONS = (
    sa.select(runs.c.session_id, runs.c.tenant, runs.c.owner)
    .where(
        PENDING,
        ~sa.exists().where(_active.c.session_id == runs.c.session_id, rows.active(_active)),
    )
    .group_by(runs.c.session_id, runs.c.tenant, runs.c.owner)
    .order_by(sa.func.min(runs.c.create_time_us))
    .limit(sa.bindparam("b_limit"))
)
_REQUEST_CANCEL = (
    sa.update(runs)
    .where(runs.c.id == sa.bindparam("b_run"), owned(runs), ACTIVE)
    .values(STOP)
    .returning(*RUN)
)
_CANCEL_WAITING = (
    sa.update(runs)
    .where(runs.c.id == sa.bindparam("b_run"), owned(runs), PENDING)
    .values(
        state=int(RunState.CANCELLED),
        cancel_requested=True,
        last_sequence=FIRST_SEQUENCE + 1,
        end_time_us=sa.bindparam("b_now"),
    )
    .returning(*RUN, runs.c.team_revision, runs.c.answer_schema, NOTIFY_FOLLOWERS)
)
_SET_SUMMARY = (
    sa.update(runs)
    .where(runs.c.id == sa.bindparam("b_run"), owned(runs))
    .values(summary=sa.bindparam("b_summary"))
    .returning(*RUN)
)
_RUN = sa.select(*RUN).where(runs.c.id == sa.bindparam("b_run"), owned(runs))


def place_in_queue(connection: Connection, owner: Owner, session: str, policy: BusyPolicy) -> int | None:
    """Where a new run waits, None if it need not. The session's row is locked.

    Raises:
        FailedPrecondition: SESSION_BUSY.
        ResourceExhausted: SESSION_QUEUE_FULL.
    """
    values = owner_values(owner) | {"b_id": session}
    found = connection.execute(UNFINISHED, values).all()
    positions = [row[2] for row in found if row[1] == RunState.PENDING]
    active = len(found) > len(positions)
    if not active and (not positions or policy is BusyPolicy.INTERRUPT):
        return None
    if policy is BusyPolicy.REJECT:
        raise rows.session_busy(session, found[0][0])
    if len(positions) >= MAX_WAITING_RUNS:
        raise rows.session_queue_full(session, len(positions))
    if policy is BusyPolicy.ENQUEUE:
        return max(positions, default=0) + 1
    connection.execute(_INTERRUPT, values)
    return min(positions, default=0) - 1


def insert_queued(connection: Connection, owner: Owner, run: str, new: Sequence[NewMessage]) -> None:
    """Keeps the input of a run that waits."""
    connection.execute(
        _INSERT_QUEUED,
        [
            {
                "run_id": run,
                "position": position,
                "tenant": owner.tenant,
                "owner": owner.user,
                "role": int(message.role),
                "content": message.content,
                "citations": message.citations,
            }
            for position, message in enumerate(new, 1)
        ],
    )


def begin_next(
    connection: Connection, owner: Owner, session: str, *, lease: Lease, after_run: str, now: datetime
) -> AcquiredRun | None:
    """Begins the next run that waits in a free session, whose row is locked; None if none waits."""
    values: dict[str, Any] = owner_values(owner) | {"b_id": session}
    head = connection.execute(_NEXT, values).one_or_none()
    if head is None:
        return None
    run, revision, schema = head
    values |= {"b_run": run, "b_now": to_us(now)}
    waiting = connection.execute(_QUEUED, values).all()
    new = [NewMessage(role=Role(row[0]), content=row[1], citations=row[2]) for row in waiting]
    last, text, through = connection.execute(_ADD_QUEUED, values | {"b_count": len(new)}).one()
    first = int(last) - len(new) + 1
    insert_messages(connection, owner, session, run, new, first=first, now=now)
    connection.execute(_DELETE_QUEUED, values)
    values |= {
        "b_lease_owner": lease.owner,
        "b_lease_address": lease.address,
        "b_duration": rows.duration_us(lease.duration),
        "b_first": first,
        "b_count": len(new),
        "b_after": after_run,
    }
    row = connection.execute(_PROMOTE, values).one()
    event = run_started(session, first, len(new), revision=revision, answer_schema=schema or b"", now=now)
    insert_events(connection, owner, run, [event])
    return acquired(connection, row[: len(ACQUIRED)], Summary(text=text, through_sequence=through))


@dataclass(frozen=True, slots=True, kw_only=True)
class BeginWaiting:
    """A transaction that begins the next run of a session that seemed free."""

    owner: Owner
    session: str
    lease: Lease
    now: datetime

    def __call__(self, connection: Connection) -> AcquiredRun | None:
        """None if somebody else was quicker, or is about to be."""
        values = owner_values(self.owner) | {"b_id": self.session}
        if connection.execute(_LOCK_FREE_SESSION, values).one_or_none() is None:
            return None
        if any(row[1] != RunState.PENDING for row in connection.execute(UNFINISHED, values)):
            return None
        return begin_next(connection, self.owner, self.session, lease=self.lease, after_run="", now=self.now)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestCancel:
    """Two transactions that ask a run to stop."""

    owner: Owner
    run: str
    now: datetime

    def __call__(self, connection: Connection) -> Run | None:
        """For a run that is worked on, or waits for a person; None for any other.

        Alone in its transaction: it may not hold the run's row when it asks
        for the session's.
        """
        row = connection.execute(_REQUEST_CANCEL, self._values()).one_or_none()
        return None if row is None else rows.run_from(row)

    def unless_active(self, connection: Connection) -> Run:
        """For a run that was neither a moment ago.

        Raises:
            ServiceError: As SessionStore.request_cancel.
        """
        values = self._values()
        connection.execute(LOCK_SESSION_OF_RUN, values)
        row = connection.execute(_CANCEL_WAITING, values).one_or_none()
        if row is not None:
            return self._end_waiting(connection, rows.run_from(row), revision=row[-3], schema=row[-2])
        run = self(connection)
        if run is not None:
            return run
        row = connection.execute(_RUN, values).one_or_none()
        if row is None:
            raise rows.run_not_found(self.run)
        run = rows.run_from(row)
        if run.state is not RunState.CANCELLED:
            raise rows.run_finished(self.run, run.state)
        return run

    def _end_waiting(self, connection: Connection, run: Run, *, revision: str, schema: bytes | None) -> Run:
        values = self._values()
        connection.execute(_DELETE_QUEUED, values)
        started = run_started(run.session, 0, 0, revision=revision, answer_schema=schema or b"", now=self.now)
        finished, end = run_cancelled(self.now - run.create_time, self.now)
        insert_events(connection, self.owner, self.run, [started, finished])
        row = connection.execute(_SET_SUMMARY, values | {"b_summary": end.summary}).one()
        return rows.run_from(row)

    def _values(self) -> dict[str, Any]:
        return owner_values(self.owner) | {"b_run": self.run, "b_now": to_us(self.now)}
