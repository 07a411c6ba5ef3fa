"""Golden sets and evaluations in the catalogue's database."""

import json
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, Table, and_, delete, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from retrieval.adapters.database import mapped
from retrieval.adapters.golden_tables import evaluation_schedules, evaluations, golden_sets
from retrieval.adapters.rows import moment, ms
from retrieval.adapters.tables import documents
from retrieval.core.errors import knowledge_base_not_found
from retrieval.core.golden import Evaluation, GoldenQuery, GoldenSet
from retrieval.core.model import DocumentState, SearchMode
from servicekit.ids import new_id

_KEPT = 1_000
_IDS_A_STATEMENT = 500  # SQLite has a bound on parameters


class SqlGoldenSets:
    """See `GoldenSets`."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def put_golden_set(
        self, tenant: str, knowledge_base: str, golden_set: GoldenSet | None, *, now: datetime
    ) -> None:
        """The former one goes in the same transaction."""
        async with self._begin(knowledge_base) as connection:
            await connection.execute(delete(golden_sets).where(_of(golden_sets, tenant, knowledge_base)))
            if golden_set is not None:
                await connection.execute(
                    insert(golden_sets).values(
                        tenant=tenant,
                        knowledge_base=knowledge_base,
                        sha256=golden_set.sha256,
                        queries=_to_json(golden_set),
                        update_time_ms=ms(now),
                        name=golden_set.name or None,
                    )
                )
            # What failed with the former one says nothing of this one.
            await connection.execute(
                update(evaluation_schedules)
                .where(_of(evaluation_schedules, tenant, knowledge_base))
                .values(failures=0, failure_ms=None, retry_ms=None, message="")
            )

    async def golden_set(self, tenant: str, knowledge_base: str) -> GoldenSet | None:
        """One row."""
        async with self._begin(knowledge_base) as connection:
            result = await connection.execute(
                select(golden_sets).where(_of(golden_sets, tenant, knowledge_base))
            )
            row = result.one_or_none()
        return None if row is None else _from_json(row)

    async def ready(self, tenant: str, knowledge_base: str, documents_: Collection[str]) -> set[str]:
        """By primary key, some hundreds at a time."""
        ids, found = list(documents_), set[str]()
        async with self._begin(knowledge_base) as connection:
            for start in range(0, len(ids), _IDS_A_STATEMENT):
                rows = await connection.execute(
                    select(documents.c.id).where(
                        _of(documents, tenant, knowledge_base),
                        documents.c.id.in_(ids[start : start + _IDS_A_STATEMENT]),
                        documents.c.state == DocumentState.READY,
                        documents.c.delete_time_ms.is_(None),
                    )
                )
                found.update(rows.scalars())
        return found

    async def add_evaluations(self, tenant: str, knowledge_base: str, made: Sequence[Evaluation]) -> None:
        """Ids of one call share a beginning, so that they stay together."""
        async with self._begin(knowledge_base) as connection:
            await add_evaluations(connection, tenant, knowledge_base, made)

    async def evaluations(
        self, tenant: str, knowledge_base: str, *, before: str, limit: int
    ) -> list[tuple[str, Evaluation]]:
        """By id, which begins with the time."""
        chosen = select(evaluations).where(_of(evaluations, tenant, knowledge_base))
        if before:
            chosen = chosen.where(evaluations.c.id < before)
        async with self._begin(knowledge_base) as connection:
            rows = await connection.execute(chosen.order_by(evaluations.c.id.desc()).limit(limit))
            return [(row.id, evaluation_from(dict(row._mapping))) for row in rows]

    @asynccontextmanager
    async def _begin(self, knowledge_base: str) -> AsyncIterator[AsyncConnection]:
        try:
            with mapped():
                async with self._engine.begin() as connection:
                    yield connection
        except IntegrityError as error:  # the foreign key
            raise knowledge_base_not_found(knowledge_base) from error


def _of(table: Table, tenant: str, knowledge_base: str) -> ColumnElement[bool]:
    return and_(table.c.tenant == tenant, table.c.knowledge_base == knowledge_base)


def _to_json(golden_set: GoldenSet) -> str:
    return json.dumps([[q.id, q.query, dict(q.relevant)] for q in golden_set.queries], ensure_ascii=False)


def _from_json(row: Row[Any]) -> GoldenSet:
    return GoldenSet(
        queries=tuple(
            GoldenQuery(id=id_, query=query, relevant=relevant)
            for id_, query, relevant in json.loads(row.queries)
        ),
        sha256=row.sha256,
        name=row.name or "",
    )


async def add_evaluations(
    connection: AsyncConnection, tenant: str, knowledge_base: str, made: Sequence[Evaluation]
) -> None:
    """Within the caller's transaction; the oldest make room."""
    of = {"tenant": tenant, "knowledge_base": knowledge_base}
    begin = new_id()
    rows = [
        of | asdict(one) | {"id": f"{begin}-{len(made) - n}", "finish_time_ms": ms(one.finish_time)}
        for n, one in enumerate(made)
    ]
    for row in rows:
        del row["finish_time"]
    await connection.execute(insert(evaluations), rows)
    oldest = await connection.scalar(
        select(evaluations.c.id)
        .where(_of(evaluations, tenant, knowledge_base))
        .order_by(evaluations.c.id.desc())
        .offset(_KEPT - 1)
        .limit(1)
    )
    if oldest is not None:
        await connection.execute(
            delete(evaluations).where(_of(evaluations, tenant, knowledge_base), evaluations.c.id < oldest)
        )


def evaluation_from(values: dict[str, Any]) -> Evaluation:
    """A row of `evaluations`, by the names of its columns."""
    for key in ("tenant", "knowledge_base", "id"):
        values.pop(key, None)
    values["finish_time"] = moment(values.pop("finish_time_ms"))
    values["mode"] = SearchMode(values["mode"])
    return Evaluation(**values)
