"""What callers see of indexes, and asking for a tuning."""

import asyncio
import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

import capacity
from retrieval.core.errors import knowledge_base_not_found
from retrieval.core.index import BuiltIndex
from retrieval.core.model import KnowledgeBase, Place, Segments, Snapshot, StoreMemory
from retrieval.core.ports import Catalogue, VectorStore
from retrieval.core.tuning.model import Kind, Measurement, Tuning
from retrieval.core.tuning.policy import first_index
from retrieval.core.tuning.ports import Tunings
from retrieval.core.tuning.worker import policy_of, tunable
from servicekit.clock import Clock
from servicekit.context import current_caller
from servicekit.errors import FailedPrecondition, ServiceError

_BYTES_A_TOKEN = 5
_FIELDS_BYTES = 300  # ids, title, location
_METADATA_BYTES = 32
_STORE_TIMEOUT_S = 2.0  # a store that is slow to answer keeps nobody from reading the rest
_MEMORY_FOR_S = 10.0
_UNKNOWN = StoreMemory(total_bytes=0, used_bytes=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexView:
    """The index of a knowledge base, and what its rows take.

    Attributes:
        built: None: not known, since the store does not answer.
        tuning: None: never tuned.
        store: What the store has for all of them; 0 where that is not known.
    """

    built: BuiltIndex | None
    search_params: Mapping[str, int]
    tuning: Tuning | None
    memory_bytes: int
    segments: int
    store: StoreMemory
    advice: capacity.Advice


@dataclass(slots=True, kw_only=True)
class _Said:
    """By the store, as far as it answered."""

    memory: StoreMemory
    deployment: str = ""
    segments: Segments | None = None
    built: BuiltIndex | None = None


class Indexes:
    """Indexes of the current caller's knowledge bases.

    Args:
        memory_bytes: What the store may use at most; None: it is asked.
    """

    def __init__(
        self,
        *,
        catalogue: Catalogue,
        tunings: Tunings,
        store: VectorStore,
        clock: Clock,
        memory_bytes: int | None = None,
    ) -> None:
        self._catalogue = catalogue
        self._tunings = tunings
        self._store = store
        self._clock = clock
        self._memory_bytes = memory_bytes
        self._memory = replace(_UNKNOWN, total_bytes=memory_bytes or 0)
        self._memory_until = -math.inf

    async def tune(self, id_: str) -> Tuning:
        """Queues a measurement, unless one waits or runs.

        Raises:
            NotFound: There is no such knowledge base.
            FailedPrecondition: Its collection is shared.
        """
        tenant = current_caller().tenant
        snapshot = await self._catalogue.snapshot(tenant, id_)
        if snapshot is None:
            raise knowledge_base_not_found(id_)
        if not tunable(snapshot.knowledge_base):
            raise FailedPrecondition(
                f"{snapshot.knowledge_base.name} shares its collection with other knowledge bases "
                "(TENANCY_PARTITION_KEY), so its index is not tuned; use TENANCY_COLLECTION where it matters",
                reason="TUNING_UNSUPPORTED",
                metadata={"knowledge_base": snapshot.knowledge_base.name},
            )
        return await self._tunings.request(
            tenant, id_, kind=Kind.TUNE, reason="asked for", now=self._clock.now()
        )

    async def views(self, snapshots: Sequence[Snapshot]) -> list[IndexView]:
        """One for each, of the same tenant. Of a single one the store is asked too."""
        if not snapshots:
            return []
        tenant = snapshots[0].knowledge_base.tenant
        tunings = await self._tunings.get(tenant, [s.knowledge_base.id for s in snapshots])
        if len(snapshots) == 1:  # read after it: a tuning that is DONE is shown with what it has chosen
            [first] = snapshots
            snapshots = [await self._catalogue.snapshot(tenant, first.knowledge_base.id) or first]
        said = await self._said(snapshots[0].knowledge_base.place if len(snapshots) == 1 else None)
        return [_view(snapshot, tunings.get(snapshot.knowledge_base.id), said) for snapshot in snapshots]

    async def _said(self, place: Place | None) -> _Said:
        """What the store says in a short time; what it does not say stays unknown."""
        store, said = self._store, _Said(memory=self._memory)
        with contextlib.suppress(ServiceError, TimeoutError):
            async with asyncio.timeout(_STORE_TIMEOUT_S):
                said.deployment = (await store.capabilities()).deployment
                said.memory = await self._memory_now()
                if place is not None:
                    said.segments = await store.segments(place)
                    said.built = await store.index_of(place)
        return said

    async def _memory_now(self) -> StoreMemory:
        """A list of many pages asks once."""
        now = self._clock.monotonic()
        if now >= self._memory_until:
            said = await self._store.memory() or _UNKNOWN
            total = said.total_bytes if self._memory_bytes is None else self._memory_bytes
            self._memory = StoreMemory(total_bytes=total, used_bytes=said.used_bytes)
            self._memory_until = now + _MEMORY_FOR_S
        return self._memory


def _view(snapshot: Snapshot, tuning: Tuning | None, said: _Said) -> IndexView:
    knowledge_base, rows = snapshot.knowledge_base, snapshot.counts.chunks
    measured = tuning.measured if tuning else None
    if measured is not None and measured.collection != knowledge_base.collection:
        measured = None  # of an index that is gone
    built = said.built or (measured.index if measured else None)
    index = built or first_index(policy_of(knowledge_base))
    memory = capacity.memory_of(
        rows, _shape(knowledge_base), capacity.IndexType(index.type), index.build_params
    )
    return IndexView(
        built=built,
        search_params=policy_of(knowledge_base).search_params or snapshot.search_params,
        tuning=tuning,
        memory_bytes=memory.total,
        segments=_segments(said, measured),
        store=said.memory,
        advice=capacity.advise(
            deployment=_kind(said.deployment),
            rows=rows,
            memory=memory,
            node_bytes=said.memory.total_bytes or None,
            used_bytes=said.memory.used_bytes or None,
            p50=timedelta(seconds=measured.p50_s) if measured else None,
        ),
    )


def _segments(said: _Said, measured: Measurement | None) -> int:
    if said.segments is not None:
        return said.segments.count
    return measured.segments if measured else 0


def _shape(knowledge_base: KnowledgeBase) -> capacity.Shape:
    spec = knowledge_base.spec
    text = spec.chunking.max_tokens * _BYTES_A_TOKEN
    return capacity.Shape(
        dimension=knowledge_base.dimension,
        bytes_per_row=text + _FIELDS_BYTES + _METADATA_BYTES * len(spec.metadata_fields),
        text_bytes=text,
    )


def _kind(deployment: str) -> capacity.Deployment:
    for kind in capacity.Deployment:
        if deployment.startswith(kind):
            return kind
    return capacity.Deployment.STANDALONE  # it does not say: no advice that needs to know
