"""Tuning jobs and their results in SQL."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, exists, func, insert, or_, select, tuple_, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from retrieval.adapters.rows import knowledge_base_from_row, moment, ms
from retrieval.adapters.statements import Transactions
from retrieval.adapters.tables import documents, knowledge_bases
from retrieval.adapters.tuning_rows import measured_from_text, measured_to_text, params_to_text
from retrieval.adapters.tuning_tables import query_samples, tunings
from retrieval.core.errors import knowledge_base_not_found
from retrieval.core.model import DocumentState
from retrieval.core.tuning.model import Candidate, Job, Kind, Measurement, Tuning, TuningState
from servicekit.ids import new_id

_PENDING, _RUNNING, _DONE, _FAILED = TuningState
_NEW: dict[str, Any] = {
    "attempts": 0,
    "lease_until_ms": 0,
    "policy": "",
    "collection": "",
    "search_params": "{}",
    "shadow": "",
    "former": "",
    "paused_until_ms": 0,
}


class SqlTunings(Transactions):
    """See `Tunings`."""

    async def request(
        self, tenant: str, knowledge_base: str, *, kind: Kind, reason: str, now: datetime
    ) -> Tuning:
        """A row that waits or runs stays as it is; but who asks for all of it gets more than a check."""
        values = {"state": _PENDING, "kind": kind, "message": reason, "due_ms": ms(now), "attempts": 0}
        is_it = _is(tenant, knowledge_base)
        try:
            async with self._begin() as connection:
                if not await connection.scalar(select(_served(tenant, knowledge_base))):
                    raise knowledge_base_not_found(knowledge_base)
                settled = tunings.c.state.in_([_DONE, _FAILED])
                await connection.execute(update(tunings).where(is_it, settled).values(values))
                if kind == Kind.TUNE:
                    waits = and_(tunings.c.state == _PENDING, tunings.c.kind == Kind.CHECK)
                    await connection.execute(update(tunings).where(is_it, waits).values(kind=kind))
                if not await connection.scalar(select(exists().where(is_it))):
                    key = {"tenant": tenant, "knowledge_base": knowledge_base}
                    await connection.execute(insert(tunings).values(_NEW | key | values))
                row = (await connection.execute(select(tunings).where(is_it))).one()
        except IntegrityError:  # another call has made the row
            return await self.request(tenant, knowledge_base, kind=kind, reason=reason, now=now)
        return tuning_from_row(row)

    async def get(self, tenant: str, ids: Sequence[str]) -> Mapping[str, Tuning]:
        """By knowledge base; those that were never tuned are left out."""
        async with self._begin() as connection:
            rows = await connection.execute(
                select(tunings).where(tunings.c.tenant == tenant, tunings.c.knowledge_base.in_(ids))
            )
            return {row.knowledge_base: tuning_from_row(row) for row in rows}

    async def candidates(self, *, after: tuple[str, str], limit: int) -> list[Candidate]:
        """Two statements: one knows the chunks, the other everything else."""
        key = tuple_(knowledge_bases.c.tenant, knowledge_bases.c.id)
        async with self._begin() as connection:
            rows = (
                await connection.execute(
                    select(
                        knowledge_bases,
                        tunings.c.state,
                        tunings.c.measured,
                        tunings.c.policy.label("tuned_policy"),
                        tunings.c.check_ms,
                    )
                    .outerjoin(
                        tunings,
                        and_(
                            tunings.c.tenant == knowledge_bases.c.tenant,
                            tunings.c.knowledge_base == knowledge_bases.c.id,
                        ),
                    )
                    .where(knowledge_bases.c.delete_time_ms.is_(None), key > tuple_(*after))
                    .order_by(knowledge_bases.c.tenant, knowledge_bases.c.id)
                    .limit(limit)
                )
            ).all()
            if not rows:
                return []
            of = tuple_(documents.c.tenant, documents.c.knowledge_base)
            counted = await connection.execute(
                select(documents.c.tenant, documents.c.knowledge_base, func.sum(documents.c.chunk_count))
                .where(
                    of >= tuple_(rows[0].tenant, rows[0].id),
                    of <= tuple_(rows[-1].tenant, rows[-1].id),
                    documents.c.delete_time_ms.is_(None),
                )
                .group_by(documents.c.tenant, documents.c.knowledge_base)
            )
            chunks = {(tenant, id_): int(count) for tenant, id_, count in counted}
        return [
            Candidate(
                knowledge_base=knowledge_base_from_row(row),
                chunks=chunks.get((row.tenant, row.id), 0),
                state=None if row.state is None else TuningState(row.state),
                measured=measured_from_text(row.measured),
                policy=row.tuned_policy or "",
                check_time=None if row.check_ms is None else moment(row.check_ms),
            )
            for row in rows
        ]

    async def claim(self, *, lease: timedelta, now: datetime) -> Job | None:
        """Also those whose knowledge base is gone: their collections are to be dropped."""
        token = new_id()
        orphaned = ~exists().where(
            knowledge_bases.c.tenant == tunings.c.tenant, knowledge_bases.c.id == tunings.c.knowledge_base
        )
        waiting = (
            select(tunings.c.tenant, tunings.c.knowledge_base)
            .where(
                tunings.c.lease_until_ms <= ms(now),
                tunings.c.due_ms <= ms(now),
                or_(tunings.c.state.in_([_PENDING, _RUNNING]), orphaned),
            )
            .order_by(tunings.c.due_ms)
            .limit(1)
            .with_for_update(skip_locked=True, of=tunings)
        )
        async with self._begin() as connection:
            found = (await connection.execute(waiting)).one_or_none()
            if found is None:
                return None
            row = (
                await connection.execute(
                    update(tunings)
                    .where(_is(found.tenant, found.knowledge_base))
                    .values(
                        state=_RUNNING,
                        lease_token=token,
                        lease_until_ms=ms(now + lease),
                        attempts=tunings.c.attempts + 1,
                    )
                    .returning(tunings)
                )
            ).one()
        return Job(
            tenant=row.tenant,
            knowledge_base=row.knowledge_base,
            token=token,
            kind=Kind(row.kind),
            reason=row.message,
            attempts=row.attempts,
            shadow=row.shadow,
            former=row.former,
            measured=measured_from_text(row.measured),
        )

    async def renew(self, job: Job, *, lease: timedelta, now: datetime) -> bool:
        """The pause lasts as long as the lease, if there is a shadow to fill."""
        until = ms(now + lease)
        async with self._begin() as connection:
            held = await _update(connection, job, {"lease_until_ms": until})
            await connection.execute(
                update(tunings)
                .where(_held(job), tunings.c.shadow != "", tunings.c.former == "")
                .values(paused_until_ms=until)
            )
        return held

    async def finish(
        self, job: Job, measured: Measurement | None, *, policy: str, check_time: datetime, now: datetime
    ) -> bool:
        """With new results or the former ones."""
        values = _settled(_DONE, now, check_time) | {"policy": policy, "shadow": "", "former": ""}
        if measured is not None:
            values |= _measured(measured) | {"message": measured.message}
        elif job.measured is not None:
            values["message"] = job.measured.message
        async with self._begin() as connection:
            if measured is None:
                # After a swap the newest results are those of the row.
                stored = await connection.scalar(select(tunings.c.measured).where(_held(job)))
                newest = measured_from_text(stored)
                if newest is not None:
                    values["message"] = newest.message
            return await _update(connection, job, values)

    async def fail(self, job: Job, message: str, *, check_time: datetime, now: datetime) -> bool:
        """A shadow stays named until it is dropped."""
        async with self._begin() as connection:
            return await _update(connection, job, _settled(_FAILED, now, check_time) | {"message": message})

    async def postpone(self, job: Job, *, until: datetime, now: datetime) -> bool:
        """Back into the queue."""
        values = {
            "state": _PENDING,
            "due_ms": ms(until),
            "lease_token": None,
            "lease_until_ms": 0,
            "paused_until_ms": 0,
        }
        async with self._begin() as connection:
            return await _update(connection, job, values)

    async def remove(self, job: Job) -> None:
        """With its samples, unless it was created anew."""
        key = job.tenant, job.knowledge_base
        async with self._begin() as connection:
            held = await connection.execute(delete(tunings).where(_held(job)))
            if held.rowcount and not await connection.scalar(select(_served(*key))):
                await connection.execute(
                    delete(query_samples).where(
                        query_samples.c.tenant == job.tenant,
                        query_samples.c.knowledge_base == job.knowledge_base,
                    )
                )

    async def set_shadow(self, job: Job, collection: str, *, lease: timedelta, now: datetime) -> bool:
        """Only one at a time: the former one must have been forgotten."""
        values = {"shadow": collection, "paused_until_ms": ms(now + lease) if collection else 0}
        async with self._begin() as connection:
            return await _update(connection, job, values)

    async def indexing(self, job: Job, *, now: datetime) -> int:
        """Leases that have not ended."""
        async with self._begin() as connection:
            return int(await connection.scalar(_being_indexed(job, now)) or 0)

    async def swap(self, job: Job, measured: Measurement, *, since: datetime, now: datetime) -> bool:
        """The knowledge base is locked first, as everywhere."""
        async with self._begin() as connection:
            served = await connection.scalar(
                select(knowledge_bases.c.collection)
                .where(_kb(job), knowledge_bases.c.delete_time_ms.is_(None))
                .with_for_update()
            )
            row = (await connection.execute(select(tunings).where(_held(job)))).one_or_none()
            if served is None or row is None or row.shadow != measured.collection or row.former:
                return False
            indexed = select(func.count()).where(
                documents.c.tenant == job.tenant,
                documents.c.knowledge_base == job.knowledge_base,
                documents.c.state == DocumentState.READY,
                documents.c.update_time_ms > ms(since),
            )
            if await connection.scalar(indexed) or await connection.scalar(_being_indexed(job, now)):
                return False
            await connection.execute(
                update(knowledge_bases).where(_kb(job)).values(collection=measured.collection)
            )
            values = {"shadow": "", "former": served, "paused_until_ms": 0}
            return await _update(connection, job, values | _measured(measured))

    async def gone(self, job: Job, documents_: Sequence[str]) -> list[str]:
        """Not there, or hidden and not the origin of a move that waits for its chunks."""
        seen = and_(
            documents.c.tenant == job.tenant,
            documents.c.knowledge_base == job.knowledge_base,
            documents.c.delete_time_ms.is_(None),
        )
        async with self._begin() as connection:
            there = set(
                await connection.scalars(select(documents.c.id).where(seen, documents.c.id.in_(documents_)))
            )
            there |= set(
                await connection.scalars(
                    select(documents.c.moved_from).where(
                        seen,
                        documents.c.moved_from.in_(documents_),
                        documents.c.state.in_([DocumentState.PENDING, DocumentState.INDEXING]),
                    )
                )
            )
        return [document for document in documents_ if document not in there]


def tuning_from_row(row: Any) -> Tuning:
    """A row as it stands."""
    return Tuning(
        state=TuningState(row.state),
        message=row.message,
        finish_time=None if row.finish_ms is None else moment(row.finish_ms),
        measured=measured_from_text(row.measured),
    )


async def _update(connection: AsyncConnection, job: Job, values: dict[str, Any]) -> bool:
    changed = await connection.execute(update(tunings).where(_held(job)).values(values))
    return bool(changed.rowcount)


def _settled(state: TuningState, now: datetime, check_time: datetime) -> dict[str, Any]:
    return {
        "state": state,
        "finish_ms": ms(now),
        "check_ms": ms(check_time),
        "lease_token": None,
        "lease_until_ms": 0,
        "paused_until_ms": 0,
    }


def _measured(measured: Measurement) -> dict[str, Any]:
    return {
        "measured": measured_to_text(measured),
        "collection": measured.collection,
        "search_params": params_to_text(measured.search_params),
    }


def _being_indexed(job: Job, now: datetime) -> Any:
    return select(func.count()).where(
        documents.c.tenant == job.tenant,
        documents.c.knowledge_base == job.knowledge_base,
        documents.c.state == DocumentState.INDEXING,
        documents.c.lease_until_ms > ms(now),
    )


def _is(tenant: str, knowledge_base: str) -> ColumnElement[bool]:
    return and_(tunings.c.tenant == tenant, tunings.c.knowledge_base == knowledge_base)


def _held(job: Job) -> ColumnElement[bool]:
    return and_(_is(job.tenant, job.knowledge_base), tunings.c.lease_token == job.token)


def _kb(job: Job) -> ColumnElement[bool]:
    return and_(knowledge_bases.c.tenant == job.tenant, knowledge_bases.c.id == job.knowledge_base)


def _served(tenant: str, knowledge_base: str) -> Any:
    return exists().where(
        knowledge_bases.c.tenant == tenant,
        knowledge_bases.c.id == knowledge_base,
        knowledge_bases.c.delete_time_ms.is_(None),
    )
