"""Creating, reading and deleting knowledge bases."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from datetime import timedelta

import structlog

from retrieval.core.collections import Collections, new_collection
from retrieval.core.coverage import check_all_there
from retrieval.core.directory import Directory
from retrieval.core.errors import knowledge_base_not_found
from retrieval.core.exports import chunks_of
from retrieval.core.filters import Filter
from retrieval.core.model import KnowledgeBase, KnowledgeBaseSpec, ModelInfo, Snapshot, StoredChunk
from retrieval.core.places import collection_alias
from retrieval.core.ports import BlobStore, Catalogue, Embedder, Specs, VectorStore
from retrieval.core.sharing import readable
from retrieval.core.spec_changes import refuse_changes
from servicekit.clock import Clock
from servicekit.context import current_caller
from servicekit.errors import Conflict, InvalidArgument, ServiceError

log = structlog.get_logger()

_ATTEMPTS = 3  # against another replica that creates, re-indexes or deletes the same one


class KnowledgeBases:
    """Everything about knowledge bases but their documents.

    Args:
        queued: Called when documents are to be indexed anew: there is work for the worker.
    """

    def __init__(
        self,
        *,
        catalogue: Catalogue,
        specs: Specs,
        store: VectorStore,
        embedder: Embedder,
        blobs: BlobStore,
        directory: Directory,
        clock: Clock,
        queued: Callable[[], None],
    ) -> None:
        self._catalogue = catalogue
        self._specs = specs
        self._store = store
        self._embedder = embedder
        self._blobs = blobs
        self._directory = directory
        self._clock = clock
        self._queued = queued
        self._collections = Collections(catalogue=catalogue, store=store, directory=directory, clock=clock)

    async def create(self, id_: str, spec: KnowledgeBaseSpec) -> Snapshot:
        """Creates it; if it is there, changes what is another and can be changed.

        If the model makes other vectors than before, or the collection is gone or lacks fields that
        this release needs, all documents are indexed anew from their originals.

        Raises:
            FailedPrecondition: It is there with other fields.
            NotFound: There is no such model.
            Unavailable: The embedding service or the store does not answer; retry.
        """
        tenant = current_caller().tenant
        for _ in range(_ATTEMPTS):
            before = await self._catalogue.snapshot(tenant, id_)
            if before is not None and not await self._replaced(before.knowledge_base, spec):
                continue  # another call was first: look again
            model = await self._embedder.describe(spec.embedding_model)
            if before is None:
                knowledge_base = await self._insert(tenant, id_, spec, model)
            else:
                knowledge_base = await self._renewed(before.knowledge_base, model)
            if knowledge_base is None:
                continue  # another call was first: look again
            if before is not None and await self._collections.renewed(knowledge_base):
                continue
            created = await self.ensure_collection(knowledge_base)
            if before is not None and before.counts.chunks and await self._lost(knowledge_base, created):
                # The store has lost its data; the originals have not.
                log.warning("collection_was_missing", knowledge_base=id_)
                await self._collections.reindex(knowledge_base)
                continue
            self._directory.forget(tenant, id_)
            self._queued()
            await self.sweep()
            return await self.get(id_)
        raise _changing(id_)

    async def update(self, id_: str, change: Callable[[KnowledgeBaseSpec], KnowledgeBaseSpec]) -> Snapshot:
        """Changes what can be changed.

        Args:
            change: Makes the wanted spec of the present one; called again if another call was first.

        Raises:
            NotFound: It is not there.
            FailedPrecondition: A field is another that cannot be changed.
            InvalidArgument: The store has no such index.
            Unavailable: The store does not answer; retry.
        """
        for _ in range(_ATTEMPTS):
            current = (await self.get(id_)).knowledge_base
            if await self._replaced(current, change(current.spec)):
                return await self.get(id_)
        raise _changing(id_)

    async def get(self, id_: str) -> Snapshot:
        """As the catalogue has it now.

        Raises:
            NotFound: It is not there.
        """
        snapshot = await self._catalogue.snapshot(current_caller().tenant, id_)
        if snapshot is None:
            raise knowledge_base_not_found(id_)
        return snapshot

    async def readable(self, owner: str, id_: str) -> Snapshot:
        """Another tenant's, that allows the caller's.

        Raises:
            NotFound: It is not there, or does not.
        """
        return await readable(self._directory, owner, id_)

    async def list(self, *, after: str, limit: int) -> list[Snapshot]:
        """By id, those behind `after`."""
        return await self._catalogue.list_knowledge_bases(current_caller().tenant, after=after, limit=limit)

    async def chunks(
        self, id_: str, *, filter_: Filter | None, with_vectors: bool
    ) -> AsyncIterator[Sequence[StoredChunk]]:
        """All chunks that the filter allows; see `chunks_of`.

        Raises:
            NotFound: It is not there.
            Unavailable: As `chunks_of`, or some of the chunks could not be read now.
        """
        found = await self.get(id_)
        await check_all_there(self._store, found)
        walk = chunks_of(found.knowledge_base, self._store, filter_=filter_, with_vectors=with_vectors)
        async with aclosing(walk):  # type: ignore[type-var]
            async for batch in walk:
                yield batch
        await check_all_there(self._store, await self.get(id_))

    async def delete(self, id_: str) -> None:
        """Deletes it with all that it holds; a call that failed half way may be repeated.

        Raises:
            NotFound: It is not there.
            Unavailable: The store does not answer; retry.
        """
        tenant = current_caller().tenant
        knowledge_base = await self._catalogue.mark_knowledge_base_deleted(tenant, id_)
        if knowledge_base is None:
            raise knowledge_base_not_found(id_)
        self._directory.forget(tenant, id_)
        await self._remove(knowledge_base)

    async def sweep(self) -> None:
        """Finishes what crashes and outages have left half done. Failures wait for the next time."""
        for name, place in await self._catalogue.doomed_collections():
            try:
                await self._store.drop(place)
            except ServiceError as error:
                log.warning("collection_not_dropped", collection=name, reason=error.reason)
                return
            await self._catalogue.forget_collection(name)
        for knowledge_base in await self._catalogue.deleted_knowledge_bases():
            try:
                await self._remove(knowledge_base)
            except ServiceError as error:
                log.warning("knowledge_base_not_removed", id=knowledge_base.id, reason=error.reason)
                return

    async def ensure_collection(self, knowledge_base: KnowledgeBase) -> bool:
        """Makes what is missing of its collection; True if all of it was."""
        return await self._collections.ensure(knowledge_base)

    async def deployment(self) -> str:
        """What the store is; empty if it does not answer."""
        try:
            return (await self._store.capabilities()).deployment
        except ServiceError:
            return ""

    async def _replaced(self, current: KnowledgeBase, wanted: KnowledgeBaseSpec) -> bool:
        """False if another call was first."""
        if current.spec == wanted:
            return True
        refuse_changes(current, wanted)
        await self._check_index(wanted)
        added = wanted.metadata_fields != current.spec.metadata_fields
        if added:  # first: documents may have the fields as soon as the row says so
            await self._store.add_fields(current.place, wanted.metadata_fields)
        if not await self._specs.replace_spec(current, wanted, now=self._clock.now()):
            return False
        self._directory.forget(current.tenant, current.id)
        log.info("knowledge_base_updated", tenant=current.tenant, id=current.id)
        return True

    async def _check_index(self, spec: KnowledgeBaseSpec) -> None:
        if spec.index.type is None:
            return
        capabilities = await self._store.capabilities()
        if spec.index.type not in capabilities.index_types:
            has = ", ".join(sorted(type_.name for type_ in capabilities.index_types))
            raise InvalidArgument.field(
                "knowledge_base.index.type",
                f"the deployed Milvus ({capabilities.deployment}) has no such index; it has {has}",
                spec.index.type.name,
            )

    async def _lost(self, knowledge_base: KnowledgeBase, created: bool) -> bool:
        """Whether the chunks of the catalogue are gone. Others may have made a shared collection."""
        place = knowledge_base.place
        return created or (bool(place.scope) and await self._store.count(place) == 0)

    async def _insert(
        self, tenant: str, id_: str, spec: KnowledgeBaseSpec, model: ModelInfo
    ) -> KnowledgeBase | None:
        """The row first: a collection that no row names would stay for ever."""
        await self._check_index(spec)
        alias = collection_alias(tenant, id_)
        now = self._clock.now()
        knowledge_base = KnowledgeBase(
            tenant=tenant,
            id=id_,
            spec=spec,
            dimension=model.dimension,
            model_fingerprint=model.fingerprint,
            revision=round(now.timestamp() * 1000),
            alias=alias,
            collection=new_collection(alias),
            create_time=now,
        )
        if await self._catalogue.insert_knowledge_base(knowledge_base):
            log.info("knowledge_base_created", tenant=tenant, id=id_, model=spec.embedding_model)
            return knowledge_base
        # There, but hidden: one that is being deleted.
        for deleted in await self._catalogue.deleted_knowledge_bases():
            if (deleted.tenant, deleted.id) == (tenant, id_):
                await self._remove(deleted)
        return None

    async def _renewed(self, knowledge_base: KnowledgeBase, model: ModelInfo) -> KnowledgeBase | None:
        """The knowledge base itself, or None after starting a re-index."""
        if model.fingerprint == knowledge_base.model_fingerprint:
            return knowledge_base
        await self._collections.reindex(knowledge_base, model)
        return None

    async def _remove(self, knowledge_base: KnowledgeBase) -> None:
        await self._store.drop(knowledge_base.place)
        for blob in await self._catalogue.remove_knowledge_base(knowledge_base.tenant, knowledge_base.id):
            await self._blobs.delete(blob)
        log.info("knowledge_base_deleted", tenant=knowledge_base.tenant, id=knowledge_base.id)


def _changing(id_: str) -> Conflict:
    return Conflict(
        f"knowledgeBases/{id_} is being changed by other calls; try again",
        reason="DEPENDENCY_UNAVAILABLE",
        retry_after=timedelta(seconds=1),
    )
