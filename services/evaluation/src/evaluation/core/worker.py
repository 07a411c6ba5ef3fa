"""Scores runs that wait, as long as the process lives."""

import asyncio
from collections.abc import Callable
from datetime import timedelta

import structlog

from evaluation.core.budget import MinuteBudget
from evaluation.core.evaluator import MAX_ATTEMPTS, Evaluator
from evaluation.core.model import Job
from evaluation.core.ports import Runs
from servicekit.clock import Clock
from servicekit.context import Caller, scope
from servicekit.errors import ServiceError

log = structlog.get_logger()

SERVICE = "evaluation"
_MARGIN = 0.9  # of a lease: whoever claims the run next must not overlap with us for long


class Worker:
    """Claims runs and scores them, a few at a time.

    A run that cannot be scored now is left alone: it comes back when its lease ends.

    Args:
        runs: Where runs wait.
        evaluator: Scores one.
        budget: When judges have been asked too much, no run is claimed.
        clock: Tells the time.
        parallel: Runs at a time.
        lease: How long a claim holds.
        poll: Pause when nothing waits.
        max_age: A run that has waited longer is given up.
        waiting: Told how many runs wait.
    """

    def __init__(
        self,
        *,
        runs: Runs,
        evaluator: Evaluator,
        budget: MinuteBudget,
        clock: Clock,
        parallel: int,
        times: "Times",
        waiting: Callable[[int], None],
    ) -> None:
        self._runs = runs
        self._evaluator = evaluator
        self._budget = budget
        self._clock = clock
        self._parallel = parallel
        self._times = times
        self._waiting = waiting

    async def work(self) -> None:
        """Works for ever; what goes wrong with one run is logged and costs no other."""
        busy: set[asyncio.Task[None]] = set()
        poll_s = self._times.poll.total_seconds()
        async with asyncio.TaskGroup() as group:
            while True:
                jobs = await self._claim(self._parallel - len(busy))
                for job in jobs:
                    task = group.create_task(self._one(job))
                    busy.add(task)
                    task.add_done_callback(busy.discard)
                if len(busy) >= self._parallel:
                    await asyncio.wait(busy, return_when=asyncio.FIRST_COMPLETED)
                elif not jobs:
                    await asyncio.sleep(max(poll_s, min(self._budget.wait_s(), 60.0)))

    async def _claim(self, most: int) -> list[Job]:
        if most <= 0 or self._budget.wait_s() > 0:
            return []
        try:
            with scope(caller=Caller("", "", SERVICE), timeout=timedelta(seconds=10)):
                jobs, left = await self._runs.claim(most=most)
        except ServiceError as error:
            log.warning("runs_not_claimed", reason=error.reason, error=error.message)
            return []
        self._waiting(left)
        return list(jobs)

    async def _one(self, job: Job) -> None:
        try:
            with scope(caller=Caller(job.tenant, job.user, SERVICE), timeout=self._times.lease * _MARGIN):
                async with asyncio.timeout((self._times.lease * _MARGIN).total_seconds()):
                    await self._score(job)
        except ServiceError as error:
            log.warning(
                "run_not_scored", run=job.run, attempt=job.attempt, reason=error.reason, error=error.message
            )
        except TimeoutError:
            log.warning("run_not_scored", run=job.run, attempt=job.attempt, reason="TIMEOUT")
        except Exception as error:
            log.error("run_scoring_failed", run=job.run, attempt=job.attempt, exc_info=error)

    async def _score(self, job: Job) -> None:
        age = None if job.ended is None else self._clock.now() - job.ended
        if age is not None and age > self._times.max_age:
            await self._evaluator.give_up(job, expired=True, reason=f"it waited for {age}")
        elif job.attempt > MAX_ATTEMPTS:
            why = f"{MAX_ATTEMPTS} attempts failed; the log of the evaluation service says why"
            await self._evaluator.give_up(job, expired=False, reason=why)
        else:
            try:
                await self._evaluator.evaluate(job)
            except ServiceError as error:
                if job.attempt < MAX_ATTEMPTS or error.reason == "RUN_NOT_FOUND":
                    raise
                await self._evaluator.give_up(job, expired=False, reason=error.message)


class Times:
    """How long things take.

    Args:
        lease: How long a claim holds.
        poll: Pause when nothing waits.
        max_age: A run that has waited longer is given up.
    """

    def __init__(self, *, lease: timedelta, poll: timedelta, max_age: timedelta) -> None:
        self.lease = lease
        self.poll = poll
        self.max_age = max_age
