"""Tables of tuning. They outlive their knowledge base until a worker has dropped its collections."""

from datetime import datetime

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
    and_,
    exists,
)

from retrieval.adapters.rows import ms
from retrieval.adapters.tables import knowledge_bases, metadata

tunings = Table(
    "tunings",
    metadata,
    Column("tenant", String(253), primary_key=True),
    Column("knowledge_base", String(63), primary_key=True),
    Column("state", Integer, nullable=False),
    Column("kind", Integer, nullable=False),
    # Why it is made; later what came out.
    Column("message", Text, nullable=False),
    Column("due_ms", BigInteger, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("lease_token", String(26)),
    Column("lease_until_ms", BigInteger, nullable=False),
    Column("finish_ms", BigInteger),
    # When it is to be looked at again.
    Column("check_ms", BigInteger),
    # As it was when it was last tuned; empty: never.
    Column("policy", Text, nullable=False),
    # What the parameters hold for, and the parameters: all that a search needs.
    Column("collection", String(255), nullable=False),
    Column("search_params", Text, nullable=False),
    # The whole measurement, in JSON.
    Column("measured", Text),
    # Collections beside the one that serves; empty: none.
    Column("shadow", String(255), nullable=False),
    Column("former", String(255), nullable=False),
    # Until then, no document of the knowledge base is claimed.
    Column("paused_until_ms", BigInteger, nullable=False),
)

query_samples = Table(
    "query_samples",
    metadata,
    Column("tenant", String(253), primary_key=True),
    Column("knowledge_base", String(63), primary_key=True),
    Column("slot", Integer, primary_key=True),
    Column("model_fingerprint", String(200), nullable=False),
    Column("time_ms", BigInteger, nullable=False),
    # Little-endian float32.
    Column("vector", LargeBinary, nullable=False),
)

tuned_params = tunings.c.search_params.label("tuned_params")

of_serving_collection = and_(
    tunings.c.tenant == knowledge_bases.c.tenant,
    tunings.c.knowledge_base == knowledge_bases.c.id,
    # Parameters of another collection would be those of another index.
    tunings.c.collection == knowledge_bases.c.collection,
)


def paused(
    tenant: ColumnElement[str] | str, knowledge_base: ColumnElement[str] | str, now: datetime
) -> ColumnElement[bool]:
    """Whether the knowledge base is being copied, so that nothing may be claimed of it."""
    return exists().where(
        tunings.c.tenant == tenant,
        tunings.c.knowledge_base == knowledge_base,
        tunings.c.paused_until_ms > ms(now),
    )
