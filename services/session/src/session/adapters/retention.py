"""Deletes sessions that nobody has used for as long as they are kept.

`sweep_time_us` says when to look at a session next. Using a session does not
move it (that would be an index to change with every message); looking does.
"""

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from servicekit.clock import Clock
from session.adapters.access import Bypass
from session.adapters.database import Database
from session.adapters.rows import to_us
from session.adapters.tables import runs, sessions
from session.adapters.user_rows import UNFINISHED

_LATER_US = 60_000_000  # a session that is due but works is looked at again a minute later

_NOW = sa.bindparam("b_now", type_=sa.BigInteger)
_IDS = sessions.c.id.in_(sa.bindparam("b_ids", expanding=True))
_END = sessions.c.update_time_us + sessions.c.retention_us
# SKIP LOCKED: two sweepers share the work, and neither waits for a session that is being used.
_DUE = (
    sa.select(sessions.c.id)
    .where(sessions.c.sweep_time_us.is_not(None), sessions.c.sweep_time_us < _NOW)
    .order_by(sessions.c.sweep_time_us)
    .limit(sa.bindparam("b_limit"))
    .with_for_update(skip_locked=True)
)
# A statement of its own after the lock, so that it sees what was committed before it.
_DELETE = sa.delete(sessions).where(
    _IDS,
    _END < _NOW,
    ~sa.exists().where(runs.c.session_id == sessions.c.id, UNFINISHED),
)
_POSTPONE = (
    sa.update(sessions).where(_IDS).values(sweep_time_us=sa.case((_END > _NOW, _END), else_=_NOW + _LATER_US))
)


class SqlRetentionStore:
    """RetentionStore on a Database."""

    def __init__(self, *, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def sweep(self, *, limit: int) -> tuple[int, int]:
        """See RetentionStore."""
        now_us = to_us(self._clock.now())

        def work(connection: Connection) -> tuple[int, int]:
            due = connection.execute(_DUE, {"b_now": now_us, "b_limit": limit}).scalars().all()
            if not due:
                return 0, 0
            values = {"b_now": now_us, "b_ids": due}
            deleted = connection.execute(_DELETE, values).rowcount
            if deleted < len(due):
                connection.execute(_POSTPONE, values)
            return len(due), deleted

        return await self._database.write(work, Bypass.RETENTION)
