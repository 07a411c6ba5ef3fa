"""What is opened once and shared."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from servicekit.leases import Leases


class Things:
    def __init__(self, most: int = 2) -> None:
        self.made: list[str] = []
        self.closed: list[str] = []
        self.leases = Leases[str, str](most=most, close=self._close)

    async def _close(self, value: str) -> None:
        self.closed.append(value)

    async def use(self, key: str) -> str:
        async def make() -> str:
            await asyncio.sleep(0)
            self.made.append(key)
            return key

        async with self.leases.lease(key, make) as value:
            return value


async def test_all_who_come_at_once_share_one() -> None:
    things = Things()
    assert await asyncio.gather(*(things.use("a") for _ in range(5))) == ["a"] * 5
    assert things.made == ["a"]
    await things.leases.close()
    assert things.closed == ["a"]


async def test_the_one_unused_for_longest_goes_when_nobody_uses_it() -> None:
    things = Things()

    async def make() -> str:
        return "a"

    async with AsyncExitStack() as stack:
        await stack.enter_async_context(things.leases.lease("a", make))
        await stack.enter_async_context(things.leases.lease("a", make))
        for key in ("b", "c", "b", "d"):
            await things.use(key)
        assert things.closed == ["c"]  # a was the first to go, and is in use
    assert things.closed == ["c", "a"]
    await things.leases.close()
    assert sorted(things.closed) == ["a", "b", "c", "d"]


async def test_what_cannot_be_made_is_tried_again() -> None:
    things = Things()

    async def fail() -> str:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        async with things.leases.lease("a", fail):
            pass
    assert await things.use("a") == "a"
