"""Tells the session service how many runs a namespace may have at a time: it is what counts them."""

from dataclasses import replace

import structlog

from agentteams_operator.core.cache import Cache
from agentteams_operator.core.objects import TEAM, Stored
from agentteams_operator.core.outcome import Outcome
from agentteams_operator.core.ports import RunLimits, RunLimitsUnavailable
from agentteams_operator.core.quotas import Limit, Quotas
from agentteams_operator.core.reconciler import Look
from servicekit.clock import Clock

_GOOD_FOR_S = 300.0  # a session database that was restored may hold another number
_SILENT_S = 5.0
_AGAIN_S = 10.0
_MOST = 4096

log = structlog.get_logger()


class RunQuotas:
    """Adds the quota of a namespace to the look at its pool.

    While the session service is silent the number before holds, and no run begins: it is what begins them.
    One look finds out, and the others do not wait for it.

    Args:
        look: At the pool itself.
    """

    def __init__(self, *, look: Look, cache: Cache, quotas: Quotas, limits: RunLimits, clock: Clock) -> None:
        self._look = look
        self._cache = cache
        self._quotas = quotas
        self._limits = limits
        self._clock = clock
        self._told: dict[str, tuple[float, Limit | None]] = {}
        self._silent_at: float | None = None

    async def look(self, one: Stored) -> Outcome:
        """What to do about the pool; the quota is told before its pods are made."""
        outcome = await self._look(one)
        if await self._tell(one.key.namespace):
            return outcome
        return replace(outcome, again_s=_AGAIN_S)

    async def _tell(self, namespace: str) -> bool:
        """Whether the session service knows."""
        now = self._clock.monotonic()
        limit = self._quotas.limit(namespace, "concurrent-runs")
        known = self._told.get(namespace)
        if known is None and not self._cache.names(TEAM, namespace):
            return True  # nothing runs in it
        if known is not None and known[1] == limit and now - known[0] < _GOOD_FOR_S:
            return True
        if self._silent_at is not None and now - self._silent_at < _SILENT_S:
            return False
        if self._silent_at is not None:
            self._silent_at = now
        try:
            await self._limits.tell(
                namespace, None if limit is None else limit.most, source="" if limit is None else limit.source
            )
        except RunLimitsUnavailable as error:
            if self._silent_at is None:
                log.warning("run_quota_not_told", namespace=namespace, error=str(error))
            self._silent_at = self._clock.monotonic()
            return False
        self._silent_at = None
        self._told.pop(namespace, None)
        if len(self._told) >= _MOST:
            del self._told[next(iter(self._told))]
        self._told[namespace] = (now, limit)
        return True
