"""Creating, reading and deleting knowledge bases."""

from collections.abc import Callable
from datetime import timedelta

import structlog

from retrieval.core.directory import Directory
from retrieval.core.errors import knowledge_base_not_found
from retrieval.core.index import CollectionSpec
from retrieval.core.model import KnowledgeBase, KnowledgeBaseSpec, ModelInfo, Place, Snapshot
from retrieval.core.names import collection_alias
from retrieval.core.ports import BlobStore, Catalogue, Embedder, VectorStore
from servicekit.clock import Clock
from servicekit.context import current_caller
from servicekit.errors import Conflict, FailedPrecondition, ServiceError
from servicekit.ids import new_id

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
        store: VectorStore,
        embedder: Embedder,
        blobs: BlobStore,
        directory: Directory,
        clock: Clock,
        queued: Callable[[], None],
    ) -> None:
        self._catalogue = catalogue
        self._store = store
        self._embedder = embedder
        self._blobs = blobs
        self._directory = directory
        self._clock = clock
        self._queued = queued

    async def create(self, id_: str, spec: KnowledgeBaseSpec) -> Snapshot:
        """Creates it, or returns it if it is there with the same fields.

        If the model makes other vectors than before, or the collection is gone, all documents are
        indexed anew from their originals.

        Raises:
            FailedPrecondition: It is there with other fields.
            NotFound: There is no such model.
            Unavailable: The embedding service or the store does not answer; retry.
        """
        tenant = current_caller().tenant
        for _ in range(_ATTEMPTS):
            before = await self._catalogue.snapshot(tenant, id_)
            if before is not None:
                _refuse_changes(before.knowledge_base, spec)
            model = await self._embedder.describe(spec.embedding_model)
            if before is None:
                knowledge_base = await self._insert(tenant, id_, spec, model)
            else:
                knowledge_base = await self._renewed(before.knowledge_base, model)
            if knowledge_base is None:
                continue  # another call was first: look again
            created = await self._store.ensure_collection(
                CollectionSpec(place=knowledge_base.place, dimension=knowledge_base.dimension)
            )
            if created and before is not None and before.counts.chunks:
                # The store has lost its data; the originals have not.
                log.warning("collection_was_missing", knowledge_base=id_)
                await self._reindex(knowledge_base, model)
                continue
            self._directory.forget(tenant, id_)
            self._queued()
            await self.sweep()
            return await self.get(id_)
        raise Conflict(
            f"knowledgeBases/{id_} is being changed by other calls; try again",
            reason="DEPENDENCY_UNAVAILABLE",
            retry_after=timedelta(seconds=1),
        )

    async def get(self, id_: str) -> Snapshot:
        """As the catalogue has it now.

        Raises:
            NotFound: It is not there.
        """
        snapshot = await self._catalogue.snapshot(current_caller().tenant, id_)
        if snapshot is None:
            raise knowledge_base_not_found(id_)
        return snapshot

    async def list(self, *, after: str, limit: int) -> list[Snapshot]:
        """By id, those behind `after`."""
        return await self._catalogue.list_knowledge_bases(current_caller().tenant, after=after, limit=limit)

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
        for _, collection in await self._catalogue.doomed_collections():
            try:
                await self._store.drop(Place(collection=collection))
            except ServiceError as error:
                log.warning("collection_not_dropped", collection=collection, reason=error.reason)
                return
            await self._catalogue.forget_collection(collection)
        for knowledge_base in await self._catalogue.deleted_knowledge_bases():
            try:
                await self._remove(knowledge_base)
            except ServiceError as error:
                log.warning("knowledge_base_not_removed", id=knowledge_base.id, reason=error.reason)
                return

    async def deployment(self) -> str:
        """What the store is; empty if it does not answer."""
        try:
            return (await self._store.capabilities()).deployment
        except ServiceError:
            return ""

    async def _insert(
        self, tenant: str, id_: str, spec: KnowledgeBaseSpec, model: ModelInfo
    ) -> KnowledgeBase | None:
        """The row first: a collection that no row names would stay for ever."""
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
            collection=_new_collection(alias),
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
        await self._reindex(knowledge_base, model)
        return None

    async def _reindex(self, knowledge_base: KnowledgeBase, model: ModelInfo) -> None:
        """The next round of `create` makes the new collection and drops the old one."""
        if await self._catalogue.start_reindex(
            knowledge_base,
            collection=_new_collection(knowledge_base.alias),
            dimension=model.dimension,
            fingerprint=model.fingerprint,
            now=self._clock.now(),
        ):
            log.info("reindex_started", tenant=knowledge_base.tenant, id=knowledge_base.id)
        self._directory.forget(knowledge_base.tenant, knowledge_base.id)

    async def _remove(self, knowledge_base: KnowledgeBase) -> None:
        await self._store.drop(knowledge_base.place)
        for blob in await self._catalogue.remove_knowledge_base(knowledge_base.tenant, knowledge_base.id):
            await self._blobs.delete(blob)
        log.info("knowledge_base_deleted", tenant=knowledge_base.tenant, id=knowledge_base.id)


def _new_collection(alias: str) -> str:
    """Never the name of a former one, which a worker might still be writing to."""
    return f"{alias}_{new_id()}"


def _refuse_changes(current: KnowledgeBase, wanted: KnowledgeBaseSpec) -> None:
    if current.spec == wanted:
        return
    changed = {
        field: (str(now), str(asked))
        for field, now, asked in (
            ("embedding_model", current.spec.embedding_model, wanted.embedding_model),
            ("chunking.max_tokens", current.spec.chunking.max_tokens, wanted.chunking.max_tokens),
            ("chunking.overlap_tokens", current.spec.chunking.overlap_tokens, wanted.chunking.overlap_tokens),
            ("search_mode", current.spec.search_mode.name, wanted.search_mode.name),
        )
        if now != asked
    }
    shown = ", ".join(f"{field} is {now}, not {asked}" for field, (now, asked) in changed.items())
    raise FailedPrecondition(
        f"{current.name} exists with other fields ({shown}). They cannot be changed, since every document "
        "would have to be indexed anew: use another name, or delete it and create it again.",
        reason="FIELD_IMMUTABLE",
        metadata={"knowledge_base": current.name}
        | {field: f"{now} -> {asked}" for field, (now, asked) in changed.items()},
    )
