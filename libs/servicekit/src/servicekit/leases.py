"""What is opened once for each key and shared by all who lease it: connections, models."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(slots=True, kw_only=True)
class _Open(Generic[V]):
    value: V
    users: int = 0
    dropped: bool = False


class Leases(Generic[K, V]):
    """Keeps the last used ones open.

    Args:
        most: Open at a time, beside those that are in use; the one not used for longest goes first, when
            nobody uses it any more.
        close: Closes one.
    """

    def __init__(self, *, most: int, close: Callable[[V], Awaitable[object]]) -> None:
        self._most = most
        self._close = close
        self._open: OrderedDict[K, _Open[V]] = OrderedDict()
        self._opening = asyncio.Lock()

    def __len__(self) -> int:
        """How many would be leased without making one."""
        return len(self._open)

    @asynccontextmanager
    async def lease(self, key: K, make: Callable[[], Awaitable[V]]) -> AsyncIterator[V]:
        """The one of that key, open for the block; made if there is none."""
        opened = self._open.get(key)
        if opened is None:
            async with self._opening:
                opened = self._open.get(key)
                if opened is None:
                    opened = self._open[key] = _Open(value=await make())
        self._open.move_to_end(key)
        opened.users += 1
        try:
            await self._shrink()
            yield opened.value
        finally:
            opened.users -= 1
            if opened.dropped and opened.users == 0:
                await self._close(opened.value)

    async def close(self) -> None:
        """Closes all; no lease follows."""
        while self._open:
            _, opened = self._open.popitem()
            await self._close(opened.value)

    async def _shrink(self) -> None:
        while len(self._open) > self._most:
            _, oldest = self._open.popitem(last=False)
            oldest.dropped = True
            if oldest.users == 0:
                await self._close(oldest.value)
