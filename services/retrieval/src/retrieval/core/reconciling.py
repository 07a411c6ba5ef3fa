"""Compares what should be in the store with what is, and mends the difference.

Catalogue and store are walked together in the order of ids, so that memory
does not grow with them. What looks wrong is looked at a second time, with a
lease on the document: then no worker can be writing its chunks, and nothing
that a worker has just written is taken for a stray.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta

import structlog

from retrieval import metrics
from retrieval.core.coverage import check_all_there
from retrieval.core.directory import Directory
from retrieval.core.filters import DOCUMENT, Compare, Operator
from retrieval.core.ingest_model import Catalogued, Reconciled
from retrieval.core.model import DocumentState, KnowledgeBase, StoredChunk
from retrieval.core.ports import Catalogue, VectorStore
from servicekit.clock import Clock
from servicekit.errors import NotFound, ServiceError, Unavailable

log = structlog.get_logger()

_PAGE = 1_000  # documents
_BATCH = 500  # chunks
_MAX_REST_S = 1.0
# The comparison of a worker that was killed is made by another one after that time.
_LEASE = timedelta(minutes=30)
# Workers that start often need not compare each time.
_FRESH = timedelta(minutes=10)
# What a query node held is loaded elsewhere within a minute or two; what is missing longer is lost.
_LOADED_WITHIN_S = 300.0
_MAX_GAPS = 10_000


@dataclass(slots=True)
class _Group:
    """Chunks of one document in the store, by version."""

    document: str
    path: str
    versions: Counter[str] = field(default_factory=Counter)


class Reconciler:
    """Makes the store hold exactly what the catalogue says.

    Args:
        ensure_collection: Makes the collection of a knowledge base if it is not there.
        interval: Between two comparisons of a knowledge base.
        poll: How often what is due is looked for.
    """

    def __init__(
        self,
        *,
        catalogue: Catalogue,
        store: VectorStore,
        ensure_collection: Callable[[KnowledgeBase], Awaitable[bool]],
        directory: Directory,
        clock: Clock,
        interval: timedelta,
        poll: timedelta = timedelta(seconds=30),
    ) -> None:
        self._catalogue = catalogue
        self._store = store
        self._ensure_collection = ensure_collection
        self._directory = directory
        self._clock = clock
        self._interval = interval
        self._poll_s = poll.total_seconds()
        self._gaps: dict[tuple[str, str], float] = {}

    async def run(self) -> None:
        """Compares at the start, after an outage of the store, and at every interval, until cancelled."""
        outage = True  # before our time there may have been one
        fresh: timedelta | None = _FRESH
        while True:
            try:
                await self._store.connect()
                if outage:
                    now = self._clock.now()
                    await self._catalogue.reconcile_by(now, unless_since=now - fresh if fresh else None)
                    outage, fresh = False, None
                while await self.run_once():
                    pass
            except ServiceError as error:
                outage = outage or not isinstance(error, NotFound)  # that is a knowledge base being deleted
                log.warning("reconcile_failed", reason=error.reason, error=error.message)
            await asyncio.sleep(self._poll_s)

    async def run_once(self) -> bool:
        """Makes one comparison that is due, taking its time; False if none is.

        Raises:
            Unavailable: The store or the catalogue does not answer, or the store is loading again.
        """
        now = self._clock.now()
        due = await self._catalogue.reconcile_next(lease=_LEASE, now=now)
        if due is None:
            return False
        await self._loaded(*due)
        await self.reconcile(*due, gently=True)
        return True

    async def _loaded(self, tenant: str, knowledge_base: str) -> None:
        """What the store is only loading again would be indexed anew, for nothing.

        Raises:
            Unavailable: Chunks are missing, and have not been for long.
        """
        key = tenant, knowledge_base
        snapshot = await self._catalogue.snapshot(*key)
        try:
            if snapshot is not None:
                await check_all_there(self._store, snapshot)
        except NotFound:
            pass  # the whole collection is lost
        except Unavailable:
            if len(self._gaps) >= _MAX_GAPS:
                self._gaps.clear()
            now = self._clock.monotonic()
            if now - self._gaps.setdefault(key, now) < _LOADED_WITHIN_S:
                raise
        self._gaps.pop(key, None)

    async def reconcile(self, tenant: str, knowledge_base: str, *, gently: bool = False) -> Reconciled:
        """Compares now.

        Args:
            gently: Rests as long as it works, so that searches have room.

        Raises:
            Unavailable: The store or the catalogue does not answer; what was mended stays mended.
        """
        snapshot = await self._catalogue.snapshot(tenant, knowledge_base)
        if snapshot is None:
            return Reconciled()
        if not await self._there(snapshot.knowledge_base):
            return Reconciled()
        walk = _Walk(self._catalogue, self._store, self._clock, snapshot.knowledge_base, gently=gently)
        outcome = await walk.run()
        now = self._clock.now()
        await self._catalogue.reconciled(tenant, knowledge_base, outcome, due=now + self._interval, now=now)
        metrics.reconciled(outcome)
        if outcome != Reconciled():
            self._directory.forget(tenant, knowledge_base)
            log.warning(
                "store_mended",
                tenant=tenant,
                knowledge_base=knowledge_base,
                stray_chunks_removed=outcome.stray_chunks_removed,
                documents_requeued=outcome.documents_requeued,
            )
        return outcome

    async def _there(self, knowledge_base: KnowledgeBase) -> bool:
        """Makes a collection that was lost; False if the knowledge base does not want it any more."""
        if not await self._ensure_collection(knowledge_base):
            return True
        log.warning("collection_was_missing", collection=knowledge_base.collection)
        now = await self._catalogue.snapshot(knowledge_base.tenant, knowledge_base.id)
        if now is not None and now.knowledge_base.place == knowledge_base.place:
            return True
        await self._store.drop(knowledge_base.place)
        return False


class _Walk:
    """One comparison of one knowledge base."""

    def __init__(
        self,
        catalogue: Catalogue,
        store: VectorStore,
        clock: Clock,
        knowledge_base: KnowledgeBase,
        *,
        gently: bool,
    ) -> None:
        self._catalogue = catalogue
        self._store = store
        self._clock = clock
        self._kb = knowledge_base
        self._gently = gently
        self._removed = 0
        self._requeued = 0

    async def run(self) -> Reconciled:
        groups, rows = self._groups(), self._rows()
        group, row = await anext(groups, None), await anext(rows, None)
        while group is not None or row is not None:
            if row is None or (group is not None and group.document < row.id):
                assert group is not None  # the loop's condition
                await self._without_row(group)
                group = await anext(groups, None)
            elif group is None or row.id < group.document:
                await self._compare(row, Counter())
                row = await anext(rows, None)
            else:
                await self._compare(row, group.versions)
                group, row = await anext(groups, None), await anext(rows, None)
        return Reconciled(stray_chunks_removed=self._removed, documents_requeued=self._requeued)

    async def _groups(self) -> AsyncIterator[_Group]:
        group: _Group | None = None
        async for chunk in self._chunks():
            if group is None or group.document != chunk.record.document:
                if group is not None:
                    yield group
                group = _Group(chunk.record.document, chunk.record.title)
            group.versions[chunk.record.version] += 1
        if group is not None:
            yield group

    async def _chunks(self) -> AsyncIterator[StoredChunk]:
        began = self._clock.monotonic()
        async for batch in self._store.iterate(self._kb.place, batch=_BATCH):
            for chunk in batch:
                yield chunk
            if self._gently:
                await asyncio.sleep(min(_MAX_REST_S, self._clock.monotonic() - began))
            began = self._clock.monotonic()

    async def _rows(self) -> AsyncIterator[Catalogued]:
        after = ""
        while True:
            page = await self._catalogue.catalogued(self._kb.tenant, self._kb.id, after=after, limit=_PAGE)
            for row in page:
                yield row
            if len(page) < _PAGE:
                return
            after = page[-1].id

    async def _compare(self, row: Catalogued, versions: Counter[str]) -> None:
        """What waits, is in work or is hidden is others' to end."""
        if row.hidden or row.state not in (DocumentState.READY, DocumentState.FAILED):
            return
        if _right(row, versions) == row.chunk_count == versions.total():
            return
        token = await self._catalogue.hold(self._kb.tenant, self._kb.id, row, now=self._clock.now())
        if token is None:
            return  # it has changed since
        versions = await self._versions(row.id)
        right = _right(row, versions)
        strays = versions.total() - right
        if strays:
            keep = row.version if row.state == DocumentState.READY else None
            await self._store.delete_document(self._kb.place, row.id, keep_version=keep)
        requeue = row.state == DocumentState.READY and right != row.chunk_count
        ours = await self._catalogue.let_go(
            self._kb.tenant,
            self._kb.id,
            row.id,
            token,
            chunk_count=right,
            requeue=requeue,
            now=self._clock.now(),
        )
        self._removed += strays
        self._requeued += requeue and ours

    async def _without_row(self, group: _Group) -> None:
        """As if the document had just been deleted."""
        now = self._clock.now()
        kb = self._kb
        if not await self._catalogue.bury(kb.tenant, kb.id, group.document, path=group.path, now=now):
            return  # it was uploaded since
        found = await self._versions(group.document)
        await self._store.delete_document(kb.place, group.document)
        await self._catalogue.remove_document(kb.tenant, kb.id, group.document, now=self._clock.now())
        self._removed += found.total()

    async def _versions(self, document: str) -> Counter[str]:
        versions: Counter[str] = Counter()
        one = Compare(DOCUMENT, Operator.EQUAL, document)
        async for batch in self._store.iterate(self._kb.place, filter=one, batch=_BATCH):
            versions.update(chunk.record.version for chunk in batch)
        return versions


def _right(row: Catalogued, versions: Counter[str]) -> int:
    """How many chunks of it should stay. Of a document without a version nobody knows which are wrong."""
    if row.state == DocumentState.FAILED:
        return 0
    return versions[row.version] if row.version else versions.total()
