"""Kinds of others' operators that come and go."""

import asyncio

import pytest

from agentteams_operator.core.ports import ApiFailure
from agentteams_operator.core.served import Served
from servicekit.clock import SystemClock

pytestmark = pytest.mark.looptime


class Cluster:
    """An API server with some kinds."""

    def __init__(self) -> None:
        self.kinds: set[str] = set()
        self.asked = 0
        self.away = False
        self.told: list[tuple[str, bool]] = []
        self.served = Served(api=self, clock=SystemClock(), changed=lambda *what: self.told.append(what))

    async def serves(self, kind: str) -> bool:
        self.asked += 1
        if self.away:
            raise ApiFailure("away")
        return kind in self.kinds


async def test_a_kind_that_comes_or_goes_is_noticed_by_itself() -> None:
    cluster = Cluster()
    assert not await cluster.served.has("ScaledObject")
    following = asyncio.create_task(cluster.served.follow())
    try:
        await asyncio.sleep(11)
        assert cluster.told == []
        cluster.kinds.add("ScaledObject")
        await asyncio.sleep(11)
        assert cluster.told == [("ScaledObject", True)]
        cluster.away = True  # nobody knows: it stays as it was
        cluster.kinds.clear()
        await asyncio.sleep(30)
        assert cluster.told == [("ScaledObject", True)]
        cluster.away = False
        await asyncio.sleep(11)
        assert cluster.told == [("ScaledObject", True), ("ScaledObject", False)]
    finally:
        following.cancel()


async def test_what_nobody_wants_to_know_is_not_asked() -> None:
    cluster = Cluster()
    following = asyncio.create_task(cluster.served.follow())
    await asyncio.sleep(100)
    assert cluster.asked == 0
    following.cancel()


async def test_looks_of_a_moment_share_an_answer() -> None:
    cluster = Cluster()
    for _ in range(3):
        assert not await cluster.served.has("ScaledObject")
    assert cluster.asked == 1
