"""Whether searches look at all that they should.

When a query node of a Milvus Distributed dies, the others soon answer again, and for a while (52 s after a
kill that was measured) leave out what that node had held, without a word. The catalogue knows how many chunks
can be found; before a search the store is asked how many it would look at.
"""

import asyncio
from collections import OrderedDict

import structlog

from retrieval.core.model import ReasonCode, Snapshot
from retrieval.core.ports import Catalogue, VectorStore
from retrieval.core.search_progress import Progress
from servicekit.clock import Clock
from servicekit.context import remaining_s
from servicekit.errors import ServiceError, Unavailable

log = structlog.get_logger()

# Before anything is left out, searches fail until the node's registration ends: some seconds at least.
_TRUSTED_S = 1.0
_DOUBTED_S = 0.2
_SHARE = 0.5  # of the time that is left; the rest is the search's
_MAX_ENTRIES = 10_000
_NOT_KNOWN = "it is not known whether all chunks were searched"

_Key = tuple[str, str]


async def missing(store: VectorStore, snapshot: Snapshot) -> int:
    """Chunks that a search or a walk that begins now would leave out without a word.

    Raises:
        Unavailable: The store does not answer.
    """
    if not (await store.capabilities()).may_miss:
        return 0
    there = await store.findable(snapshot.knowledge_base.place)
    return max(0, snapshot.counts.chunks - there)


async def check_all_there(store: VectorStore, snapshot: Snapshot) -> None:
    """Before and after what must not miss anything: nothing is left out without errors before.

    Raises:
        Unavailable: Some chunks are missing, or the store does not answer.
    """
    count = await missing(store, snapshot)
    if count:
        raise Unavailable(
            f"{count} chunks cannot be found now: the store is loading them again, or has lost them; try "
            "again in a minute",
            reason="DEPENDENCY_UNAVAILABLE",
            metadata={"dependency": "milvus", "knowledge_base": snapshot.knowledge_base.name},
        )


class Coverage:
    """Looks once a second at what is searched, where the store may leave something out."""

    def __init__(self, *, store: VectorStore, catalogue: Catalogue, clock: Clock) -> None:
        self._store = store
        self._catalogue = catalogue
        self._clock = clock
        # What was missing, and until when that is believed.
        self._seen: OrderedDict[_Key, tuple[int, float]] = OrderedDict()
        self._looking: dict[_Key, asyncio.Lock] = {}

    async def look(self, snapshot: Snapshot, progress: Progress) -> None:
        """Says what a search that begins now would leave out, if anything."""
        kb = snapshot.knowledge_base
        try:
            if not (await self._store.capabilities()).may_miss:
                return
            key = kb.tenant, kb.id
            count = self._known(key)
            if count is None:
                with progress.stage("vector_search"):
                    count = await self._missing(key, snapshot)
        except ServiceError as error:
            progress.store_failed(error, instead=_NOT_KNOWN)
        except TimeoutError:
            what = "Milvus did not say in time how many chunks it can find"
            progress.give_up(ReasonCode.STORE_UNAVAILABLE, what, instead=_NOT_KNOWN)
        else:
            if count:
                progress.give_up(
                    ReasonCode.STORE_UNAVAILABLE,
                    f"{count} chunks cannot be found now: Milvus is loading them again after a failure of "
                    "a part of it, or has lost them; ask again in a moment",
                    instead="the others were searched",
                )

    async def _missing(self, key: _Key, snapshot: Snapshot) -> int:
        lock = self._looking.setdefault(key, asyncio.Lock())
        try:
            async with lock:  # of many searches at a time one looks for all
                known = self._known(key)
                return known if known is not None else await self._look(key, snapshot)
        finally:
            if not lock.locked():
                self._looking.pop(key, None)

    def _known(self, key: _Key) -> int | None:
        count, until = self._seen.get(key, (0, 0.0))
        return count if self._clock.monotonic() < until else None

    async def _look(self, key: _Key, snapshot: Snapshot) -> int:
        began = self._clock.monotonic()
        left_s = remaining_s()
        async with asyncio.timeout(None if left_s is None else left_s * _SHARE):
            count = await missing(self._store, snapshot)
            if count:  # or what is known of it is old
                count = await missing(self._store, await self._catalogue.snapshot(*key) or snapshot)
        before, _ = self._seen.pop(key, (0, 0.0))
        self._seen[key] = count, began + (_DOUBTED_S if count else _TRUSTED_S)
        if len(self._seen) > _MAX_ENTRIES:
            self._seen.popitem(last=False)
        if bool(count) != bool(before):
            tenant, knowledge_base = key
            event = "chunks_cannot_be_found" if count else "all_chunks_can_be_found"
            log.warning(event, tenant=tenant, knowledge_base=knowledge_base, chunks=count)
        return count
