"""Who waits for what comes next in a log, and how they hear of it.

A follower marks its run first (`followed_until_us`). Appends to a marked run, by
any process, notify on Postgres; appends to others, nearly all of them, do
nothing more than before. A NOTIFY in every append would cost dear: commits that
have one take turns in the whole cluster of databases.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from servicekit.errors import ResourceExhausted
from session.adapters.tables import runs

CHANNEL = "agentteams_run_events"
SLOW_POLL = timedelta(seconds=1)  # while nobody tells
# Marks are compared with the clocks of other processes.
MARK_LONGER = timedelta(seconds=30)


class _NotifyFollowers(FunctionElement[Any]):
    """In RETURNING of a statement that changes a run, with the parameter b_now."""

    inherit_cache = True
    type = sa.types.NullType()


@compiles(_NotifyFollowers, "postgresql")
def _notify(element: _NotifyFollowers, compiler: Any, **options: Any) -> str:
    marked = runs.c.followed_until_us > sa.bindparam("b_now", type_=sa.BigInteger)
    told = sa.func.pg_notify(sa.literal_column(f"'{CHANNEL}'"), runs.c.id)
    return str(compiler.process(sa.case((marked, told)), **options))


@compiles(_NotifyFollowers, "sqlite")
def _nothing(element: _NotifyFollowers, compiler: Any, **options: Any) -> str:
    return "NULL"  # nobody else writes there: the store tells its followers itself


NOTIFY_FOLLOWERS = _NotifyFollowers()


class RunNews:
    """The followers of this process.

    Args:
        most: How many there may be.
    """

    def __init__(self, *, most: int = 2_000) -> None:
        self._most = most
        self._count = 0
        self._followers: dict[str, set[asyncio.Event]] = {}
        self.heard_from_others = True  # or nobody else appends
        self.stopped = False

    @contextmanager
    def following(self, run: str) -> Iterator[asyncio.Event]:
        """An event that is set when there may be something new.

        Raises:
            ResourceExhausted: Too many follow already.
        """
        if self._count >= self._most:
            raise ResourceExhausted(
                f"{self._count} calls wait for events already; ask without `wait`, once a second",
                reason="TOO_MANY_FOLLOWERS",
                metadata={"waiting": str(self._count)},
                retry_after=timedelta(seconds=1),
            )
        event = asyncio.Event()
        self._count += 1
        self._followers.setdefault(run, set()).add(event)
        try:
            yield event
        finally:
            self._count -= 1
            followers = self._followers[run]
            followers.discard(event)
            if not followers:
                del self._followers[run]

    def tell(self, run: str) -> None:
        """There may be something new in a run."""
        for event in self._followers.get(run, ()):
            event.set()

    def hears(self, others: bool) -> None:
        """What others append is heard from now on, or not any more. Followers look for themselves once."""
        self.heard_from_others = others
        self._tell_all()

    def stop(self) -> None:
        """Nobody waits any longer: the process stops."""
        self.stopped = True
        self._tell_all()

    def _tell_all(self) -> None:
        for run in self._followers:
            self.tell(run)
