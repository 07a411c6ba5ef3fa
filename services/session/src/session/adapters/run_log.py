"""The transaction that lets a log grow; begin_run has the other hot one.

Their statements assume that all is well and check it on the way (conditions
in UPDATE … RETURNING, unique constraints). Only when one fails are more
statements spent to say why. No statement looks at more rows than it writes,
so the cost does not grow with the length of a session or a log.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from servicekit.errors import InvalidArgument
from session.adapters import blobs, rows
from session.adapters.inputs import note, park, said, some_unread
from session.adapters.news import NOTIFY_FOLLOWERS
from session.adapters.records import (
    ACQUIRED,
    EVENT_OF_RUN,
    LOCK_SESSION_OF_RUN,
    RENEWED,
    UNTOUCHED,
    Missed,
    acquired_by_owner,
    insert_events,
    insert_messages,
    keep_summary,
    large,
)
from session.adapters.rows import RUNNING, owned, owner_values, to_us
from session.adapters.run_queue import begin_next
from session.adapters.score_rows import insert_scoring
from session.adapters.tables import run_events, runs, sessions
from session.core.model import (
    AcquiredRun,
    AppendedEvents,
    Event,
    Lease,
    NewEvent,
    Owner,
    RunInput,
    RunState,
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
    .returning(
        runs.c.session_id, runs.c.cancel_requested, some_unread(runs.c.id).correlate(runs), NOTIFY_FOLLOWERS
    )
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
        NOTIFY_FOLLOWERS,
        runs.c.team,
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
_NEXT_AGAIN = (
    sa.update(runs)
    .where(runs.c.session_id == sa.bindparam("b_id"), UNTOUCHED, runs.c.after_run == sa.bindparam("b_run"))
    .values(RENEWED)
    .returning(*ACQUIRED)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AppendEvents:
    """A transaction that appends events which all follow the last stored one."""

    owner: Owner
    run: str
    fencing_token: int
    events: Sequence[NewEvent]
    park_until: datetime | None
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
        if rest and state is RunState.WAITING:
            raise rows.lease_lost(run)
        if rest:
            return self._append(connection, rest)
        # All were stored. That renews the lease too, unless the run has ended.
        values |= {"b_token": token, "b_before": last, "b_last": last, "b_now": to_us(self.now)}
        row = connection.execute(_ADVANCE, values).one_or_none()
        if row is not None:
            return self._running(connection, last, row, told=True)
        next_run, finished = None, None
        if state.terminal and self.events[-1].end is not None:
            values |= {"b_id": found[4], "b_lease_owner": found[5]}
            row = connection.execute(_NEXT_AGAIN, values).one_or_none()
            next_run = None if row is None else acquired_by_owner(connection, self.owner, row)
            found_end = connection.execute(EVENT_OF_RUN, values | {"b_sequence": last}).all()
            [finished] = blobs.events_from(connection, self.owner, run, found_end)
        return AppendedEvents(
            last_sequence=last,
            cancel_requested=found[3],
            next_run=next_run,
            run_finished=finished,
            parked=state is RunState.WAITING,
        )

    def _append(self, connection: Connection, events: Sequence[NewEvent]) -> AppendedEvents:
        last, end, now_us = events[-1].event.sequence, events[-1].end, to_us(self.now)
        values = owner_values(self.owner) | {"b_run": self.run, "b_now": now_us}
        answers = [new.answer for new in events if new.answer is not None]
        for new in events:
            if new.summary is not None:
                keep_summary(connection, self.owner, self.run, new.summary)
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
        if end is not None and end.scoring is not None:
            insert_scoring(connection, self.owner, self.run, team=row[-1], new=end.scoring, now_us=now_us)
        if answers:
            insert_messages(
                connection, self.owner, session, self.run, answers, first=first_answer, now=self.now
            )
        note(connection, self.owner, self.run, events)
        if end is None:
            return self._running(connection, last, row, told=any(new.told for new in events))
        return AppendedEvents(
            last_sequence=last,
            cancel_requested=cancel_requested,
            next_run=self._begin_next(connection, row) if row[2] else None,
            run_finished=finished,
        )

    def _running(self, connection: Connection, last: int, row: rows.Row, *, told: bool) -> AppendedEvents:
        """Of a run that has not ended, with what people said; parks it if that is nothing."""
        _, cancel_requested, unread, _ = row
        new: tuple[RunInput, ...] = ()
        if unread or told or self.park_until is not None:
            new = said(connection, [self.run]).get(self.run, ())
        parked = False
        if self.park_until is not None and not cancel_requested and not new:
            park(connection, self.owner, self.run, self.park_until)
            parked = True
        return AppendedEvents(last_sequence=last, cancel_requested=cancel_requested, parked=parked, said=new)

    def _begin_next(self, connection: Connection, ended: rows.Row) -> AcquiredRun | None:
        session, _, _, lease_owner, address, duration_us, *_ = ended
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
