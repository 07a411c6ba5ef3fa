"""Indexing: PENDING -> INDEXING -> READY | FAILED; docs/ingest.md has the whole story.

The queue is in SQL, so this may run in any number of processes. A worker
holds a document by a lease and may be killed at any point: when the lease
ends, another one takes the document and begins again. Chunk ids are derived
from the text, so beginning again replaces and never doubles; each claim marks
what it writes with its token, and at the end removes every chunk of the
document that another claim wrote.
"""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta

import structlog

from retrieval import metrics
from retrieval.core.collections import Collections
from retrieval.core.directory import Directory
from retrieval.core.errors import OutdatedCollection
from retrieval.core.indexing import Indexer, Saturated
from retrieval.core.ingest_limits import IngestLimits
from retrieval.core.leases import Claiming
from retrieval.core.model import Claim, DocumentError, DocumentState
from retrieval.core.ports import BlobStore, Catalogue, DocumentUnreadable, Embedder, Parser, VectorStore
from servicekit.clock import Clock
from servicekit.context import Caller, scope
from servicekit.errors import InvalidArgument, NotFound, ServiceError, Unavailable
from servicekit.leased_work import do_while_leased

log = structlog.get_logger()

_STORE = "milvus"
_FIRST_DELAY_S = 1.0
_MAX_DELAY_S = 60.0
# A document whose indexing kills the process would come back for ever.
_MAX_INTERRUPTIONS = 20
_STOP_TIMEOUT_S = 15.0  # of a write that has begun
_RELEASE_TIMEOUT_S = 2.0  # at a stop; a lease that is not given back ends by itself


class _ClaimLost(Exception):
    """The document was deleted, replaced, moved to another collection, or taken by another worker."""


class IngestWorker:
    """Indexes what is in the queue."""

    def __init__(
        self,
        *,
        catalogue: Catalogue,
        store: VectorStore,
        embedder: Embedder,
        blobs: BlobStore,
        parser: Parser,
        directory: Directory,
        clock: Clock,
        limits: IngestLimits,
    ) -> None:
        self._catalogue = catalogue
        self._store = store
        self._indexer = Indexer(
            store=store, embedder=embedder, blobs=blobs, parser=parser, clock=clock, limits=limits
        )
        self._collections = Collections(catalogue=catalogue, store=store, directory=directory, clock=clock)
        self._directory = directory
        self._clock = clock
        self._limits = limits
        self._claiming = Claiming(self.run_once, poll=limits.poll, what="ingest")
        self._sweep_now = asyncio.Event()
        self._working: set[asyncio.Future[None]] = set()

    def wake(self) -> None:
        """There is work."""
        self._claiming.wake()

    async def drain(self, *, within: timedelta) -> None:
        """No further claims. What is not done within the time goes back into the queue at once."""
        self._claiming.stop()
        if self._working:
            await asyncio.wait(list(self._working), timeout=within.total_seconds())
        for work in self._working:
            work.cancel()
        if self._working:
            await asyncio.wait(list(self._working), timeout=_STOP_TIMEOUT_S)

    async def run(self, *, sweeps: Sequence[Callable[[], Awaitable[None]]] = ()) -> None:
        """Works until it is cancelled.

        Args:
            sweeps: Finish what was left half done; called at the start and now and then.
        """
        async with asyncio.TaskGroup() as group:
            for _ in range(self._limits.parallel):
                group.create_task(self._claiming.run())
            group.create_task(self._sweep(sweeps))

    async def run_until_idle(self) -> int:
        """Indexes, one after the other, all that can be claimed now; returns how many there were."""
        return await self._claiming.until_idle()

    async def run_once(self) -> bool:
        """Indexes one document; False if none could be claimed.

        Raises:
            Unavailable: The catalogue does not answer.
        """
        claim = await self._catalogue.claim(lease=self._limits.lease, now=self._clock.now())
        if claim is None:
            await self._flush()
            return False
        document = claim.document
        try:
            # Nobody waits for this call: it is made on the tenant's behalf, by the service.
            with scope(caller=Caller(document.tenant, "ingest", "retrieval")):
                await self._index_while_renewing(claim)
        finally:
            self._directory.forget(document.tenant, document.knowledge_base)
        return True

    async def _sweep(self, sweeps: Sequence[Callable[[], Awaitable[None]]]) -> None:
        while True:
            self._sweep_now.clear()
            for sweep in sweeps:
                try:
                    await sweep()
                except ServiceError as error:
                    log.warning("sweep_failed", reason=error.reason, error=error.message)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._limits.sweep.total_seconds()):
                    await self._sweep_now.wait()

    async def _index_while_renewing(self, claim: Claim) -> None:
        """A claim that is lost ends the work; work that is ended by a stop goes back into the queue."""
        whole = asyncio.ensure_future(
            do_while_leased(
                self._index(claim),
                renew=lambda: self._renew(claim),
                lease=self._limits.lease,
                lost=lambda: self._let_go(claim),
                stopped=lambda: self._release(claim),
            )
        )
        self._working.add(whole)
        whole.add_done_callback(self._working.discard)
        try:
            await asyncio.shield(whole)
        except asyncio.CancelledError:
            whole.cancel()
            await asyncio.wait([whole])
            current = asyncio.current_task()
            if current is not None and current.cancelling():
                raise

    async def _index(self, claim: Claim) -> None:
        document = claim.document
        try:
            await self._attempt(claim)
        except _ClaimLost:
            await self._let_go(claim)
        except Saturated as saturated:
            await self._put_back(claim, after=saturated.retry_after)
        except DocumentUnreadable as unreadable:
            await self._fail(claim, unreadable.error)
        except InvalidArgument as error:  # the model refuses the text itself
            await self._fail(claim, DocumentError(reason=error.reason, message=error.message))
        except ServiceError as error:
            await self._postpone(claim, error)
        except Exception as error:  # a bug of ours or of a library must not end the worker
            log.error("ingest_crashed", document=document.id, exc_info=error)
            internal = Unavailable(f"internal error ({type(error).__name__})", reason="INTERNAL")
            await self._postpone(claim, internal)

    async def _attempt(self, claim: Claim) -> None:
        document = claim.document
        if claim.interruptions >= _MAX_INTERRUPTIONS:
            raise DocumentUnreadable(
                DocumentError(
                    reason="INTERNAL",
                    message=f"indexing was interrupted {claim.interruptions} times, perhaps by this "
                    "document; retry it, or upload it again",
                )
            )
        snapshot = await self._catalogue.snapshot(document.tenant, document.knowledge_base)
        if snapshot is None:
            raise _ClaimLost
        knowledge_base = snapshot.knowledge_base
        if not await self._collections.before_writing(knowledge_base):
            self._sweep_now.set()  # the former collection can go
            raise _ClaimLost  # every document was queued anew

        async def still_ours() -> None:
            with metrics.ingest_stage("catalogue"):
                if not await self._renew(claim):
                    raise _ClaimLost

        indexed = await self._indexer.index(claim, knowledge_base, still_ours)
        with metrics.ingest_stage("catalogue"):
            finished = await self._catalogue.finish(
                claim,
                collection=knowledge_base.collection,
                chunk_count=indexed.chunk_count,
                warnings=indexed.warnings,
                now=self._clock.now(),
            )
        if not finished:
            raise _ClaimLost
        if document.moved_from:
            self._sweep_now.set()  # what it was before can go
        metrics.ingested(DocumentState.READY)
        log.info(
            "document_indexed",
            tenant=document.tenant,
            knowledge_base=document.knowledge_base,
            document=document.id,
            chunks=indexed.chunk_count,
        )

    async def _flush(self) -> None:
        try:
            await self._indexer.flush_all()
        except ServiceError as error:
            # Only speed is lost: the rows are stored, and found by brute force.
            log.warning("flush_failed", reason=error.reason)

    async def _renew(self, claim: Claim) -> bool:
        return await self._catalogue.renew(claim, lease=self._limits.lease, now=self._clock.now())

    async def _let_go(self, claim: Claim) -> None:
        log.info("claim_lost", document=claim.document.id)
        with contextlib.suppress(Unavailable):  # then the lease ends by itself
            await self._catalogue.abandon(claim)

    async def _release(self, claim: Claim) -> None:
        """At a stop: nobody need wait for the lease."""
        log.info("claim_released", document=claim.document.id)
        with contextlib.suppress(Unavailable, TimeoutError):  # then the lease ends by itself
            async with asyncio.timeout(_RELEASE_TIMEOUT_S):
                await self._put_back(claim, after=timedelta(0))

    async def _put_back(self, claim: Claim, *, after: timedelta) -> None:
        """Nothing has failed."""
        now = self._clock.now()
        if not await self._catalogue.release(claim, until=now + after, now=now):
            await self._let_go(claim)

    async def _fail(self, claim: Claim, error: DocumentError) -> None:
        """What is not in the document any more must not be found: chunks of its former version go."""
        document = claim.document
        snapshot = await self._catalogue.snapshot(document.tenant, document.knowledge_base)
        if snapshot is None:
            return
        try:
            with contextlib.suppress(NotFound):
                await self._store.delete_document(snapshot.knowledge_base.place, document.id)
        except ServiceError as outage:
            await self._postpone(claim, outage)
            return
        await self._give_up(claim, error, chunks_removed=True)

    async def _postpone(self, claim: Claim, error: ServiceError) -> None:
        """An outage is not the document's fault, until it has lasted too long."""
        now = self._clock.now()
        if error.metadata.get("dependency") == _STORE:
            # It may do late what it did not answer to, or have lost what it did.
            await self._catalogue.reconcile_by(now + self._limits.lease)
        # However long it lasts: a person must mend it, and no document is at fault.
        outdated = isinstance(error, OutdatedCollection)
        if outdated:
            self._collections.look_again()
        if (
            not outdated
            and claim.first_failure is not None
            and now - claim.first_failure >= self._limits.patience
        ):
            minutes = round((now - claim.first_failure).total_seconds() / 60)
            message = f"gave up after {minutes} minutes: {error.message}. Retry it when that is mended."
            await self._give_up(
                claim, DocumentError(reason=error.reason, message=message), chunks_removed=False
            )
            return
        delay_s = min(_MAX_DELAY_S, _FIRST_DELAY_S * 2 ** min(10, claim.document.attempts - 1))
        delay = timedelta(seconds=delay_s * random.uniform(0.8, 1.2))
        if error.retry_after is not None:
            delay = max(delay, min(error.retry_after, timedelta(seconds=_MAX_DELAY_S)))
        log.warning(
            "document_postponed",
            document=claim.document.id,
            reason=error.reason,
            error=error.message,
            delay_s=round(delay.total_seconds(), 1),
        )
        if not await self._catalogue.postpone(claim, until=now + delay, now=now):
            await self._let_go(claim)

    async def _give_up(self, claim: Claim, error: DocumentError, *, chunks_removed: bool) -> None:
        log.warning("document_failed", document=claim.document.id, reason=error.reason, error=error.message)
        if not await self._catalogue.fail(claim, error, chunks_removed=chunks_removed, now=self._clock.now()):
            await self._let_go(claim)
            return
        metrics.ingested(DocumentState.FAILED)
