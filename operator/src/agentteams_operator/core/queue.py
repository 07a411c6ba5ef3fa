"""Keys that must be looked at: each once, by one worker at a time, again later when that failed."""

import asyncio
import random
from collections import OrderedDict
from collections.abc import Mapping

from agentteams_operator.core import metrics
from agentteams_operator.core.objects import Key

FIRST_RETRY_S = 1.0
LONGEST_RETRY_S = 300.0
_JITTER = 0.2


class WorkQueue:
    """As big as there are objects, since it holds a key once. Used from one event loop."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[Key, float] = OrderedDict()  # since when
        self._working: set[Key] = set()
        self._again: set[Key] = set()
        self._failures: dict[Key, int] = {}
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._wake = asyncio.Event()

    def __len__(self) -> int:
        """How many wait for their turn now."""
        return len(self._waiting)

    @property
    def retrying(self) -> Mapping[Key, int]:
        """Those whose last turn failed, with how many before it did without a success between."""
        return self._failures

    def add(self, key: Key) -> None:
        """Now; after its present turn, if it has one."""
        if key in self._working:
            self._again.add(key)
            return
        self._waiting.setdefault(key, asyncio.get_running_loop().time())
        self._wake.set()

    def add_after(self, key: Key, seconds: float) -> None:
        """Later, unless it is due sooner already."""
        due = asyncio.get_running_loop().time() + seconds
        timer = self._timers.get(key)
        if timer is not None:
            if timer.when() <= due:
                return
            timer.cancel()
        self._timers[key] = asyncio.get_running_loop().call_at(due, self._due, key)

    def retry(self, key: Key) -> float:
        """Later, twice as late as last time; returns the seconds."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        seconds: float = min(FIRST_RETRY_S * 2 ** min(failures, 20), LONGEST_RETRY_S)
        seconds *= 1 + random.uniform(-_JITTER, _JITTER)
        self.add_after(key, seconds)
        return seconds

    def succeeded(self, key: Key) -> None:
        """Its next failure counts as the first."""
        self._failures.pop(key, None)

    def forget(self, key: Key) -> None:
        """It is gone: nothing is due any more."""
        self._failures.pop(key, None)
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()

    async def get(self) -> Key:
        """The next one; `done` must follow."""
        while not self._waiting:
            self._wake.clear()
            await self._wake.wait()
        key, since = self._waiting.popitem(last=False)
        metrics.QUEUE_WAIT_SECONDS.observe(asyncio.get_running_loop().time() - since)
        self._working.add(key)
        return key

    def done(self, key: Key) -> None:
        """Its turn is over."""
        self._working.discard(key)
        if key in self._again:
            self._again.discard(key)
            self.add(key)

    def _due(self, key: Key) -> None:
        self._timers.pop(key, None)
        self.add(key)
