"""Reading a run's log, and waiting for what comes next."""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from servicekit.clock import Clock
from session.adapters import blobs, rows
from session.adapters.database import Database
from session.adapters.news import MARK_LONGER, SLOW_POLL, RunNews
from session.adapters.rows import EVENT, owned, owner_values, to_us
from session.adapters.tables import run_events, runs
from session.core.model import Event, Owner, RunState
from session.core.pages import PAGE_BYTES, oldest_within

T = TypeVar("T")

_EVENTS_AFTER = (
    sa.select(*EVENT)
    .where(
        run_events.c.run_id == sa.bindparam("b_run"),
        owned(run_events),
        run_events.c.sequence > sa.bindparam("b_after"),
    )
    .order_by(run_events.c.sequence)
    .limit(sa.bindparam("b_limit"))
)
_MINE = sa.and_(runs.c.id == sa.bindparam("b_run"), owned(runs))
_MARK = (
    sa.update(runs)
    .where(_MINE)
    .values(followed_until_us=sa.bindparam("b_until", type_=sa.BigInteger))
    .returning(runs.c.state, runs.c.last_sequence)
)
_LOOK = sa.select(runs.c.state, runs.c.last_sequence).where(_MINE)


class EventRows:
    """Mixed into the session store."""

    _database: Database
    _clock: Clock
    _news: RunNews

    async def list_run_events(
        self, owner: Owner, run: str, *, after_sequence: int, limit: int, wait: timedelta = timedelta(0)
    ) -> tuple[Event, ...]:
        """See SessionStore."""
        if wait and not self._news.stopped and not await self._wait_for(owner, run, after_sequence, wait):
            return ()
        values = owner_values(owner) | {"b_run": run, "b_after": after_sequence, "b_limit": limit}

        def look(connection: Connection) -> tuple[Event, ...]:
            found = connection.execute(_EVENTS_AFTER, values).all()
            fit = oldest_within(found, PAGE_BYTES, blobs.event_bytes)
            return tuple(blobs.events_from(connection, owner, run, fit))

        events = await self._whole(look, owner)
        if not events:
            await self._state_and_last(_LOOK, owner, run)
        return events

    async def _wait_for(self, owner: Owner, run: str, after: int, wait: timedelta) -> bool:
        """Whether there is an event; or there will be none any more, or the time is over."""
        loop = asyncio.get_running_loop()
        end = loop.time() + wait.total_seconds()
        until = self._clock.now() + wait + MARK_LONGER
        with self._news.following(run) as told:
            # The mark waits for an append that is on its way, and the next one sees it.
            state, last = await self._state_and_last(_MARK, owner, run, until)
            while last <= after and not state.terminal and not self._news.stopped:
                left = end - loop.time()
                quiet = left if self._news.heard_from_others else min(left, SLOW_POLL.total_seconds())
                try:
                    async with asyncio.timeout(quiet):
                        await told.wait()
                except TimeoutError:
                    if loop.time() >= end:
                        return False  # who asks again marks again, and sees what there is
                told.clear()
                state, last = await self._state_and_last(_LOOK, owner, run)
            return last > after

    async def _state_and_last(
        self, query: sa.Executable, owner: Owner, run: str, until: datetime | None = None
    ) -> tuple[RunState, int]:
        values: dict[str, Any] = owner_values(owner) | {"b_run": run}
        if until is None:
            row = await self._database.read(lambda c: c.execute(query, values).one_or_none(), owner)
        else:
            values["b_until"] = to_us(until)
            row = await self._database.write(lambda c: c.execute(query, values).one_or_none(), owner)
        if row is None:
            raise rows.run_not_found(run)
        return RunState(row[0]), row[1]

    async def _whole(self, look: Callable[[Connection], T], owner: Owner) -> T:
        """Reads rows with their blobs."""
        try:
            return await self._database.read(look, owner)
        except blobs.BlobMissing:
            # Deleted between the two statements: now the rows are gone as well.
            return await self._database.read(look, owner)
