"""The loop: observe, decide, apply."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import structlog

from agentteams_operator.core import metrics
from agentteams_operator.core.apply import Applier
from agentteams_operator.core.cache import Cache
from agentteams_operator.core.objects import Key, Stored
from agentteams_operator.core.outcome import Outcome
from agentteams_operator.core.ports import ApiFailure
from agentteams_operator.core.queue import WorkQueue
from servicekit.counters import from_zero

Look = Callable[[Stored], Awaitable[Outcome]]
"""Observes and decides about one object."""
RESYNC_S = 600.0
_GONE = (404, 403)
_CONFLICT = 409
_SOON = (0, _CONFLICT, 429, 500, 503, 504)

log = structlog.get_logger()


class Reconciler:
    """Works off the queue.

    Args:
        looks: By kind. A kind that is no object (a pool) is asked with an object that has only its key.
        resync_s: Each object is looked at again so often at least.
    """

    def __init__(
        self,
        *,
        cache: Cache,
        queue: WorkQueue,
        applier: Applier,
        looks: Mapping[str, Look],
        workers: int,
        resync_s: float = RESYNC_S,
    ) -> None:
        self._cache = cache
        self._queue = queue
        self._applier = applier
        self._looks = looks
        from_zero(metrics.RECONCILES, kind=looks, outcome=metrics.OUTCOMES)
        self._workers = workers
        self._resync_s = resync_s

    async def work(self) -> None:
        """Until it is cancelled."""
        for key in self._cache.everything():
            self._queue.add(key)
        async with asyncio.TaskGroup() as group:
            for _ in range(self._workers):
                group.create_task(self._worker())

    async def _worker(self) -> None:
        while True:
            key = await self._queue.get()
            try:
                await self.reconcile(key)
            finally:
                self._queue.done(key)

    async def reconcile(self, key: Key) -> None:
        """One turn of one object. Never raises but for a cancellation: a failure is another turn later."""
        started = time.perf_counter()
        outcome = await self._turn(key)
        metrics.RECONCILES.labels(key.kind, outcome).inc()
        metrics.RECONCILE_SECONDS.labels(key.kind).observe(time.perf_counter() - started)

    async def _turn(self, key: Key) -> str:
        """How it ended, for the metrics."""
        look = self._looks.get(key.kind)
        one = self._cache.get(key) or (_nothing(key) if not key.name else None)
        if look is None or one is None:
            self._queue.forget(key)
            self._applier.forget(key)
            return "gone"
        try:
            outcome = await look(one)
            await self._applier.apply(one, outcome)
        except ApiFailure as error:
            if error.code in _GONE and self._leaving(key):
                self._queue.forget(key)
                return "gone"
            seconds = self._queue.retry(key)
            if error.code not in _SOON:
                log.warning("object_not_applied", object=str(key), error=str(error), again_s=round(seconds))
                return "refused"
            return "conflict" if error.code == _CONFLICT else "unavailable"
        except Exception:
            seconds = self._queue.retry(key)
            log.exception("object_failed", object=str(key), again_s=round(seconds))
            return "failed"
        self._queue.succeeded(key)
        self._queue.add_after(key, min(outcome.again_s, self._resync_s))
        return "done"

    def _leaving(self, key: Key) -> bool:
        """Whether the object, or its namespace, is being deleted."""
        if not key.namespace:
            return False
        one = self._cache.get(key)
        namespace = self._cache.get(Key("Namespace", "", key.namespace))
        if namespace is None or namespace.deleted_at is not None:
            return True
        return bool(key.name) and (one is None or one.deleted_at is not None)


def _nothing(key: Key) -> Stored:
    content: dict[str, Any] = {}
    return Stored(key=key, uid="", version="", content=content)
