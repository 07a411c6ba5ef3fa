"""How followers wait for the scores of a run that has ended.

A run's log ends with the run. Its scores come later, from another service, or
never; they are no event of the log and have no sequence, so who does not ask for
them sees nothing of them, and who resumes asks again.
"""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

from servicekit.context import remaining
from servicekit.errors import ResourceExhausted, Unavailable

_ASK = timedelta(seconds=20)  # the store waits for 30 s at most
_PAUSE_S = 1.0  # where the store does not wait for us
_ANSWER_TIME = timedelta(seconds=1)  # of the caller's deadline, to say that they are not there yet


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """The scores of a run; `payload` is passed on, never read here, and None if there are none.

    `may_come`: there are none yet.
    """

    payload: object | None = None
    may_come: bool = False


class ScoreSource(Protocol):
    """Where scores are stored. Called as the current caller."""

    async def of_run(self, run: str, *, wait: timedelta) -> Scored:
        """The newest scores of a run; waits for them if they may come.

        Raises:
            NotFound: RUN_NOT_FOUND.
            ResourceExhausted: Too many wait; ask without.
        """
        ...


class AwaitedScores:
    """Waits for scores on behalf of followers.

    Args:
        source: Where they are stored.
    """

    def __init__(self, source: ScoreSource) -> None:
        self._source = source
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Sends all who wait elsewhere."""
        self._stopping.set()

    async def of_run(self, run: str, *, within: timedelta) -> Scored:
        """The scores of a run that has ended, or that there are none (yet) at the end of the time.

        Raises:
            ServiceError: The store does not say.
            Unavailable: The process stops; ask another.
        """
        loop = asyncio.get_running_loop()
        left = remaining()
        if left is not None:
            within = min(within, max(left - _ANSWER_TIME, timedelta(0)))
        ends = loop.time() + within.total_seconds()
        while True:
            began = loop.time()
            wait = min(_ASK, timedelta(seconds=max(0.0, ends - began)))
            found = await self._unless_stopped(run, self._ask(run, wait))
            if found.payload is not None or not found.may_come or loop.time() >= ends:
                return found
            # It may have answered before its time: from an older version, or full of others who wait.
            pause_s = min(began + _PAUSE_S, ends) - loop.time()
            if pause_s > 0:
                await self._unless_stopped(run, asyncio.sleep(pause_s, found))

    async def _ask(self, run: str, wait: timedelta) -> Scored:
        try:
            return await self._source.of_run(run, wait=wait)
        except ResourceExhausted:
            return await self._source.of_run(run, wait=timedelta(0))

    async def _unless_stopped(self, run: str, work: Coroutine[Any, Any, Scored]) -> Scored:
        working = asyncio.ensure_future(work)
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait([working, stopping], return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return working.result()
            raise Unavailable(
                f"this process stops; follow {run} again for its scores",
                reason="DEPENDENCY_UNAVAILABLE",
                metadata={"run": run},
            )
        finally:
            for task in (working, stopping):
                task.cancel()
            await asyncio.wait([working, stopping])
