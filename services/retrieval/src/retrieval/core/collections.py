"""The collection that serves a knowledge base: made, left for a new one, kept up to date."""

import structlog

from retrieval.core.directory import Directory
from retrieval.core.errors import OutdatedCollection
from retrieval.core.index import CollectionSpec
from retrieval.core.model import KnowledgeBase, ModelInfo
from retrieval.core.ports import Catalogue, VectorStore
from retrieval.core.tuning.policy import first_index
from servicekit.clock import Clock
from servicekit.errors import NotFound
from servicekit.ids import new_id

log = structlog.get_logger()

_MAX_CURRENT = 10_000


class Collections:
    """Of all knowledge bases."""

    def __init__(
        self, *, catalogue: Catalogue, store: VectorStore, directory: Directory, clock: Clock
    ) -> None:
        self._catalogue = catalogue
        self._store = store
        self._directory = directory
        self._clock = clock
        self._current: set[tuple[str, str]] = set()

    async def ensure(self, knowledge_base: KnowledgeBase) -> bool:
        """Makes what is missing of it; True if all of it was."""
        return await self._store.ensure_collection(
            CollectionSpec(
                place=knowledge_base.place,
                dimension=knowledge_base.dimension,
                fields=knowledge_base.spec.metadata_fields,
                index=first_index(knowledge_base.spec.index),
            )
        )

    async def reindex(self, knowledge_base: KnowledgeBase, model: ModelInfo | None = None) -> None:
        """Names a new one, which `ensure` must make, and queues every document.

        Args:
            model: None: the same as before.
        """
        if await self._catalogue.start_reindex(
            knowledge_base,
            collection=new_collection(knowledge_base.alias),
            dimension=model.dimension if model else knowledge_base.dimension,
            fingerprint=model.fingerprint if model else knowledge_base.model_fingerprint,
            now=self._clock.now(),
        ):
            log.info("reindex_started", tenant=knowledge_base.tenant, id=knowledge_base.id)
        self._directory.forget(knowledge_base.tenant, knowledge_base.id)

    async def renewed(self, knowledge_base: KnowledgeBase) -> bool:
        """Leaves a collection that lacks fields for a new one; False if there is no need to.

        Raises:
            OutdatedCollection: It is shared with others, so it cannot be left alone.
            Unavailable: The store does not answer; retry.
        """
        place = knowledge_base.place
        key = place.database, place.collection
        try:
            lacking = await self._store.lacking(place)
        except NotFound:
            return False  # who makes it, makes all of it
        if not lacking:
            if len(self._current) >= _MAX_CURRENT:
                self._current.clear()
            self._current.add(key)
            return False
        lacks = ", ".join(sorted(lacking))
        if place.scope:
            raise OutdatedCollection(
                f"the shared collection {place.collection} was made by an earlier Milvus and lacks {lacks}; "
                "delete the knowledge bases that share it, drop it, and create them again",
                reason="DEPENDENCY_UNAVAILABLE",
                metadata={"dependency": "milvus", "collection": place.collection},
            )
        log.warning(
            "collection_outdated",
            tenant=knowledge_base.tenant,
            id=knowledge_base.id,
            collection=place.collection,
            lacks=lacks,
        )
        await self.reindex(knowledge_base)
        return True

    async def before_writing(self, knowledge_base: KnowledgeBase) -> bool:
        """Looks at each collection once; False if the knowledge base has another one now.

        Raises:
            As `renewed`.
        """
        place = knowledge_base.place
        if (place.database, place.collection) in self._current:
            return True
        if not await self.renewed(knowledge_base):
            return True
        snapshot = await self._catalogue.snapshot(knowledge_base.tenant, knowledge_base.id)
        if snapshot is not None:
            await self.ensure(snapshot.knowledge_base)
        return False

    def look_again(self) -> None:
        """A write has found an outdated one after all: an earlier release made it anew."""
        self._current.clear()


def new_collection(alias: str) -> str:
    """Never the name of a former one, which a worker might still be writing to."""
    return f"{alias}_{new_id()}"
