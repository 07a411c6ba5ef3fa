"""The sweeper against stores that cannot delete much at once."""

from datetime import timedelta

import pytest

from servicekit.errors import Unavailable
from session.sweeper import BATCH_SESSIONS, Sweeper


class SlowStore:
    """Has so many sessions that are due, and deletes at most `most` in time."""

    def __init__(self, *, due: int, most: int) -> None:
        self.due, self.most = due, most
        self.asked: list[int] = []

    async def sweep(self, *, limit: int) -> tuple[int, int]:
        self.asked.append(limit)
        if limit > self.most:
            raise Unavailable("too slow", reason="DEPENDENCY_UNAVAILABLE")
        deleted = min(limit, self.due)
        self.due -= deleted
        return deleted, deleted


def sweeper(store: SlowStore) -> Sweeper:
    return Sweeper(store=store, pause=timedelta())


async def test_what_takes_too_long_at_once_is_deleted_in_smaller_batches() -> None:
    store = SlowStore(due=25, most=10)
    assert await sweeper(store).sweep() == 25
    assert store.asked == [BATCH_SESSIONS, 10, 10, 10]
    assert store.due == 0


async def test_a_database_that_is_away_is_left_alone_until_the_next_time() -> None:
    store = SlowStore(due=1, most=0)
    with pytest.raises(Unavailable):
        await sweeper(store).sweep()
    assert store.asked == [BATCH_SESSIONS, 10, 1]
