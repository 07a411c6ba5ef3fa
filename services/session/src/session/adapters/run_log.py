"""The two hot transactions: a run begins, its log grows.

Their statements assume that all is well and check it on the way (conditions
in UPDATE … RETURNING, unique constraints). Only when one fails are more
statements spent to say why. No statement looks at more rows than it writes,
so the cost does not grow with the length of a session or a log.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from servicekit.errors import InvalidArgument
from session.adapters import rows
from session.adapters.rows import MESSAGE, RUN, RUNNING, owned, owner_values, to_us
from session.adapters.tables import messages, run_events, runs, sessions
from session.core.model import BegunRun, Event, NewEvent, NewMessage, NewRun, Owner, RunState

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
    )
    .returning(sessions.c.message_count)
)
_ADD_ANSWERS = (
    sa.update(sessions)
    .where(sessions.c.id == sa.bindparam("b_id"), owned(sessions))
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
    .returning(runs.c.session_id)
)
_FINISH = (
    sa.update(runs)
    .where(_APPENDABLE)
    .values(
        last_sequence=sa.bindparam("b_last"),
        state=sa.bindparam("b_state"),
        summary=sa.bindparam("b_summary"),
        status=sa.bindparam("b_status"),
        end_time_us=sa.bindparam("b_now"),
        lease_owner="",
        lease_expire_time_us=None,
    )
    .returning(runs.c.session_id)
)
_HISTORY = (
    sa.select(*MESSAGE)
    .where(
        messages.c.session_id == sa.bindparam("b_id"),
        owned(messages),
        messages.c.sequence < sa.bindparam("b_before"),
    )
    .order_by(messages.c.sequence.desc())
    .limit(sa.bindparam("b_limit"))
)
_LEASED_RUN = (
    sa.select(runs.c.state, runs.c.fencing_token, runs.c.last_sequence)
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
_INSERT_RUN = sa.insert(runs)
_INSERT_MESSAGES = sa.insert(messages)
_INSERT_EVENTS = sa.insert(run_events)


class Missed(Exception):
    """A hot statement met no row; the transaction is undone and the reason looked up."""


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
        """Raises Missed (no such session of that team) or the driver's IntegrityError."""
        new, session, count = self.new, self.new.session or self.new_session, len(self.new.input)
        first = self._add_input(connection) - count + 1
        row = self._run_row(session)
        connection.execute(_INSERT_RUN, row)
        inputs = _message_rows(self.owner, session, row, first, new.input)
        connection.execute(_INSERT_MESSAGES, inputs)
        event = new.first_event(session, first, self.now)
        connection.execute(_INSERT_EVENTS, _event_row(self.owner, self.run, event))
        history: Sequence[rows.Row] = ()
        if new.history_messages and first > 1:
            limits = {"b_id": session, "b_before": first, "b_limit": new.history_messages}
            history = connection.execute(_HISTORY, owner_values(self.owner) | limits).all()
        return BegunRun(
            run=rows.run_from([row[column.name] for column in RUN]),
            created=True,
            fencing_token=_FIRST_TOKEN,
            history=tuple(map(rows.message_from, reversed(history))),
            started=event,
        )

    def _add_input(self, connection: Connection) -> int:
        """Makes room in the session; returns the sequence of the last input message."""
        count = len(self.new.input)
        if self.new_session:
            row = session_row(self.owner, self.new_session, self.new.team, self.new.title, to_us(self.now))
            connection.execute(_INSERT_SESSION, row | {"message_count": count})
            return count
        values = owner_values(self.owner) | {
            "b_id": self.new.session,
            "b_team": self.new.team,
            "b_count": count,
            "b_now": to_us(self.now),
            "b_title": self.new.title,
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
            "last_sequence": 1,
            "summary": b"",
            "status": b"",
            "request_id": new.request_id,
            "body_hash": new.body_hash,
            "lease_owner": new.lease.owner,
            "lease_duration_us": rows.duration_us(new.lease.duration),
            "lease_expire_time_us": now_us + rows.duration_us(new.lease.duration),
            "fencing_token": _FIRST_TOKEN,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class AppendEvents:
    """A transaction that appends events which all follow the last stored one."""

    owner: Owner
    run: str
    fencing_token: int
    events: Sequence[NewEvent]
    now: datetime

    def __call__(self, connection: Connection) -> int:
        """Returns the last stored sequence. Raises Missed if anything is not as assumed."""
        return self._append(connection, self.events)

    def rest(self, connection: Connection) -> int:
        """Appends what is not stored yet, or says why nothing can be appended.

        Returns:
            The last stored sequence.

        Raises:
            ServiceError: As SessionStore.append_events.
        """
        run, values = self.run, owner_values(self.owner) | {"b_run": self.run}
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
        return last

    def _append(self, connection: Connection, events: Sequence[NewEvent]) -> int:
        last, end, now_us = events[-1].event.sequence, events[-1].end, to_us(self.now)
        values = owner_values(self.owner) | {
            "b_run": self.run,
            "b_token": self.fencing_token,
            "b_before": events[0].event.sequence - 1,
            "b_last": last,
            "b_now": now_us,
        }
        if end is None:
            session = connection.execute(_ADVANCE, values).scalar_one_or_none()
        else:
            values |= {"b_state": int(end.state), "b_summary": end.summary, "b_status": end.status}
            session = connection.execute(_FINISH, values).scalar_one_or_none()
        if session is None:
            raise Missed
        connection.execute(_INSERT_EVENTS, [_event_row(self.owner, self.run, new.event) for new in events])
        answers = [new.answer for new in events if new.answer is not None]
        if answers:
            values = owner_values(self.owner) | {"b_id": session, "b_count": len(answers), "b_now": now_us}
            first = connection.execute(_ADD_ANSWERS, values).scalar_one() - len(answers) + 1
            stamp = {"id": self.run, "create_time_us": now_us}
            connection.execute(_INSERT_MESSAGES, _message_rows(self.owner, session, stamp, first, answers))
        return last

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


def _message_rows(
    owner: Owner, session: str, run: dict[str, Any], first: int, new: Sequence[NewMessage]
) -> list[dict[str, Any]]:
    return [
        {
            "session_id": session,
            "sequence": sequence,
            "tenant": owner.tenant,
            "owner": owner.user,
            "role": int(message.role),
            "content": message.content,
            "run_id": run["id"],
            "create_time_us": run["create_time_us"],
            "citations": message.citations,
        }
        for sequence, message in enumerate(new, first)
    ]


def _event_row(owner: Owner, run: str, event: Event) -> dict[str, Any]:
    return {
        "run_id": run,
        "sequence": event.sequence,
        "tenant": owner.tenant,
        "owner": owner.user,
        "kind": event.kind,
        "member": event.member,
        "create_time_us": to_us(event.create_time),
        "payload": event.payload,
    }
