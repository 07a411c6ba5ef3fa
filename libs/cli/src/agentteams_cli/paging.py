"""Lists that come in pages."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeVar

Item = TypeVar("Item")


async def pages(page: Callable[[str], Awaitable[tuple[Sequence[Item], str]]]) -> AsyncIterator[Item]:
    """All items; `page` takes a token and returns items with the next token, empty at the end."""
    token = ""
    while True:
        items, token = await page(token)
        for item in items:
            yield item
        if not token:
            return
