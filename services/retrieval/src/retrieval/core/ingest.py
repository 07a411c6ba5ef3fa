"""Indexing: PENDING -> INDEXING -> READY | FAILED.

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
from dataclasses import dataclass
from datetime import timedelta

import structlog

from retrieval import metrics
from retrieval.core.directory import Directory
from retrieval.core.model import (
    ChunkDraft,
    ChunkRecord,
    Claim,
    DocumentError,
    DocumentState,
    KnowledgeBase,
    ParsedDocument,
    Place,
    Vectors,
)
from retrieval.core.names import chunk_id
from retrieval.core.ports import (
    BlobStore,
    Catalogue,
    DocumentUnreadable,
    Embedder,
    Parser,
    VectorStore,
)
from servicekit.clock import Clock
from servicekit.context import Caller, scope
from servicekit.errors import InvalidArgument, NotFound, ServiceError, Unavailable

log = structlog.get_logger()

_FIRST_DELAY_S = 1.0
_MAX_DELAY_S = 60.0
# A document whose indexing kills the process would come back for ever.
_MAX_INTERRUPTIONS = 20
_FLUSH_ROWS = 2_000  # unflushed rows cost each search on Lite 7 us a row


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestLimits:
    """Bounds of the worker.

    Attributes:
        parallel: Documents at the same time.
        batch: Chunks in one call of the embedding service, and in one write to the store.
        lease: How long a killed worker's documents wait.
        patience: How long outages of others may last before a document fails of them.
        poll: How often the queue is read when nothing wakes the worker.
    """

    parallel: int = 2
    batch: int = 32
    lease: timedelta = timedelta(seconds=60)
    patience: timedelta = timedelta(minutes=10)
    poll: timedelta = timedelta(seconds=2)
    sweep: timedelta = timedelta(seconds=30)


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
        self._embedder = embedder
        self._blobs = blobs
        self._parser = parser
        self._directory = directory
        self._clock = clock
        self._limits = limits
        self._wake = asyncio.Event()
        self._unflushed: dict[Place, int] = {}
        self._stopping = False

    def wake(self) -> None:
        """There is work."""
        self._wake.set()

    def stop(self) -> None:
        """No further claims; what is being indexed goes on until `run` is cancelled."""
        self._stopping = True
        self._wake.set()

    async def run(self, *, sweeps: Sequence[Callable[[], Awaitable[None]]] = ()) -> None:
        """Works until it is cancelled.

        Args:
            sweeps: Finish what was left half done; called at the start and now and then.
        """
        async with asyncio.TaskGroup() as group:
            for _ in range(self._limits.parallel):
                group.create_task(self._loop())
            group.create_task(self._sweep(sweeps))

    async def run_until_idle(self) -> int:
        """Indexes, one after the other, all that can be claimed now; returns how many there were."""
        done = 0
        while await self.run_once():
            done += 1
        return done

    async def run_once(self) -> bool:
        """Indexes one document; False if none could be claimed.

        Raises:
            Unavailable: The catalogue does not answer.
        """
        claim = await self._catalogue.claim(lease=self._limits.lease, now=self._clock.now())
        if claim is None:
            await self._flush_all()
            return False
        document = claim.document
        self._directory.forget(document.tenant, document.knowledge_base)
        try:
            # Nobody waits for this call: it is made on the tenant's behalf, by the service.
            with scope(caller=Caller(document.tenant, "ingest", "retrieval")):
                await self._index_while_renewing(claim)
        finally:
            self._directory.forget(document.tenant, document.knowledge_base)
        return True

    async def _loop(self) -> None:
        while True:
            if self._stopping:
                # Until it is cancelled; `_wake` stays set, and waiting for it would hold the event loop.
                await asyncio.Future()
            self._wake.clear()
            try:
                if await self.run_once():
                    continue
            except ServiceError as error:
                log.warning("ingest_queue_unavailable", reason=error.reason, error=error.message)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._limits.poll.total_seconds()):
                    await self._wake.wait()

    async def _sweep(self, sweeps: Sequence[Callable[[], Awaitable[None]]]) -> None:
        while True:
            for sweep in sweeps:
                try:
                    await sweep()
                except ServiceError as error:
                    log.warning("sweep_failed", reason=error.reason, error=error.message)
            await asyncio.sleep(self._limits.sweep.total_seconds())

    async def _index_while_renewing(self, claim: Claim) -> None:
        work = asyncio.ensure_future(self._index(claim))
        renewal = asyncio.ensure_future(self._keep(claim, work))
        try:
            await work
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if current is not None and current.cancelling():
                raise
            await self._let_go(claim)  # the renewal found the claim lost
        finally:
            renewal.cancel()
            work.cancel()
            await asyncio.gather(renewal, work, return_exceptions=True)

    async def _keep(self, claim: Claim, work: "asyncio.Future[None]") -> None:
        """Renews the lease while a slow parser or model is at it."""
        while True:
            await asyncio.sleep(self._limits.lease.total_seconds() / 3)
            try:
                if not await self._renew(claim):
                    work.cancel()
                    return
            except ServiceError as error:
                log.warning("lease_not_renewed", reason=error.reason)  # two more tries before it ends

    async def _index(self, claim: Claim) -> None:
        document = claim.document
        try:
            await self._attempt(claim)
        except _ClaimLost:
            await self._let_go(claim)
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
        if document.attempts > _MAX_INTERRUPTIONS:
            raise DocumentUnreadable(
                DocumentError(
                    reason="INTERNAL",
                    message=f"indexing was interrupted {_MAX_INTERRUPTIONS} times; upload it again to retry",
                )
            )
        snapshot = await self._catalogue.snapshot(document.tenant, document.knowledge_base)
        if snapshot is None:
            raise _ClaimLost
        knowledge_base = snapshot.knowledge_base
        parsed = await self._parse(claim, knowledge_base)
        truncated = await self._store_chunks(claim, knowledge_base, parsed.chunks)
        await self._still_ours(claim)
        await self._store.delete_document(knowledge_base.place, document.id, keep_version=claim.token)
        await self._flush(knowledge_base.place, rows=len(parsed.chunks))
        warnings = list(parsed.warnings)
        if truncated:
            warnings.append(
                f"{truncated} of {len(parsed.chunks)} chunks are longer than the model reads; their vectors "
                "stand for their beginnings only"
            )
        if not await self._catalogue.finish(
            claim,
            collection=knowledge_base.collection,
            chunk_count=len(parsed.chunks),
            warnings=warnings,
            now=self._clock.now(),
        ):
            raise _ClaimLost
        metrics.ingested(DocumentState.READY)
        log.info(
            "document_indexed",
            tenant=document.tenant,
            knowledge_base=document.knowledge_base,
            document=document.id,
            chunks=len(parsed.chunks),
        )

    async def _parse(self, claim: Claim, knowledge_base: KnowledgeBase) -> ParsedDocument:
        document = claim.document
        try:
            async with self._blobs.local_path(document.blob) as file:
                return await self._parser.parse(
                    file,
                    path=document.path,
                    media_type=document.media_type,
                    chunking=knowledge_base.spec.chunking,
                )
        except NotFound as error:
            await self._still_ours(claim)  # replaced meanwhile: its original is gone, rightly
            raise DocumentUnreadable(
                DocumentError(
                    reason="DOCUMENT_NOT_FOUND",
                    message="the stored original is missing; upload the document again",
                )
            ) from error

    async def _store_chunks(
        self, claim: Claim, knowledge_base: KnowledgeBase, drafts: Sequence[ChunkDraft]
    ) -> int:
        """Embeds and writes batch by batch; returns how many texts the model has cut."""
        truncated = 0
        for start in range(0, len(drafts), self._limits.batch):
            batch = drafts[start : start + self._limits.batch]
            embedded = await self._embedder.embed_passages(
                knowledge_base.spec.embedding_model, [draft.embedded_text for draft in batch]
            )
            if embedded.fingerprint != knowledge_base.model_fingerprint:
                raise Unavailable(
                    f"{knowledge_base.spec.embedding_model} makes other vectors than when "
                    f"{knowledge_base.name} was created; create it again "
                    "with the same fields to index its documents anew",
                    reason="MODEL_UNAVAILABLE",
                )
            truncated += len(embedded.truncated)
            await self._still_ours(claim)
            records = [_record(claim, ordinal, draft) for ordinal, draft in enumerate(batch, start=start)]
            await self._write(knowledge_base, records, embedded.vectors)
        return truncated

    async def _write(
        self, knowledge_base: KnowledgeBase, records: Sequence[ChunkRecord], vectors: Vectors
    ) -> None:
        try:
            await self._store.upsert(knowledge_base.place, records, vectors)
        except NotFound as error:
            raise Unavailable(
                f"the collection of {knowledge_base.name} is missing in Milvus; create the knowledge base "
                "again with the same fields",
                reason="DEPENDENCY_UNAVAILABLE",
            ) from error

    async def _flush(self, place: Place, *, rows: int) -> None:
        """Lite only, and not after each small document: every flush makes a segment."""
        if not (await self._store.capabilities()).flush_after_ingest:
            return
        waiting = self._unflushed.get(place, 0) + rows
        self._unflushed[place] = waiting
        if waiting >= _FLUSH_ROWS:
            del self._unflushed[place]
            await self._store.flush(place)

    async def _flush_all(self) -> None:
        """The queue is empty for now."""
        while self._unflushed:
            place, _ = self._unflushed.popitem()
            try:
                await self._store.flush(place)
            except ServiceError as error:
                # Only speed is lost: the rows are stored, and found by brute force.
                log.warning("flush_failed", collection=place.collection, reason=error.reason)

    async def _still_ours(self, claim: Claim) -> None:
        if not await self._renew(claim):
            raise _ClaimLost

    async def _renew(self, claim: Claim) -> bool:
        return await self._catalogue.renew(claim, lease=self._limits.lease, now=self._clock.now())

    async def _let_go(self, claim: Claim) -> None:
        log.info("claim_lost", document=claim.document.id)
        with contextlib.suppress(Unavailable):  # then the lease ends by itself
            await self._catalogue.abandon(claim)

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
        if claim.first_failure is not None and now - claim.first_failure >= self._limits.patience:
            minutes = round((now - claim.first_failure).total_seconds() / 60)
            message = f"gave up after {minutes} minutes: {error.message}. Upload it again to retry."
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


def _record(claim: Claim, ordinal: int, draft: ChunkDraft) -> ChunkRecord:
    return ChunkRecord(
        id=chunk_id(claim.document.id, ordinal, draft.text),
        document=claim.document.id,
        title=claim.document.path,
        version=claim.token,
        ordinal=ordinal,
        text=draft.text,
        location=draft.location,
    )
