"""Reading all of a knowledge base."""

from collections.abc import AsyncIterator
from contextlib import aclosing

from retrieval.core.filters import Filter, checked
from retrieval.core.model import KnowledgeBase, StoredChunk
from retrieval.core.ports import VectorStore
from servicekit.errors import NotFound, Unavailable

_BATCH = 500


async def chunks_of(
    knowledge_base: KnowledgeBase, store: VectorStore, *, filter_: Filter | None, with_vectors: bool
) -> AsyncIterator[list[StoredChunk]]:
    """Every chunk once, at most 500 at a time; the next are read when they are asked for.

    Raises:
        InvalidArgument: The filter does not fit its metadata fields.
        Unavailable: The store does not answer, or the chunks have moved to another collection
            meanwhile; begin again.
    """
    wanted = None if filter_ is None else checked(filter_, knowledge_base.spec.metadata_fields)
    walk = store.iterate(knowledge_base.place, filter=wanted, with_vectors=with_vectors, batch=_BATCH)
    try:
        async with aclosing(walk):  # type: ignore[type-var]  # they are generators
            async for batch in walk:
                yield batch
    except NotFound as error:
        raise Unavailable(
            f"the chunks of {knowledge_base.name} are not where they were: it is being indexed anew, or its "
            "data was lost. Begin again; if that does not help, create it again with the same fields",
            reason="DEPENDENCY_UNAVAILABLE",
            metadata={"knowledge_base": knowledge_base.name},
        ) from error
