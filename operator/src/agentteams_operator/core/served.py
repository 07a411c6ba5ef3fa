"""Which kinds of others' operators the cluster has."""

from typing import Protocol

from servicekit.clock import Clock

_GOOD_FOR_S = 60.0


class Discovery(Protocol):
    """What is needed of the API server."""

    async def serves(self, kind: str) -> bool:
        """Whether it has such objects. Raises ApiFailure."""
        ...


class Served:
    """Asks the API server at most once a minute."""

    def __init__(self, *, api: Discovery, clock: Clock) -> None:
        self._api = api
        self._clock = clock
        self._known: dict[str, tuple[float, bool]] = {}

    async def has(self, kind: str) -> bool:
        """Whether such objects can be made. Raises ApiFailure."""
        now = self._clock.monotonic()
        known = self._known.get(kind)
        if known is not None and now - known[0] < _GOOD_FOR_S:
            return known[1]
        found = await self._api.serves(kind)
        self._known[kind] = (now, found)
        return found
