"""Vectors of queries in SQL: a fixed number of slots for each knowledge base."""

import random
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import numpy as np
from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncEngine

from retrieval.adapters.database import mapped
from retrieval.adapters.rows import ms
from retrieval.adapters.tables import knowledge_bases
from retrieval.adapters.tuning_tables import query_samples
from retrieval.core.model import Vectors
from retrieval.core.tuning.ports import QuerySample

SLOTS = 2_000


class SqlQuerySamples:
    """See `QuerySamples`. A new one takes any slot, so that those that stay are old and new ones."""

    def __init__(self, engine: AsyncEngine, *, rng: random.Random) -> None:
        self._engine = engine
        self._rng = rng

    async def add(self, samples: Sequence[QuerySample], *, now: datetime) -> None:
        """One statement for all of them."""
        rows: dict[tuple[str, str, int], dict[str, Any]] = {
            (sample.tenant, sample.knowledge_base, slot): {
                "tenant": sample.tenant,
                "knowledge_base": sample.knowledge_base,
                "slot": slot,
                "model_fingerprint": sample.model_fingerprint,
                "time_ms": ms(now),
                "vector": np.asarray(sample.vector, dtype="<f4").tobytes(),
            }
            for sample in samples
            for slot in [self._rng.randrange(SLOTS)]
        }
        # In one order: two processes that lock rows in two orders would deadlock.
        ordered = [rows[key] for key in sorted(rows)]
        with mapped():
            async with self._engine.begin() as connection:
                tenants = sorted({row["tenant"] for row in ordered})
                there = {
                    (row.tenant, row.id)
                    for row in await connection.execute(
                        select(knowledge_bases.c.tenant, knowledge_bases.c.id).where(
                            knowledge_bases.c.tenant.in_(tenants), knowledge_bases.c.delete_time_ms.is_(None)
                        )
                    )
                }
                kept = [row for row in ordered if (row["tenant"], row["knowledge_base"]) in there]
                if not kept:
                    return
                dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
                statement = dialect.insert(query_samples)
                new = statement.excluded
                await connection.execute(
                    statement.on_conflict_do_update(
                        index_elements=["tenant", "knowledge_base", "slot"],
                        set_={
                            "model_fingerprint": new.model_fingerprint,
                            "time_ms": new.time_ms,
                            "vector": new.vector,
                        },
                    ),
                    kept,
                )

    async def read(self, tenant: str, knowledge_base: str, model_fingerprint: str, *, limit: int) -> Vectors:
        """Newest first."""
        with mapped():
            async with self._engine.begin() as connection:
                rows = await connection.execute(
                    select(query_samples.c.vector)
                    .where(
                        query_samples.c.tenant == tenant,
                        query_samples.c.knowledge_base == knowledge_base,
                        query_samples.c.model_fingerprint == model_fingerprint,
                    )
                    .order_by(query_samples.c.time_ms.desc(), query_samples.c.slot)
                    .limit(limit)
                )
                vectors = [np.frombuffer(row.vector, dtype="<f4") for row in rows]
        return np.stack(vectors) if vectors else np.empty((0, 0), dtype=np.float32)
