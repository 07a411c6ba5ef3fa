"""How many chunks of one document. Pure."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def at_most(items: Iterable[Item], maximum: int, *, document: Callable[[Item], str]) -> Iterator[Item]:
    """The items in their order, without those that come after `maximum` of the same document; 0: all."""
    if not maximum:
        yield from items
        return
    seen: Counter[str] = Counter()
    for item in items:
        key = document(item)
        if seen[key] < maximum:
            seen[key] += 1
            yield item
