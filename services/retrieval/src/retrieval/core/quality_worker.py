"""Evaluates knowledge bases by schedule.

Every worker process looks through those that are watched; one of them takes one that is due, under a
lease, and stores the scores only if it still holds it. What a killed process had in hand is done again by
another when the lease ends.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from retrieval import metrics
from retrieval.core.evaluation import Evaluations
from retrieval.core.golden import Evaluation
from retrieval.core.model import Counts
from retrieval.core.ports import Catalogue
from retrieval.core.quality import QualityStore, Watched
from servicekit.clock import Clock
from servicekit.context import Caller, scope
from servicekit.errors import NotFound, ServiceError
from servicekit.leased_work import do_while_leased
from servicekit.schedules import MAX_RETRY, RETRY, retry_delay

log = structlog.get_logger()

_PAGE = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityLimits:
    """Of the schedule.

    Attributes:
        poll: How often what is due is looked for.
        lease: Longer than a few searches take.
        patience: How long an evaluation waits for documents that are being indexed.
        retry: After the first failure; doubled with each one after it.
        max_retry: The longest.
    """

    poll: timedelta = timedelta(seconds=5)
    lease: timedelta = timedelta(minutes=2)
    patience: timedelta = timedelta(minutes=15)
    retry: timedelta = RETRY
    max_retry: timedelta = MAX_RETRY


class QualityWorker:
    """Measures what is due.

    Args:
        seen: Told of all knowledge bases that are watched, after each look through them.
    """

    def __init__(
        self,
        *,
        catalogue: Catalogue,
        quality: QualityStore,
        evaluations: Evaluations,
        clock: Clock,
        limits: QualityLimits,
        seen: Callable[[Sequence[Watched], datetime], None] = lambda *_: None,
    ) -> None:
        self._catalogue = catalogue
        self._quality = quality
        self._evaluations = evaluations
        self._clock = clock
        self._limits = limits
        self._seen = seen
        self._waiting: dict[tuple[str, str], datetime] = {}
        self._stopping = False

    def stop(self) -> None:
        """No further evaluations; the one in hand goes on until `run` is cancelled."""
        self._stopping = True

    async def run(self) -> None:
        """Works until it is cancelled."""
        while True:
            try:
                await self.run_once()
            except ServiceError as error:
                log.warning("quality_not_looked_at", reason=error.reason, error=error.message)
            await asyncio.sleep(self._limits.poll.total_seconds())

    async def run_once(self) -> int:
        """Looks through all once and evaluates what is due; returns how many it took.

        Raises:
            Unavailable: The catalogue does not answer.
        """
        done, after = 0, ("", "")
        everything: list[Watched] = []
        waiting = self._waiting
        self._waiting = {}
        while page := await self._quality.watched(after=after, limit=_PAGE):
            for one in page:
                now = self._clock.now()
                due = one.due(at_once=now)
                if due is None or due > now or self._stopping:
                    continue
                if await self._settled(one, waiting.get((one.tenant, one.knowledge_base))):
                    done += await self._evaluate(one)
            everything += page
            after = page[-1].tenant, page[-1].knowledge_base
        self._seen(everything, self._clock.now())
        return done

    async def _settled(self, one: Watched, since: datetime | None) -> bool:
        """Whether there is something to measure, and nothing that is about to change it."""
        snapshot = await self._catalogue.snapshot(one.tenant, one.knowledge_base)
        if snapshot is None:
            return False
        counts = snapshot.counts
        if not counts.ready and one.newest is None:
            return False  # one that has just been made; later no document at all is the worst there is
        if not _busy(counts):
            return True
        now = self._clock.now()
        since = since or now
        self._waiting[one.tenant, one.knowledge_base] = since
        return now - since >= self._limits.patience

    async def _evaluate(self, one: Watched) -> bool:
        """False if another process has it."""
        token = await self._quality.claim(one, lease=self._limits.lease, now=self._clock.now())
        if token is None:
            return False

        async def renew() -> bool:
            return await self._quality.renew(one, token, lease=self._limits.lease, now=self._clock.now())

        async def lost() -> None:
            log.info("evaluation_lost", tenant=one.tenant, knowledge_base=one.knowledge_base)

        await do_while_leased(self._do(one, token), renew=renew, lease=self._limits.lease, lost=lost)
        return True

    async def _do(self, one: Watched, token: str) -> None:
        try:
            # Nobody waits for it: it is done on the tenant's behalf, by the service.
            with scope(caller=Caller(one.tenant, "quality", "retrieval")):
                made = await self._measure(one.knowledge_base)
            stored = await self._quality.finish(one, token, made, now=self._clock.now())
        except NotFound as error:
            # Its golden set or itself has gone: the next look sees that. The lease ends by itself.
            log.info("evaluation_lost", knowledge_base=one.knowledge_base, reason=error.reason)
        except ServiceError as error:
            await self._failed(one, token, error.message)
        except Exception as error:  # a bug of ours or of a library must not end the worker
            log.error("evaluation_crashed", knowledge_base=one.knowledge_base, exc_info=error)
            await self._failed(one, token, f"internal error ({type(error).__name__})")
        else:
            metrics.EVALUATIONS.labels("done").inc(stored)
            log.info(
                "knowledge_base_evaluated",
                tenant=one.tenant,
                knowledge_base=one.knowledge_base,
                stored=stored,
            )

    async def _measure(self, knowledge_base: str) -> Sequence[Evaluation]:
        made: Sequence[Evaluation] = ()
        async with aclosing(self._evaluations.measure(knowledge_base)) as steps:  # type: ignore[type-var]
            async for progress in steps:
                made = progress.evaluations
        return made

    async def _failed(self, one: Watched, token: str, message: str) -> None:
        delay = retry_delay(one.failures, first=self._limits.retry, most=self._limits.max_retry)
        log.warning("evaluation_failed", knowledge_base=one.knowledge_base, error=message)
        metrics.EVALUATIONS.labels("failed").inc()
        now = self._clock.now()
        await self._quality.fail(one, token, message, retry=now + delay, now=now)


def _busy(counts: Counts) -> bool:
    return counts.pending + counts.indexing > 0
