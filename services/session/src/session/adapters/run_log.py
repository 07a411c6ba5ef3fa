"""The two hot transactions: a run begins, its log grows.

Their statements assume that all is well and check it on the way (conditions
in UPDATE … RETURNING, unique constraints). Only when one fails are more
statements spent to say why. No statement looks at more rows than it writes,
so the cost does not grow with the length of a session or a log.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from servicekit.errors import InvalidArgument
from session.adapters import blobs, rows
from session.adapters.log_events import FIRST_SEQUENCE, run_started
from session.adapters.records import (
    ACQUIRED,
    INSERT_RUN,
    LOCK_SESSION_OF_RUN,
    Missed,
    acquired,
    history_before,
    insert_events,
    insert_messages,
    large,
)
from session.adapters.rows import EVENT, RUN, RUNNING, owned, owner_values, to_us
from session.adapters.run_queue import begin_next, insert_queued, place_in_queue
from session.adapters.tables import run_events, runs, sessions
from session.core.model import (
    AcquiredRun,
    AppendedEvents,
    BegunRun,
    Event,
    Lease,
    NewEvent,
    NewRun,
    Owner,
    Run,
    RunState,
)
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
    .returning(sessions.c.message_count)
)
_LOCK_SESSION = (
    sa.select(sessions.c.id)
    .where(sessions.c.id == sa.bindparam("b_id"), owned(sessions), sessions.c.team == sa.bindparam("b_team"))
    .with_for_update()
)
# Inserts nothing unless the session is free. A condition, and not the unique
# index alone: an insert would wait there for whoever works on the other run,
# who may wait for the session's row, which this transaction has locked.
_INSERT_IF_FREE = sa.insert(runs).from_select(
    [column.name for column in runs.columns],
    sa.select(*(sa.bindparam(f"b_{column.name}", type_=column.type) for column in runs.columns)).where(
        *(
            ~sa.exists().where(
                table.c.session_id == sa.bindparam("b_session_id"), rows.in_state(table, state)
            )
            for table, state in (
                (runs.alias("running"), RunState.RUNNING),
                (runs.alias("waiting"), RunState.PENDING),
            )
        )
    ),
    include_defaults=False,
)
# The session before the run, which names it: see records.LOCK_SESSION_OF_RUN.
_ADD_ANSWERS = (
    sa.update(sessions)
    .where(
        sessions.c.id
        == sa.select(runs.c.session_id)
        .where(runs.c.id == sa.bindparam("b_run"), owned(runs))
        .scalar_subquery()
    )
    .values(
        message_count=sessions.c.message_count + sa.bindparam("b_count"),
        update_time_us=sa.bindparam("b_now"),
    )
    .returning(sessions.c.message_count)
)
_APPENDABLE = sa.and_(
    runs.c.id == sa.bindparam("b_run"),
    owned(runs),
    RUNNING,
    runs.c.fencing_token == sa.bindparam("b_token"),
    runs.c.last_sequence == sa.bindparam("b_before"),
)
_ADVANCE = (
    sa.update(runs)
    .where(_APPENDABLE)
    .values(
        last_sequence=sa.bindparam("b_last"),
        lease_expire_time_us=sa.bindparam("b_now") + runs.c.lease_duration_us,
    )
    .returning(runs.c.session_id, runs.c.cancel_requested)
)
_waiting = runs.alias("waiting")
_FINISH = (
    sa.update(runs)
    .where(_APPENDABLE)
    .values(
        last_sequence=sa.bindparam("b_last"),
        state=sa.bindparam("b_state"),
        summary=sa.bindparam("b_summary"),
        status=sa.bindparam("b_status"),
        end_time_us=sa.bindparam("b_now"),
        lease_expire_time_us=None,
    )
    .returning(
        runs.c.session_id,
        runs.c.cancel_requested,
        sa.exists()
        .where(_waiting.c.session_id == runs.c.session_id, rows.in_state(_waiting, RunState.PENDING))
        .correlate(runs)
        .label("b_others_wait"),
        runs.c.lease_owner,
        runs.c.lease_address,
        runs.c.lease_duration_us,
    )
)
_LEASED_RUN = (
    sa.select(
        runs.c.state,
        runs.c.fencing_token,
        runs.c.last_sequence,
        runs.c.cancel_requested,
        runs.c.session_id,
        runs.c.lease_owner,
    )
    .where(runs.c.id == sa.bindparam("b_run"), owned(runs))
    .with_for_update()
)
_STORED = sa.select(run_events.c.sequence, run_events.c.kind, run_events.c.member).where(
    run_events.c.run_id == sa.bindparam("b_run"),
    owned(run_events),
    run_events.c.sequence >= sa.bindparam("b_first"),
    run_events.c.sequence <= sa.bindparam("b_last"),
)
_INSERT_SESSION = sa.insert(sessions)
_EVENT = sa.select(*EVENT).where(
    run_events.c.run_id == sa.bindparam("b_run"),
    owned(run_events),
    run_events.c.sequence == sa.bindparam("b_sequence"),
)
# A run of which its owner cannot know more than what it was told at its
# beginning, perhaps in vain: the same lease, and nothing appended.
_UNTOUCHED = sa.and_(
    owned(runs),
    RUNNING,
    runs.c.lease_owner == sa.bindparam("b_lease_owner"),
    runs.c.attempt == 1,
    runs.c.last_sequence == FIRST_SEQUENCE,
)
_RENEWED: dict[str, Any] = {"lease_expire_time_us": sa.bindparam("b_now") + runs.c.lease_duration_us}
_BEGUN_AGAIN = (
    sa.update(runs)
    .where(runs.c.id == sa.bindparam("b_run"), _UNTOUCHED, runs.c.queue_position.is_(None))
    .values(_RENEWED)
    .returning(*ACQUIRED)
)
_NEXT_AGAIN = (
    sa.update(runs)
    .where(runs.c.session_id == sa.bindparam("b_id"), _UNTOUCHED, runs.c.after_run == sa.bindparam("b_run"))
    .values(_RENEWED)
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
    """

    owner: Owner
    new: NewRun
    run: str
    new_session: str
    now: datetime

    def __call__(self, connection: Connection) -> BegunRun:
        """Begins it at once.

        Raises Missed (no such session of that team, or it is not free) or the
        driver's IntegrityError.
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
        connection.execute(INSERT_RUN, row)
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
        found = acquired(connection, row)
        started = connection.execute(_EVENT, values | {"b_sequence": FIRST_SEQUENCE}).one()
        return BegunRun(
            run=found.run,
            created=True,
            fencing_token=found.fencing_token,
            history=found.history,
            started=rows.event_from(started),
        )

    def _begin(self, connection: Connection, *, if_free: bool) -> BegunRun:
        new, session, count = self.new, self.new.session or self.new_session, len(self.new.input)
        first = self._add_input(connection) - count + 1
        row = self._run_row(session) | {"first_input": first, "input_count": count}
        if not if_free:
            connection.execute(INSERT_RUN, row)
        elif not connection.execute(_INSERT_IF_FREE, {f"b_{k}": v for k, v in row.items()}).rowcount:
            raise Missed
        insert_messages(connection, self.owner, session, self.run, new.input, first=first, now=self.now)
        event = run_started(session, first, count, revision=new.team_revision, now=self.now)
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
            run=_run_of(row), created=True, fencing_token=_FIRST_TOKEN, history=history, started=event
        )

    def _add_input(self, connection: Connection) -> int:
        """Makes room in the session; returns the sequence of the last input message."""
        count = len(self.new.input)
        if self.new_session:
            row = session_row(self.owner, self.new_session, self.new.team, self.new.title, to_us(self.now))
            row |= rows.kept(to_us(self.now), self.new.retention) | {"message_count": count}
            connection.execute(_INSERT_SESSION, row)
            return count
        values = owner_values(self.owner) | {
            "b_id": self.new.session,
            "b_team": self.new.team,
            "b_count": count,
            "b_now": to_us(self.now),
            "b_title": self.new.title,
            **rows.keep_values(to_us(self.now), self.new.retention),
        }
        last = connection.execute(_ADD_INPUT, values).scalar_one_or_none()
        if last is None:
            raise Missed
        return int(last)

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
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class AppendEvents:
    """A transaction that appends events which all follow the last stored one."""

    owner: Owner
    run: str
    fencing_token: int
    events: Sequence[NewEvent]
    now: datetime

    def __call__(self, connection: Connection) -> AppendedEvents:
        """Appends all. Raises Missed if anything is not as assumed."""
        return self._append(connection, self.events)

    def rest(self, connection: Connection) -> AppendedEvents:
        """Appends what is not stored yet, or says why nothing can be appended.

        Raises:
            ServiceError: As SessionStore.append_events.
        """
        run, values = self.run, owner_values(self.owner) | {"b_run": self.run}
        connection.execute(LOCK_SESSION_OF_RUN, values)
        found = connection.execute(_LEASED_RUN, values).one_or_none()
        if found is None:
            raise rows.run_not_found(run)
        state, token, last = RunState(found[0]), int(found[1]), int(found[2])
        if token != self.fencing_token:
            raise rows.lease_lost(run)
        first = self.events[0].event.sequence
        if first > last + 1:
            if state.terminal:
                raise rows.run_finished(run, state)
            raise rows.sequence_gap(run, last=last, got=first)
        self._check_stored(connection, first, last)
        rest = [new for new in self.events if new.event.sequence > last]
        if rest and state.terminal:
            raise rows.run_finished(run, state)
        if rest:
            return self._append(connection, rest)
        # All were stored. That renews the lease too, unless the run has ended.
        values |= {"b_token": token, "b_before": last, "b_last": last, "b_now": to_us(self.now)}
        connection.execute(_ADVANCE, values)
        next_run, finished = None, None
        if state.terminal and self.events[-1].end is not None:
            values |= {"b_id": found[4], "b_lease_owner": found[5]}
            row = connection.execute(_NEXT_AGAIN, values).one_or_none()
            next_run = None if row is None else acquired(connection, row)
            found_end = connection.execute(_EVENT, values | {"b_sequence": last}).all()
            [finished] = blobs.events_from(connection, self.owner, run, found_end)
        return AppendedEvents(
            last_sequence=last, cancel_requested=found[3], next_run=next_run, run_finished=finished
        )

    def _append(self, connection: Connection, events: Sequence[NewEvent]) -> AppendedEvents:
        last, end, now_us = events[-1].event.sequence, events[-1].end, to_us(self.now)
        values = owner_values(self.owner) | {"b_run": self.run, "b_now": now_us}
        answers = [new.answer for new in events if new.answer is not None]
        first_answer = 0
        if answers:
            count = connection.execute(_ADD_ANSWERS, values | {"b_count": len(answers)}).scalar_one_or_none()
            if count is None:
                raise Missed
            first_answer = int(count) - len(answers) + 1
        elif connection.dialect.name == "postgresql" and (
            end is not None or any(large(connection, new.event) for new in events)
        ):
            # The end makes the session free (see run_queue), and a blob names it.
            # On SQLite nobody else writes now.
            connection.execute(LOCK_SESSION_OF_RUN, values)
        values |= {
            "b_token": self.fencing_token,
            "b_before": events[0].event.sequence - 1,
            "b_last": last,
        }
        stored = [new.event for new in events]
        finished: Event | None = None
        if end is None:
            row = connection.execute(_ADVANCE, values).one_or_none()
        else:
            finished, summary = stored[-1], end.summary
            if end.saved is not None:
                payload, summary = end.saved()
                stored[-1] = finished = replace(finished, payload=payload)
            values |= {"b_state": int(end.state), "b_summary": summary, "b_status": end.status}
            row = connection.execute(_FINISH, values).one_or_none()
        if row is None:
            raise Missed
        session, cancel_requested = row[0], row[1]
        insert_events(connection, self.owner, self.run, stored, session=session)
        if answers:
            insert_messages(
                connection, self.owner, session, self.run, answers, first=first_answer, now=self.now
            )
        return AppendedEvents(
            last_sequence=last,
            cancel_requested=cancel_requested,
            next_run=None if end is None or not row[2] else self._begin_next(connection, row),
            run_finished=finished,
        )

    def _begin_next(self, connection: Connection, ended: rows.Row) -> AcquiredRun | None:
        session, _, _, lease_owner, address, duration_us = ended
        lease = Lease(owner=lease_owner, address=address, duration=timedelta(microseconds=duration_us))
        return begin_next(connection, self.owner, session, lease=lease, after_run=self.run, now=self.now)

    def _check_stored(self, connection: Connection, first: int, last: int) -> None:
        """Two writers of one process that number alike must not lose an event in
        silence: what is skipped has to look like what is stored."""
        values = owner_values(self.owner) | {"b_run": self.run, "b_first": first, "b_last": last}
        stored = {row[0]: (row[1], row[2]) for row in connection.execute(_STORED, values)}
        for index, new in enumerate(self.events):
            event = new.event
            if event.sequence in stored and stored[event.sequence] != (event.kind, event.member):
                raise InvalidArgument.field(
                    f"events[{index}].sequence",
                    f"another event is stored under it; the next free one is {last + 1}",
                    event.sequence,
                )


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
