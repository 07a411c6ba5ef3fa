"""The transaction that begins a run.

See run_log: its statements too assume that all is well.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from session.adapters import rows
from session.adapters.database import BoundReached
from session.adapters.log_events import FIRST_SEQUENCE, run_started
from session.adapters.quota_rows import LIMIT, check_quota
from session.adapters.records import (
    ACQUIRED,
    EVENT_OF_RUN,
    RENEWED,
    UNTOUCHED,
    Missed,
    acquired_by_owner,
    history_before,
    insert_events,
    insert_messages,
)
from session.adapters.rows import RUN, RUNNING, owned, owner_values, to_us
from session.adapters.run_queue import insert_queued, place_in_queue
from session.adapters.tables import runs, sessions
from session.core.model import NO_SUMMARY, BegunRun, NewRun, Owner, Run, RunState, Summary
from session.core.pages import PAGE_BYTES, sizes_bytes

_FIRST_TOKEN = 1

_ADD_INPUT = (
    sa.update(sessions)
    .where(sessions.c.id == sa.bindparam("b_id"), owned(sessions), sessions.c.team == sa.bindparam("b_team"))
    .values(
        message_count=sessions.c.message_count + sa.bindparam("b_count"),
        update_time_us=sa.bindparam("b_now"),
        display_name=sa.case(
            (
                sa.and_(sessions.c.display_name == "", sessions.c.message_count == 0),
                sa.bindparam("b_title"),
            ),
            else_=sessions.c.display_name,
        ),
        **rows.KEEP,
    )
    .returning(sessions.c.message_count, sessions.c.history_summary, sessions.c.summary_through)
)
_LOCK_SESSION = (
    sa.select(sessions.c.id)
    .where(sessions.c.id == sa.bindparam("b_id"), owned(sessions), sessions.c.team == sa.bindparam("b_team"))
    .with_for_update()
)
_active, _waiting = runs.alias("active"), runs.alias("waiting")
# Inserts nothing unless the session is free. A condition, and not the unique
# index alone: an insert would wait there for whoever works on the other run,
# who may wait for the session's row, which this transaction has locked.
_VALUES = {
    column.name: LIMIT
    if column is runs.c.max_tenant_runs
    else sa.bindparam(f"b_{column.name}", type_=column.type)
    for column in runs.columns
}
_INSERT_RUN = sa.insert(runs).values(_VALUES)
_INSERT_IF_FREE = sa.insert(runs).from_select(
    list(_VALUES),
    sa.select(*_VALUES.values()).where(
        ~sa.exists().where(_active.c.session_id == sa.bindparam("b_session_id"), rows.active(_active)),
        ~sa.exists().where(
            _waiting.c.session_id == sa.bindparam("b_session_id"), rows.in_state(_waiting, RunState.PENDING)
        ),
    ),
    include_defaults=False,
)
_INSERT_SESSION = sa.insert(sessions)
_COUNT_RUNNING = sa.select(sa.func.count()).where(
    runs.c.tenant == sa.bindparam("b_tenant"), runs.c.team == sa.bindparam("b_team"), RUNNING
)
_BEGUN_AGAIN = (
    sa.update(runs)
    .where(runs.c.id == sa.bindparam("b_run"), UNTOUCHED, runs.c.queue_position.is_(None))
    .values(RENEWED)
    .returning(*ACQUIRED)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BeginRun:
    """A transaction that begins a run.

    Attributes:
        owner: Whose.
        new: What to store.
        run: The new run's id.
        new_session: The id for a new session; empty when `new` names one.
        now: The time of all rows.
        default_quota: How many runs a tenant may have of whom nobody has said it; None: any number.
    """

    owner: Owner
    new: NewRun
    run: str
    new_session: str
    now: datetime
    default_quota: int | None = None

    def __call__(self, connection: Connection) -> BegunRun:
        """Begins it at once.

        Raises Missed (no such session of that team, or it is not free), BoundReached and
        QuotaReached (on Postgres at the commit) or the driver's IntegrityError.
        """
        return self._begin(connection, if_free=not self.new_session)

    def unless_free(self, connection: Connection) -> BegunRun:
        """Begins it, or lets it wait, as `new.on_busy` says. Raises as `__call__` and the policy."""
        new, session = self.new, self.new.session
        values = owner_values(self.owner) | {"b_id": session, "b_team": new.team}
        if connection.execute(_LOCK_SESSION, values).one_or_none() is None:
            raise Missed
        position = place_in_queue(connection, self.owner, session, new.on_busy)
        if position is None:
            return self._begin(connection, if_free=False)
        row = self._run_row(session) | {
            "state": int(RunState.PENDING),
            "last_sequence": 0,
            "lease_owner": "",
            "lease_address": "",
            "lease_duration_us": 0,
            "lease_expire_time_us": None,
            "fencing_token": 0,
            "attempt": 0,
            "queue_position": position,
        }
        connection.execute(_INSERT_RUN, self._inserted(row))
        insert_queued(connection, self.owner, self.run, new.input)
        return BegunRun(run=_run_of(row), created=True, fencing_token=0, history=())

    def again(self, connection: Connection) -> BegunRun | None:
        """What the first call returned, if its answer may be lost; `run` is the id of then.

        None if another process owns the run, it has ended, or work on it has
        begun: whoever asks may read it, no more.
        """
        values = owner_values(self.owner) | {
            "b_run": self.run,
            "b_now": to_us(self.now),
            "b_lease_owner": self.new.lease.owner,
        }
        row = connection.execute(_BEGUN_AGAIN, values).one_or_none()
        if row is None:
            return None
        found = acquired_by_owner(connection, self.owner, row)
        started = connection.execute(EVENT_OF_RUN, values | {"b_sequence": FIRST_SEQUENCE}).one()
        return BegunRun(
            run=found.run,
            created=True,
            fencing_token=found.fencing_token,
            history=found.history,
            started=rows.event_from(started),
            summary=found.summary,
        )

    def _begin(self, connection: Connection, *, if_free: bool) -> BegunRun:
        new, session, count = self.new, self.new.session or self.new_session, len(self.new.input)
        last, summary = self._add_input(connection)
        first = last - count + 1
        row = self._run_row(session) | {"first_input": first, "input_count": count}
        if not if_free:
            connection.execute(_INSERT_RUN, self._inserted(row))
        elif not connection.execute(_INSERT_IF_FREE, self._inserted(row)).rowcount:
            raise Missed
        self._check_bound(connection)
        check_quota(connection, self.owner.tenant, self.run)
        insert_messages(connection, self.owner, session, self.run, new.input, first=first, now=self.now)
        event = run_started(
            session,
            first,
            count,
            revision=new.team_revision,
            answer_schema=new.answer_schema,
            now=self.now,
            trace=new.trace,
        )
        insert_events(connection, self.owner, self.run, [event])
        history = history_before(
            connection,
            self.owner,
            session,
            first,
            limit=new.history_messages,
            budget_bytes=PAGE_BYTES - sizes_bytes(new.input),
        )
        return BegunRun(
            run=_run_of(row),
            created=True,
            fencing_token=_FIRST_TOKEN,
            history=history,
            started=event,
            summary=summary,
        )

    def _inserted(self, row: dict[str, Any]) -> dict[str, Any]:
        return {f"b_{name}": value for name, value in row.items()} | {"b_default_quota": self.default_quota}

    def _check_bound(self, connection: Connection) -> None:
        """On SQLite, where nobody else writes now. On Postgres a trigger does it at the commit."""
        new = self.new
        if new.max_active_runs and connection.dialect.name == "sqlite":
            values = {"b_tenant": self.owner.tenant, "b_team": new.team}
            if connection.execute(_COUNT_RUNNING, values).scalar_one() > new.max_active_runs:
                raise BoundReached

    def _add_input(self, connection: Connection) -> tuple[int, Summary]:
        """Makes room in the session; returns the sequence of the last input message, and the summary."""
        count = len(self.new.input)
        if self.new_session:
            row = session_row(self.owner, self.new_session, self.new.team, self.new.title, to_us(self.now))
            row |= rows.kept(to_us(self.now), self.new.retention) | {"message_count": count}
            connection.execute(_INSERT_SESSION, row)
            return count, NO_SUMMARY
        values = owner_values(self.owner) | {
            "b_id": self.new.session,
            "b_team": self.new.team,
            "b_count": count,
            "b_now": to_us(self.now),
            "b_title": self.new.title,
            **rows.keep_values(to_us(self.now), self.new.retention),
        }
        found = connection.execute(_ADD_INPUT, values).one_or_none()
        if found is None:
            raise Missed
        return found[0], Summary(text=found[1], through_sequence=found[2])

    def _run_row(self, session: str) -> dict[str, Any]:
        new, now_us = self.new, to_us(self.now)
        return {
            "id": self.run,
            "tenant": self.owner.tenant,
            "owner": self.owner.user,
            "session_id": session,
            "team": new.team,
            "team_revision": new.team_revision,
            "state": int(RunState.RUNNING),
            "create_time_us": now_us,
            "end_time_us": None,
            "last_sequence": FIRST_SEQUENCE,
            "summary": b"",
            "status": b"",
            "request_id": new.request_id,
            "body_hash": new.body_hash,
            "lease_owner": new.lease.owner,
            "lease_duration_us": rows.duration_us(new.lease.duration),
            "lease_expire_time_us": now_us + rows.duration_us(new.lease.duration),
            "fencing_token": _FIRST_TOKEN,
            "lease_address": new.lease.address,
            "attempt": 1,
            "lost_attempts": 0,
            "cancel_requested": False,
            "history_messages": new.history_messages,
            "first_input": None,
            "input_count": None,
            "queue_position": None,
            "after_run": "",
            "answer_schema": new.answer_schema or None,
            "max_active_runs": new.max_active_runs,
            "wait_expire_time_us": None,
            "followed_until_us": None,
        }


def session_row(owner: Owner, session: str, team: str, display_name: str, now_us: int) -> dict[str, Any]:
    """A new row of sessions."""
    return {
        "id": session,
        "tenant": owner.tenant,
        "owner": owner.user,
        "team": team,
        "display_name": display_name,
        "create_time_us": now_us,
        "update_time_us": now_us,
        "message_count": 0,
    }


def _run_of(row: dict[str, Any]) -> Run:
    return rows.run_from([row[column.name] for column in RUN])
