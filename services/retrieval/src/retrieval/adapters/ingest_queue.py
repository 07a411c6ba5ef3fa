"""The queue of documents to index, in SQL.

Turns are by tenant, then by knowledge base, then by waiting time: a document
of a small knowledge base waits for one document of each large one at most.
"""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy import ColumnElement, and_, case, func, select, update

from retrieval.adapters.rows import counts_of, document_from_row, moment, ms, settled
from retrieval.adapters.statements import (
    Transactions,
    bump,
    is_document,
    is_id,
    lock_knowledge_base,
    next_turn,
    of_kb,
    put_state,
    update_claimed,
)
from retrieval.adapters.tables import documents, ingest_state, knowledge_bases, waiting_since
from retrieval.adapters.tuning_tables import paused
from retrieval.core.model import Claim, Counts, DocumentError, DocumentState
from servicekit.ids import new_id

_PENDING, _INDEXING, _READY, _FAILED = DocumentState
# Knowledge bases that one call looks at: other workers may just be claiming the last document of each.
_CANDIDATES = 16


class SqlIngestQueue(Transactions):
    """See `IngestQueue`."""

    async def claim(self, *, lease: timedelta, now: datetime) -> Claim | None:
        """Whose turn it is, then the document there that waits longest."""
        for tenant, knowledge_base in await self._turns(now):
            claim = await self._claim_of(tenant, knowledge_base, lease=lease, now=now)
            if claim is not None:
                return claim
        return None

    async def renew(self, claim: Claim, *, lease: timedelta, now: datetime) -> bool:
        """Only while the token is still the claim's."""
        async with self._begin() as connection:
            return await update_claimed(connection, claim, {"lease_until_ms": ms(now + lease)})

    async def finish(
        self, claim: Claim, *, collection: str, chunk_count: int, warnings: Sequence[str], now: datetime
    ) -> bool:
        """Also lost if a re-index has moved the knowledge base to another collection."""
        document = claim.document
        values = settled(_READY, now) | {
            "chunk_count": chunk_count,
            "warnings": json.dumps(list(warnings)),
            "error_reason": None,
            "error_message": None,
            "version": claim.token,
            "moved_from": None,
        }
        async with self._begin() as connection:
            serving = await lock_knowledge_base(connection, document.tenant, document.knowledge_base)
            if serving != collection or not await update_claimed(connection, claim, values):
                return False
            await bump(connection, document.tenant, document.knowledge_base, now)
        return True

    async def fail(self, claim: Claim, error: DocumentError, *, chunks_removed: bool, now: datetime) -> bool:
        """The revision grows if chunks went."""
        document = claim.document
        values = settled(_FAILED, now) | {"error_reason": error.reason, "error_message": error.message}
        if chunks_removed:
            values["chunk_count"] = 0
        async with self._begin() as connection:
            serving = await lock_knowledge_base(connection, document.tenant, document.knowledge_base)
            if serving is None or not await update_claimed(connection, claim, values):
                return False
            await bump(connection, document.tenant, document.knowledge_base, now)
        return True

    async def postpone(self, claim: Claim, *, until: datetime, now: datetime) -> bool:
        """Back into the queue, with a note of the failure."""
        values = settled(_PENDING, now) | {
            "due_ms": ms(until),
            "first_failure_ms": func.coalesce(documents.c.first_failure_ms, ms(now)),
        }
        async with self._begin() as connection:
            return await update_claimed(connection, claim, values)

    async def release(self, claim: Claim, *, until: datetime, now: datetime) -> bool:
        """Back into the queue, as if it had never been claimed."""
        values = settled(_PENDING, now) | {
            "due_ms": ms(until),
            "attempts": case((documents.c.attempts > 0, documents.c.attempts - 1), else_=0),
        }
        async with self._begin() as connection:
            return await update_claimed(connection, claim, values)

    async def abandon(self, claim: Claim) -> None:
        """Only if nobody else has claimed it since."""
        async with self._begin() as connection:
            await connection.execute(
                update(documents)
                .where(is_document(claim.document), documents.c.lease_token.is_(None))
                .values(lease_until_ms=0)
            )

    async def queue_depth(self) -> Counts:
        """One statement over an index. Those that are READY, the most of them, are not counted."""
        async with self._begin() as connection:
            rows = await connection.execute(
                select(documents.c.state, func.count().label("documents"))
                .where(
                    documents.c.state.in_([_PENDING, _INDEXING, _FAILED]),
                    documents.c.delete_time_ms.is_(None),
                )
                .group_by(documents.c.state)
            )
            by_state = {row.state: row.documents for row in rows}
        return counts_of(by_state, 0)

    async def oldest_pending(self) -> datetime | None:
        """Over all knowledge bases."""
        async with self._begin() as connection:
            oldest = await connection.scalar(
                select(waiting_since)
                .where(documents.c.state == _PENDING, documents.c.delete_time_ms.is_(None))
                .order_by(waiting_since)
                .limit(1)
            )
        return None if oldest is None else moment(oldest)

    async def _turns(self, now: datetime) -> list[tuple[str, str]]:
        """Knowledge bases with something to claim, in order. An idle queue costs one look at an index."""
        of_tenant = ingest_state.alias("of_tenant")
        tenants_turn = (
            select(func.max(of_tenant.c.turn))
            .where(of_tenant.c.tenant == knowledge_bases.c.tenant)
            .scalar_subquery()
        )
        # Not an `exists`: Postgres would join with all that waits; this it looks up in the index.
        something = (
            select(documents.c.state)
            .where(
                documents.c.tenant == knowledge_bases.c.tenant,
                documents.c.knowledge_base == knowledge_bases.c.id,
                _claimable(now, _PENDING, _INDEXING),
            )
            .limit(1)
            .scalar_subquery()
        )
        turns = (
            select(knowledge_bases.c.tenant, knowledge_bases.c.id)
            .outerjoin(
                ingest_state,
                and_(
                    ingest_state.c.tenant == knowledge_bases.c.tenant,
                    ingest_state.c.knowledge_base == knowledge_bases.c.id,
                ),
            )
            .where(
                knowledge_bases.c.delete_time_ms.is_(None),
                ~paused(knowledge_bases.c.tenant, knowledge_bases.c.id, now),
                something.is_not(None),
            )
            .order_by(
                func.coalesce(tenants_turn, 0),
                func.coalesce(ingest_state.c.turn, 0),
                knowledge_bases.c.tenant,
                knowledge_bases.c.id,
            )
            .limit(_CANDIDATES)
        )
        async with self._begin() as connection:
            any_ = select(documents.c.state).where(_claimable(now, _PENDING, _INDEXING)).limit(1)
            if await connection.scalar(any_) is None:
                return []
            return [(row.tenant, row.id) for row in await connection.execute(turns)]

    async def _claim_of(
        self, tenant: str, knowledge_base: str, *, lease: timedelta, now: datetime
    ) -> Claim | None:
        token = new_id()
        async with self._begin() as connection:
            # Before the document is locked: the first turn locks the knowledge base for a moment.
            if not await connection.scalar(
                select(knowledge_bases.c.id).where(
                    knowledge_bases.c.tenant == tenant,
                    knowledge_bases.c.id == knowledge_base,
                    knowledge_bases.c.delete_time_ms.is_(None),
                )
            ):
                return None
            await put_state(connection, tenant, knowledge_base, {"turn": next_turn()})
            # What a worker has left half done had its turn before. Each state apart: an index has the order.
            for state in (_INDEXING, _PENDING):
                waiting = (
                    select(documents.c.id, documents.c.claimed)
                    .where(
                        of_kb(tenant, knowledge_base),
                        _claimable(now, state),
                        ~paused(tenant, knowledge_base, now),
                    )
                    .order_by(documents.c.due_ms, documents.c.path)
                    .limit(1)
                    .with_for_update(skip_locked=True)
                )
                found = (await connection.execute(waiting)).one_or_none()
                if found is not None:
                    break
            else:
                return None
            row = (
                await connection.execute(
                    update(documents)
                    .where(is_id(tenant, knowledge_base, found.id))
                    .values(
                        state=_INDEXING,
                        lease_token=token,
                        lease_until_ms=ms(now + lease),
                        attempts=documents.c.attempts + 1,
                        claimed=1,
                        # It was in the hands of a worker that has not let go.
                        interruptions=documents.c.interruptions
                        + case((documents.c.state == _INDEXING, 1), else_=0),
                        update_time_ms=ms(now),
                    )
                    .returning(documents)
                )
            ).one()
        first = row.first_failure_ms
        return Claim(
            document=document_from_row(row),
            token=token,
            first_failure=None if first is None else datetime.fromtimestamp(first / 1000, UTC),
            interruptions=row.interruptions,
            first=not found.claimed,
        )


def _claimable(now: datetime, *states: DocumentState) -> ColumnElement[bool]:
    in_state = documents.c.state == states[0] if len(states) == 1 else documents.c.state.in_(states)
    return and_(
        documents.c.delete_time_ms.is_(None),
        in_state,
        documents.c.due_ms <= ms(now),
        documents.c.lease_until_ms <= ms(now),
    )
