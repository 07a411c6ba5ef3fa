"""What callers see of indexes, and asking for a tuning."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

import capacity
from retrieval.core.errors import knowledge_base_not_found
from retrieval.core.index import BuiltIndex
from retrieval.core.model import KnowledgeBase, Snapshot
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


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexView:
    """The index of a knowledge base, and what its rows take.

    Attributes:
        built: None: not known, since the store does not answer.
        tuning: None: never tuned.
    """

    built: BuiltIndex | None
    search_params: Mapping[str, int]
    tuning: Tuning | None
    memory_bytes: int
    segments: int
    advice: capacity.Advice


class Indexes:
    """Indexes of the current caller's knowledge bases."""

    def __init__(self, *, catalogue: Catalogue, tunings: Tunings, store: VectorStore, clock: Clock) -> None:
        self._catalogue = catalogue
        self._tunings = tunings
        self._store = store
        self._clock = clock

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
        """One for each, of the same tenant. The store is asked for at most one."""
        if not snapshots:
            return []
        tenant = snapshots[0].knowledge_base.tenant
        tunings = await self._tunings.get(tenant, [s.knowledge_base.id for s in snapshots])
        deployment = ""
        with contextlib.suppress(ServiceError):
            deployment = (await self._store.capabilities()).deployment
        views = []
        for snapshot in snapshots:
            knowledge_base = snapshot.knowledge_base
            tuning = tunings.get(knowledge_base.id)
            measured = tuning.measured if tuning else None
            if measured is not None and measured.collection != knowledge_base.collection:
                measured = None  # of an index that is gone
            built = measured.index if measured else None
            if built is None and len(snapshots) == 1:
                with contextlib.suppress(ServiceError):
                    built = await self._store.index_of(knowledge_base.place)
            views.append(_view(snapshot, tuning, measured, built, deployment))
        return views


def _view(
    snapshot: Snapshot,
    tuning: Tuning | None,
    measured: Measurement | None,
    built: BuiltIndex | None,
    deployment: str,
) -> IndexView:
    knowledge_base, rows = snapshot.knowledge_base, snapshot.counts.chunks
    index = built or first_index(policy_of(knowledge_base))
    memory = capacity.memory_of(
        rows, _shape(knowledge_base), capacity.IndexType(index.type), index.build_params
    )
    return IndexView(
        built=built,
        search_params=policy_of(knowledge_base).search_params or snapshot.search_params,
        tuning=tuning,
        memory_bytes=memory.total,
        segments=measured.segments if measured else 0,
        advice=capacity.advise(
            deployment=_kind(deployment),
            rows=rows,
            memory=memory,
            p50=timedelta(seconds=measured.p50_s) if measured else None,
        ),
    )


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
