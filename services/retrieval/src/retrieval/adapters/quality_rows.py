"""Which knowledge bases are watched, and the schedules of their evaluations, in the catalogue's database."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, and_, case, exists, func, select, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from retrieval.adapters.database import mapped
from retrieval.adapters.golden_sets import add_evaluations, evaluation_from
from retrieval.adapters.golden_tables import evaluation_schedules, evaluations, golden_sets
from retrieval.adapters.rows import moment, ms
from retrieval.adapters.spec_rows import evaluation_policy_of
from retrieval.adapters.tables import documents, knowledge_bases
from retrieval.core.golden import Evaluation
from retrieval.core.model import DocumentState
from retrieval.core.quality import Watched
from servicekit.ids import new_id
from servicekit.schedules import Schedule

_MADE = "made_"  # both tables have columns of the same names


class SqlQuality:
    """See `QualityStore`."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def watched(self, *, after: tuple[str, str], limit: int) -> list[Watched]:
        """One statement; specs are read for those only that have a golden set or a policy."""
        key = tuple_(knowledge_bases.c.tenant, knowledge_bases.c.id)
        chosen = _all().where(key > tuple_(*after)).order_by(knowledge_bases.c.tenant, knowledge_bases.c.id)
        return await self._read(chosen.limit(limit))

    async def of(self, tenant: str, knowledge_bases_: Sequence[str]) -> dict[str, Watched]:
        """One statement."""
        if not knowledge_bases_:
            return {}
        chosen = _all().where(
            knowledge_bases.c.tenant == tenant, knowledge_bases.c.id.in_(list(knowledge_bases_))
        )
        return {one.knowledge_base: one for one in await self._read(chosen)}

    async def claim(self, watched: Watched, *, lease: timedelta, now: datetime) -> str | None:
        """Compares and swaps the turn: what another process has begun or ended since is not begun again."""
        token, turn = new_id(), watched.schedule.turn
        held = {"turn": turn + 1, "lease_token": token, "lease_until_ms": ms(now + lease)}
        insert = postgresql.insert if self._engine.dialect.name == "postgresql" else sqlite.insert
        first = (
            insert(evaluation_schedules)
            .values(tenant=watched.tenant, knowledge_base=watched.knowledge_base)
            .values(failures=0, message="", **held)
            .on_conflict_do_nothing()
        )
        further = (
            update(evaluation_schedules)
            .where(_is(watched), evaluation_schedules.c.turn == turn)
            .where(evaluation_schedules.c.lease_until_ms <= ms(now))
            .values(**held)
        )
        try:
            async with self._begin() as connection:
                claimed = await connection.execute(first if turn == 0 else further)
        except IntegrityError:  # the knowledge base has gone
            return None
        return token if claimed.rowcount else None

    async def renew(self, watched: Watched, token: str, *, lease: timedelta, now: datetime) -> bool:
        """Also a lease that has ended, if nobody else has taken it."""
        async with self._begin() as connection:
            return await _update(connection, watched, token, {"lease_until_ms": ms(now + lease)})

    async def finish(
        self, watched: Watched, token: str, made: Sequence[Evaluation], *, now: datetime
    ) -> bool:
        """One transaction."""
        ended = {**_ended(now), "failures": 0, "failure_ms": None, "retry_ms": None, "message": ""}
        async with self._begin() as connection:
            if not await _update(connection, watched, token, ended):
                return False
            await add_evaluations(connection, watched.tenant, watched.knowledge_base, made)
            return True

    async def fail(
        self, watched: Watched, token: str, message: str, *, retry: datetime, now: datetime
    ) -> bool:
        """The scores that there are stay."""
        values = {
            "failures": watched.failures + 1,
            "failure_ms": ms(now),
            "retry_ms": ms(retry),
            "message": message,
        }
        async with self._begin() as connection:
            return await _update(connection, watched, token, _ended(now) | values)

    async def _read(self, chosen: Select[Any]) -> list[Watched]:
        async with self._begin() as connection:
            rows = (await connection.execute(chosen)).all()
        return [_watched(row) for row in rows]

    @asynccontextmanager
    async def _begin(self) -> AsyncIterator[AsyncConnection]:
        with mapped():
            async with self._engine.begin() as connection:
                yield connection


def _all() -> Select[Any]:
    made = evaluations.alias("made")
    newest = (
        select(made.c.id)
        .where(
            made.c.tenant == knowledge_bases.c.tenant,
            made.c.knowledge_base == knowledge_bases.c.id,
            made.c.mode == knowledge_bases.c.search_mode,
            made.c.golden_set_sha256 == golden_sets.c.sha256,
        )
        .order_by(made.c.id.desc())
        .limit(1)
        .correlate(knowledge_bases, golden_sets)
        .scalar_subquery()
    )
    ready = and_(
        _same(documents.c),
        documents.c.state == DocumentState.READY,
        documents.c.delete_time_ms.is_(None),
    )
    since = and_(ready, documents.c.update_time_ms > evaluations.c.finish_time_ms)

    def counted(which: ColumnElement[bool]) -> ColumnElement[int]:
        count = select(func.count()).select_from(documents).where(which)
        return count.correlate(knowledge_bases, evaluations).scalar_subquery()

    changed = exists().where(since).correlate(knowledge_bases, evaluations)
    return (
        select(
            counted(since).label("changed"),
            # Of those that have not changed they are not counted every few seconds.
            case((changed, counted(ready)), else_=0).label("ready"),
            knowledge_bases.c.tenant,
            knowledge_bases.c.id,
            knowledge_bases.c.spec,
            golden_sets.c.sha256,
            golden_sets.c.name,
            evaluation_schedules.c.turn,
            evaluation_schedules.c.failures,
            evaluation_schedules.c.failure_ms,
            evaluation_schedules.c.retry_ms,
            evaluation_schedules.c.message,
            *(column.label(_MADE + column.name) for column in evaluations.c),
        )
        .outerjoin(golden_sets, _same(golden_sets.c))
        .outerjoin(evaluation_schedules, _same(evaluation_schedules.c))
        .outerjoin(evaluations, and_(_same(evaluations.c), evaluations.c.id == newest))
        # As `spec_to_text` writes it; no other text in a spec can look so, since its quotes are escaped.
        .where(knowledge_bases.c.delete_time_ms.is_(None), knowledge_bases.c.spec.like('%"evaluation": {%'))
    )


def _same(columns: Any) -> ColumnElement[bool]:
    return and_(columns.tenant == knowledge_bases.c.tenant, columns.knowledge_base == knowledge_bases.c.id)


def _watched(row: Row[Any]) -> Watched:
    policy = evaluation_policy_of(row.spec)
    assert policy is not None  # the statement's condition
    schedule = Schedule()
    if row.turn is not None:
        schedule = Schedule(
            turn=row.turn,
            failures=row.failures,
            failure_time=None if row.failure_ms is None else moment(row.failure_ms),
            retry_time=None if row.retry_ms is None else moment(row.retry_ms),
            message=row.message,
        )
    newest = None
    if row._mapping[_MADE + "id"] is not None:
        newest = evaluation_from({column.name: row._mapping[_MADE + column.name] for column in evaluations.c})
    return Watched(
        tenant=row.tenant,
        knowledge_base=row.id,
        policy=policy,
        golden_set=None if row.sha256 is None else row.name or "",
        golden_set_sha256=row.sha256 or "",
        schedule=schedule,
        newest=newest,
        changed=row.changed,
        ready=row.ready,
    )


def _is(watched: Watched) -> ColumnElement[bool]:
    return and_(
        evaluation_schedules.c.tenant == watched.tenant,
        evaluation_schedules.c.knowledge_base == watched.knowledge_base,
    )


def _ended(now: datetime) -> dict[str, Any]:
    # The turn too: who saw it while it was under way must not begin it again.
    return {"lease_token": None, "lease_until_ms": ms(now), "turn": evaluation_schedules.c.turn + 1}


async def _update(connection: AsyncConnection, watched: Watched, token: str, values: dict[str, Any]) -> bool:
    found = await connection.execute(
        update(evaluation_schedules)
        .where(_is(watched), evaluation_schedules.c.lease_token == token)
        .values(**values)
    )
    return bool(found.rowcount)
