"""Which kinds of others' operators the cluster has."""

import asyncio
from collections.abc import Callable
from typing import Protocol

import structlog

from agentteams_operator.core.ports import ApiFailure
from servicekit.clock import Clock

_GOOD_FOR_S = 10.0
_AGAIN_S = 10.0

log = structlog.get_logger()


class Discovery(Protocol):
    """What is needed of the API server."""

    async def serves(self, kind: str) -> bool:
        """Whether it has such objects. Raises ApiFailure."""
        ...


class Served:
    """Asks the API server when somebody wants to know, and by itself each 10 s after that.

    Args:
        changed: Told a kind that has come (True) or gone since somebody asked first.
    """

    def __init__(
        self,
        *,
        api: Discovery,
        clock: Clock,
        changed: Callable[[str, bool], None] = lambda _kind, _there: None,
    ) -> None:
        self._api = api
        self._clock = clock
        self._changed = changed
        self._known: dict[str, tuple[float, bool]] = {}

    async def has(self, kind: str) -> bool:
        """Whether such objects can be made. Raises ApiFailure."""
        known = self._known.get(kind)
        if known is not None and self._clock.monotonic() - known[0] < _GOOD_FOR_S:
            return known[1]
        return await self._ask(kind)

    async def follow(self) -> None:
        """Until it is cancelled."""
        while True:
            await asyncio.sleep(_AGAIN_S)
            for kind in list(self._known):
                try:
                    await self._ask(kind)
                except ApiFailure as error:
                    log.info("kind_not_looked_up", kind=kind, error=str(error))

    async def _ask(self, kind: str) -> bool:
        found = await self._api.serves(kind)
        known = self._known.get(kind)
        self._known[kind] = (self._clock.monotonic(), found)
        if known is not None and known[1] != found:
            log.info("kind_found" if found else "kind_gone", kind=kind)
            self._changed(kind, found)
        return found
