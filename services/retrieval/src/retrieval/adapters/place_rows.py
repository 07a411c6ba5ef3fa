"""Where in the store the rows of the catalogue's knowledge bases are."""

from typing import Any

from sqlalchemy import Row

from retrieval.adapters.spec_rows import tenancy_of
from retrieval.adapters.tables import knowledge_bases
from retrieval.core.model import KnowledgeBase, Place, place_of

PLACE_COLUMNS = (
    knowledge_bases.c.collection,
    knowledge_bases.c.alias,
    knowledge_bases.c.dimension,
    knowledge_bases.c.model_fingerprint,
    knowledge_bases.c.spec,
)
"""What `place_from_row` reads beside the tenant."""


def place_from_row(row: Row[Any]) -> Place:
    """Of a row that has PLACE_COLUMNS and the tenant."""
    return place_of(
        tenancy_of(row.spec),
        tenant=row.tenant,
        collection=row.collection,
        alias=row.alias,
        model_fingerprint=row.model_fingerprint,
        dimension=row.dimension,
    )


def doomed_values(knowledge_base: KnowledgeBase) -> dict[str, Any]:
    """What serves it now, to be dropped later."""
    place = knowledge_base.place
    return {
        "collection": knowledge_base.collection,
        "tenant": knowledge_base.tenant,
        "database": place.database or None,
        "shared": place.collection if place.scope else None,
    }


def doomed_place(row: Row[Any]) -> Place:
    """The other way. Without the alias: it leads to what is served now."""
    if row.shared is not None:
        return Place(collection=row.shared, scope=row.collection)
    return Place(database=row.database or "", collection=row.collection)
