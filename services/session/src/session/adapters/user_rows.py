"""Forks, export and erasure: the parts of the session store that work on a user's rows as a whole."""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from servicekit.clock import Clock
from servicekit.errors import InvalidArgument
from session.adapters import rows
from session.adapters.database import Database, Duplicate
from session.adapters.rows import RUN, SESSION, owned, owner_values, to_us
from session.adapters.tables import blobs, memories, messages, run_events, runs, sessions, team_evaluations
from session.core.model import Owner, Run, RunState, Session
from session.core.user_data import MAX_FORK_MESSAGES, Erased, NewFork, SessionTimes

# Sessions of one erasing transaction, events or messages, and parts of 256 KiB: a
# lock is held no longer than some ten thousand rows take.
_ERASE_SESSIONS = 20
_ERASE_ROWS = 5_000
_ERASE_PARTS = 500

# Literals, so that an index on running or pending runs can serve them.
UNFINISHED = runs.c.state.in_(
    [sa.literal_column(str(int(state))) for state in RunState if not state.terminal]
)

_SOURCE = sa.select(
    sessions.c.team,
    sessions.c.display_name,
    sessions.c.retention_us,
    sessions.c.history_summary,
    sessions.c.summary_through,
).where(sessions.c.id == sa.bindparam("b_id"), owned(sessions))
_UP_TO = sa.and_(
    messages.c.session_id == sa.bindparam("b_id"),
    owned(messages),
    messages.c.sequence <= sa.bindparam("b_last"),
)
_COPIED = [c for c in messages.c if c.name != "session_id"]
_COPY = sa.insert(messages).from_select(
    ["session_id", *(c.name for c in _COPIED)],
    sa.select(sa.bindparam("b_new", type_=sa.String), *_COPIED).where(_UP_TO).order_by(messages.c.sequence),
)
_BLOBS = [c for c in blobs.c if c.name != "session_id"]
_COPY_BLOBS = sa.insert(blobs).from_select(
    ["session_id", *(c.name for c in _BLOBS)],
    sa.select(sa.bindparam("b_new", type_=sa.String), *_BLOBS).where(
        blobs.c.session_id == sa.bindparam("b_id"),
        owned(blobs),
        blobs.c.digest.in_(sa.select(messages.c.blob_digest).where(_UP_TO)),
    ),
)
_HAS_MESSAGE = sa.select(messages.c.sequence).where(
    messages.c.session_id == sa.bindparam("b_id"),
    owned(messages),
    messages.c.sequence == sa.bindparam("b_last"),
)
_BY_REQUEST = sa.select(*SESSION, sessions.c.body_hash).where(
    owned(sessions), sessions.c.request_id == sa.bindparam("b_request")
)
_UNFINISHED_RUN = sa.select(runs.c.session_id, runs.c.id).where(owned(runs), UNFINISHED).limit(1)
_SOME_SESSIONS = (
    sa.select(sessions.c.id)
    .where(owned(sessions))
    .order_by(sessions.c.update_time_us, sessions.c.id)
    .limit(_ERASE_SESSIONS)
    .with_for_update()
)


class UserRows:
    """Mixed into the session store. See UserDataStore."""

    _database: Database
    _clock: Clock
    _new_id: Callable[[], str]

    async def fork_session(self, owner: Owner, new: NewFork) -> Session:
        """See UserDataStore."""
        values = owner_values(owner) | {"b_request": new.request_id}
        known = await self._database.read(lambda c: c.execute(_BY_REQUEST, values).one_or_none(), owner)
        if known is None:
            id_, now_us = self._new_id(), to_us(self._clock.now())
            try:
                return await self._database.write(lambda c: _fork(c, owner, new, id_, now_us), owner)
            except Duplicate:
                known = await self._database.read(
                    lambda c: c.execute(_BY_REQUEST, values).one_or_none(), owner
                )
                if known is None:
                    raise
        if known[-1] != new.body_hash:
            raise rows.request_id_reused(new.request_id)
        return rows.session_from(known)

    async def sessions_by_use(
        self, owner: Owner, *, after: tuple[datetime, str] | None, limit: int
    ) -> tuple[Session, ...]:
        """See UserDataStore."""
        query = sa.select(*SESSION).where(owned(sessions))
        query = _oldest_first(query, sessions.c.update_time_us, sessions.c.id, after, limit)
        found = await self._database.read(lambda c: c.execute(query, owner_values(owner)).all(), owner)
        return tuple(map(rows.session_from, found))

    async def runs_of_session(
        self, owner: Owner, session: str, *, after: tuple[datetime, str] | None, limit: int
    ) -> tuple[Run, ...]:
        """See UserDataStore."""
        query = sa.select(*RUN).where(owned(runs), runs.c.session_id == sa.bindparam("b_id"))
        query = _oldest_first(query, runs.c.create_time_us, runs.c.id, after, limit)
        values = owner_values(owner) | {"b_id": session}
        found = await self._database.read(lambda c: c.execute(query, values).all(), owner)
        return tuple(map(rows.run_from, found))

    async def erase_some(self, owner: Owner) -> Erased:
        """See UserDataStore."""
        return await self._database.write(lambda c: _erase(c, owner), owner)


def within(times: SessionTimes) -> Iterator[sa.ColumnElement[bool]]:
    """The conditions of `times` on sessions."""
    for column, first, end in (
        (sessions.c.update_time_us, times.updated_after, times.updated_before),
        (sessions.c.create_time_us, times.created_after, times.created_before),
    ):
        if first is not None:
            yield column >= to_us(first)
        if end is not None:
            yield column < to_us(end)


def _fork(connection: Connection, owner: Owner, new: NewFork, id_: str, now_us: int) -> Session:
    values = owner_values(owner) | {"b_id": new.session, "b_last": new.sequence}
    source = connection.execute(_SOURCE, values).one_or_none()
    if source is None:
        raise rows.session_not_found(new.session)
    if connection.execute(_HAS_MESSAGE, values).one_or_none() is None:
        raise InvalidArgument.field(
            "message",
            f"sessions/{new.session} has no such message",
            f"sessions/{new.session}/messages/{new.sequence}",
        )
    if new.sequence > MAX_FORK_MESSAGES:
        raise InvalidArgument.field(
            "message", f"at most {MAX_FORK_MESSAGES} messages are copied; fork earlier", new.sequence
        )
    retention_us = source.retention_us
    covered = source.summary_through <= new.sequence
    row: dict[str, Any] = {
        "id": id_,
        "tenant": owner.tenant,
        "owner": owner.user,
        "team": source.team,
        "display_name": new.display_name or source.display_name,
        "create_time_us": now_us,
        "update_time_us": now_us,
        "message_count": new.sequence,
        "request_id": new.request_id,
        "body_hash": new.body_hash,
        "retention_us": retention_us,
        "sweep_time_us": None if retention_us is None else now_us + retention_us,
        # A summary of messages that the fork does not have would tell it what was never said there.
        "history_summary": source.history_summary if covered else "",
        "summary_through": source.summary_through if covered else 0,
    }
    connection.execute(sa.insert(sessions), row)
    connection.execute(_COPY, values | {"b_new": id_})
    connection.execute(_COPY_BLOBS, values | {"b_new": id_})
    return rows.session_from([row[column.name] for column in SESSION])


def _erase(connection: Connection, owner: Owner) -> Erased:
    values = owner_values(owner)
    some = list(connection.execute(_SOME_SESSIONS, values).scalars())
    # After the lock: a run cannot begin in a session that is locked.
    busy = connection.execute(_UNFINISHED_RUN, values).one_or_none()
    if busy is not None:
        raise rows.session_busy(busy[0], busy[1])
    if not some:
        forget = sa.delete(memories).where(owned(memories))
        evaluations = sa.delete(team_evaluations).where(owned(team_evaluations))
        return Erased(
            memories=connection.execute(forget, values).rowcount,
            team_evaluations=connection.execute(evaluations, values).rowcount,
        )
    erased = Erased()
    of_runs = sa.select(runs.c.id).where(owned(runs), runs.c.session_id.in_(some))
    # In this order, so that nothing that is still there names what is gone.
    for table, condition, limit, name in (
        (run_events, run_events.c.run_id.in_(of_runs), _ERASE_ROWS, "run_events"),
        (messages, messages.c.session_id.in_(some), _ERASE_ROWS, "messages"),
        (blobs, blobs.c.session_id.in_(some), _ERASE_PARTS, "blob_parts"),
    ):
        gone = _delete_some(connection, table, condition, limit, values)
        erased += Erased(**{name: gone})
        if gone == limit:
            return erased  # the sessions stay until all of it is gone
    return erased + Erased(
        runs=_delete(connection, runs, runs.c.session_id, some, values),
        sessions=_delete(connection, sessions, sessions.c.id, some, values),
    )


def _delete_some(
    connection: Connection,
    table: sa.Table,
    condition: sa.ColumnElement[bool],
    limit: int,
    values: dict[str, Any],
) -> int:
    keys = list(table.primary_key)
    chunk = sa.select(*keys).where(owned(table), condition).limit(limit)
    return connection.execute(
        sa.delete(table).where(owned(table), sa.tuple_(*keys).in_(chunk)), values
    ).rowcount


def _delete(
    connection: Connection,
    table: sa.Table,
    column: sa.ColumnElement[str],
    ids: Sequence[str],
    values: dict[str, Any],
) -> int:
    return connection.execute(sa.delete(table).where(owned(table), column.in_(ids)), values).rowcount


def _oldest_first(
    query: sa.Select[Any],
    time_us: sa.ColumnElement[int],
    id_: sa.ColumnElement[str],
    after: tuple[datetime, str] | None,
    limit: int,
) -> sa.Select[Any]:
    if after is not None:
        query = query.where(sa.tuple_(time_us, id_) > sa.tuple_(to_us(after[0]), after[1]))
    return query.order_by(time_us, id_).limit(limit)
