"""Metric labels whose values users make: the first so many of a process, then `other`."""

import asyncio
from collections.abc import Callable, Collection

OTHER = "other"
_FOLLOW_S = 5.0  # a third of Prometheus' usual scrape interval


class BoundedLabels:
    """Values that a label may have.

    Args:
        most: How many; what comes after them is called `other`.
        new: Is told of each value, and of `other`, before anybody gets it: here counters begin at 0.
    """

    def __init__(self, most: int, *, new: Callable[[str], object] = lambda _value: None) -> None:
        self._most = most
        self._new = new
        self._known: set[str] = set()
        self._has_other = False

    def of(self, value: str) -> str:
        """The value itself, or `other`."""
        if value in self._known:
            return value
        if len(self._known) >= self._most:
            return self._other()
        self._known.add(value)
        self._new(value)
        return value

    def expect(self, values: Collection[str]) -> None:
        """These will be asked for. Of more than there may be, those have a label that are asked for first."""
        if len(values) > self._most:
            self._other()
            return
        for value in values:
            self.of(value)

    async def follow(self, values: Callable[[], Collection[str]]) -> None:
        """Expects what there is now, for ever."""
        while True:
            self.expect(values())
            await asyncio.sleep(_FOLLOW_S)

    def _other(self) -> str:
        if not self._has_other:
            self._has_other = True
            self._new(OTHER)
        return OTHER
