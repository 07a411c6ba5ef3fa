"""Does the jobs: one at a time, under a lease."""

import asyncio
import contextlib
from datetime import timedelta

import structlog
from prometheus_client import Counter, Histogram

from retrieval.core.directory import Directory
from retrieval.core.index import IndexPolicy
from retrieval.core.leases import Claiming
from retrieval.core.model import KnowledgeBase, MetadataField, Place, Tenancy
from retrieval.core.ports import Catalogue, VectorStore
from retrieval.core.tuning.model import (
    Job,
    Kind,
    Measurement,
    Subject,
    TuningLimits,
    segment_rows,
)
from retrieval.core.tuning.policy import policy_text, wanted_index, why_due
from retrieval.core.tuning.ports import Tunings
from retrieval.core.tuning.rebuild import JobLost, Rebuild
from retrieval.core.tuning.tuner import Tuner
from servicekit.clock import Clock
from servicekit.context import Caller, scope
from servicekit.counters import from_zero
from servicekit.errors import FailedPrecondition, ServiceError
from servicekit.leased_work import do_while_leased

log = structlog.get_logger()

TUNINGS = Counter(
    "agentteams_retrieval_tunings_total", "Jobs of the tuner, by how an attempt ended", ["kind", "outcome"]
)
from_zero(TUNINGS, kind=[kind.name for kind in Kind], outcome=("done", "failed", "postponed", "lost"))
TUNING_SECONDS = Histogram(
    "agentteams_retrieval_tuning_seconds",
    "Wall time of one attempt of the tuner",
    buckets=(0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600),
)

_PAGE = 500


class TuningWorker:
    """Finds what is to be tuned, and tunes it."""

    def __init__(
        self,
        *,
        catalogue: Catalogue,
        tunings: Tunings,
        store: VectorStore,
        tuner: Tuner,
        rebuild: Rebuild,
        directory: Directory,
        clock: Clock,
        limits: TuningLimits,
    ) -> None:
        self._catalogue = catalogue
        self._tunings = tunings
        self._store = store
        self._tuner = tuner
        self._rebuild = rebuild
        self._directory = directory
        self._clock = clock
        self._limits = limits
        self._claiming = Claiming(self.run_once, poll=limits.poll, what="tuning")

    def wake(self) -> None:
        """There is work."""
        self._claiming.wake()

    def stop(self) -> None:
        """No further claims; the job in hand goes on until `run` is cancelled."""
        self._claiming.stop()

    async def run(self) -> None:
        """Works until it is cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._claiming.run())
            group.create_task(self._sweeping())

    async def run_until_idle(self) -> int:
        """Does all jobs that can be claimed now; returns how many there were."""
        return await self._claiming.until_idle()

    async def run_once(self) -> bool:
        """Does one job; False if none could be claimed.

        Raises:
            Unavailable: The catalogue does not answer.
        """
        job = await self._tunings.claim(lease=self._limits.lease, now=self._clock.now())
        if job is None:
            return False
        # Nobody waits for it: it is done on the tenant's behalf, by the service.
        with scope(caller=Caller(job.tenant, "tuner", "retrieval")), TUNING_SECONDS.time():
            await do_while_leased(
                self._do(job),
                renew=lambda: self._tunings.renew(job, lease=self._limits.lease, now=self._clock.now()),
                lease=self._limits.lease,
                lost=lambda: self._lost(job),
            )
        self._directory.forget(job.tenant, job.knowledge_base)
        return True

    async def sweep(self) -> int:
        """Queues what is due; returns how many."""
        queued, after = 0, ("", "")
        while page := await self._tunings.candidates(after=after, limit=_PAGE):
            for candidate in page:
                knowledge_base = candidate.knowledge_base
                if not tunable(knowledge_base):
                    continue
                due = why_due(
                    candidate, policy_of(knowledge_base), limits=self._limits, now=self._clock.now()
                )
                if due is not None:
                    kind, reason = due
                    await self._tunings.request(
                        knowledge_base.tenant,
                        knowledge_base.id,
                        kind=kind,
                        reason=reason,
                        now=self._clock.now(),
                    )
                    queued += 1
            after = page[-1].knowledge_base.tenant, page[-1].knowledge_base.id
        if queued:
            self.wake()
        return queued

    async def _sweeping(self) -> None:
        while True:
            try:
                await self.sweep()
            except ServiceError as error:
                log.warning("tuning_sweep_failed", reason=error.reason, error=error.message)
            await asyncio.sleep(self._limits.sweep.total_seconds())

    async def _lost(self, job: Job) -> None:
        log.info("tuning_lost", knowledge_base=job.knowledge_base)

    async def _do(self, job: Job) -> None:
        try:
            await self._attempt(job)
        except JobLost:
            TUNINGS.labels(job.kind.name, "lost").inc()
            await self._lost(job)
            await self._later(job, "the knowledge base changed meanwhile", delay=self._limits.poll)
        except FailedPrecondition as error:
            await self._fail(job, error.message, retry_after=self._limits.check_every)
        except ServiceError as error:
            await self._later(job, error.message, delay=self._limits.poll * 2**job.attempts)
        except Exception as error:  # a bug of ours or of a library must not end the worker
            log.error("tuning_crashed", knowledge_base=job.knowledge_base, exc_info=error)
            await self._fail(
                job, f"internal error ({type(error).__name__})", retry_after=self._limits.check_every
            )

    async def _attempt(self, job: Job) -> None:
        snapshot = await self._catalogue.snapshot(job.tenant, job.knowledge_base)
        if snapshot is None:
            await self._rebuild.drop_orphans(job)
            await self._tunings.remove(job)
            return
        knowledge_base = snapshot.knowledge_base
        if job.former:
            await self._rebuild.settle(knowledge_base, fields_of(knowledge_base), job, job.former)
            await self._finish(job, knowledge_base, None)
            return
        if job.shadow:
            await self._rebuild.discard(job, knowledge_base.place, job.shadow)
        if job.attempts > self._limits.max_attempts:
            message = f"gave up after {self._limits.max_attempts} tries; the log of the worker says why"
            await self._fail(job, message, retry_after=self._limits.retry_after)
            return
        if not tunable(knowledge_base):
            await self._fail(job, "its collection is shared", retry_after=self._limits.check_every)
            return
        if job.kind == Kind.CHECK and await self._still_good(job, knowledge_base):
            await self._finish(job, knowledge_base, None, tuned=False)
            return
        await self._tune(job, knowledge_base)

    async def _still_good(self, job: Job, knowledge_base: KnowledgeBase) -> bool:
        measured = job.measured
        if measured is None or measured.collection != knowledge_base.collection:
            return False
        segments = await self._store.segments(knowledge_base.place)
        if segments is not None and segments.count != measured.segments:
            return False
        subject = _subject(knowledge_base, knowledge_base.place)
        recall = await self._tuner.check(subject, measured.search_params)
        # Below it for certain: chance alone must not start a tuning every few hours.
        return recall.mean + 1.64 * recall.error >= subject.target

    async def _tune(self, job: Job, knowledge_base: KnowledgeBase) -> None:
        place = knowledge_base.place
        built = await self._store.index_of(place)
        rows = await self._store.count(place)
        other = wanted_index(
            policy_of(knowledge_base),
            built,
            rows=rows,
            segment_rows=segment_rows(await self._store.segments(place), rows),
        )
        if other is None:
            measured = await self._tuner.measure(_subject(knowledge_base, place), reason=job.reason)
            await self._finish(job, knowledge_base, measured)
            return
        index, why = other
        if index.type not in (await self._store.capabilities()).index_types:
            raise FailedPrecondition(
                f"the deployed Milvus has no {index.type.name}; name another index.type, or none",
                reason="TUNING_UNSUPPORTED",
            )
        fields = fields_of(knowledge_base)
        shadow = self._rebuild.new_shadow(knowledge_base)
        try:
            since = await self._rebuild.build(job, knowledge_base, fields, index, shadow=shadow)
            measured = await self._tuner.measure(
                _subject(knowledge_base, shadow), reason=f"{job.reason}; built anew: {why}"
            )
        except ServiceError:
            # Not after a failed swap: nobody knows then whether the shadow serves.
            with contextlib.suppress(ServiceError, JobLost):
                await self._rebuild.discard(job, place, shadow.collection)
            raise
        await self._rebuild.swap(job, measured, since=since)
        after = await self._catalogue.snapshot(job.tenant, job.knowledge_base)
        if after is None:
            raise JobLost
        # Fields may have been added while it was copied.
        fields = fields_of(after.knowledge_base)
        await self._rebuild.settle(after.knowledge_base, fields, job, knowledge_base.collection)
        await self._finish(job, after.knowledge_base, None)

    async def _finish(
        self, job: Job, knowledge_base: KnowledgeBase, measured: Measurement | None, *, tuned: bool = True
    ) -> None:
        now = self._clock.now()
        again = self._limits.look_again if tuned else self._limits.check_every
        if not await self._tunings.finish(
            job,
            measured,
            policy=policy_text(policy_of(knowledge_base)),
            check_time=now + again,
            now=now,
        ):
            raise JobLost
        TUNINGS.labels(job.kind.name, "done").inc()
        log.info(
            "index_tuned",
            tenant=job.tenant,
            knowledge_base=job.knowledge_base,
            kind=job.kind.name,
            params=dict(measured.search_params) if measured else None,
        )

    async def _later(self, job: Job, message: str, *, delay: timedelta) -> None:
        if job.attempts >= self._limits.max_attempts:
            await self._fail(job, message, retry_after=self._limits.retry_after)
            return
        now = self._clock.now()
        TUNINGS.labels(job.kind.name, "postponed").inc()
        log.warning("tuning_postponed", knowledge_base=job.knowledge_base, error=message)
        with contextlib.suppress(ServiceError):  # then the lease ends by itself
            await self._tunings.postpone(job, until=now + delay, now=now)

    async def _fail(self, job: Job, message: str, *, retry_after: timedelta) -> None:
        now = self._clock.now()
        TUNINGS.labels(job.kind.name, "failed").inc()
        log.warning("tuning_failed", knowledge_base=job.knowledge_base, error=message)
        with contextlib.suppress(ServiceError):
            await self._tunings.fail(job, message, check_time=now + retry_after, now=now)


def policy_of(knowledge_base: KnowledgeBase) -> IndexPolicy:
    """What its index should be."""
    return knowledge_base.spec.index


def fields_of(knowledge_base: KnowledgeBase) -> tuple[MetadataField, ...]:
    """What its rows may have in their metadata."""
    return knowledge_base.spec.metadata_fields


def tunable(knowledge_base: KnowledgeBase) -> bool:
    """Whether its collection is its own."""
    return knowledge_base.spec.tenancy != Tenancy.PARTITION_KEY


def _subject(knowledge_base: KnowledgeBase, place: Place) -> Subject:
    policy = policy_of(knowledge_base)
    return Subject(
        tenant=knowledge_base.tenant,
        knowledge_base=knowledge_base.id,
        place=place,
        model_fingerprint=knowledge_base.model_fingerprint,
        target=policy.target_recall_percent / 100,
        search_params=policy.search_params,
    )
