"""The session store in SQL, the same for SQLite and Postgres."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any, Generic, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from servicekit.clock import Clock
from servicekit.errors import InvalidArgument
from session.adapters import blobs, rows
from session.adapters.access import Bypass
from session.adapters.begin_run import BeginRun, session_row
from session.adapters.database import BoundReached, Database, Duplicate, QuotaReached
from session.adapters.event_rows import EventRows
from session.adapters.golden_rows import GoldenSetRows
from session.adapters.inputs import ProvideInput, said
from session.adapters.leases import AcquireExpired, RenewLeases, reply_bytes, those
from session.adapters.memories import MemoryRows
from session.adapters.news import RunNews
from session.adapters.quota_rows import TENANTS, QuotaRows
from session.adapters.records import Missed, summaries
from session.adapters.rows import MESSAGE, RUN, SESSION, owned, owner_values, to_us
from session.adapters.run_log import AppendEvents
from session.adapters.run_queue import IDLE_SESSIONS, UNFINISHED, BeginWaiting, RequestCancel
from session.adapters.score_rows import ScoreRows
from session.adapters.tables import messages, runs, sessions
from session.adapters.user_rows import UserRows, within
from session.core.model import (
    EVERY_RUN,
    NO_SUMMARY,
    AcquiredRun,
    AppendedEvents,
    BegunRun,
    Lease,
    Message,
    NewEvent,
    NewInput,
    NewRun,
    NewSession,
    Owner,
    RenewedLeases,
    Run,
    RunFilter,
    RunInput,
    RunState,
    Session,
    Summary,
)
from session.core.pages import PAGE_BYTES, REPLY_BYTES, Page, oldest_within
from session.core.quotas import Quota
from session.core.user_data import ANY_TIME, SessionTimes

T = TypeVar("T")

_MESSAGES_AFTER = (
    sa.select(*MESSAGE)
    .where(
        messages.c.session_id == sa.bindparam("b_id"),
        owned(messages),
        messages.c.sequence > sa.bindparam("b_after"),
    )
    .order_by(messages.c.sequence)
    .limit(sa.bindparam("b_limit"))
)
_RUN_BY_ID = sa.select(*RUN).where(runs.c.id == sa.bindparam("b_run"), owned(runs))


@dataclass(frozen=True, slots=True)
class _Found(Generic[T]):
    """A row of an earlier call with the same request id."""

    value: T
    body_hash: bytes


class SqlSessionStore(EventRows, UserRows, MemoryRows, ScoreRows, QuotaRows, GoldenSetRows):
    """SessionStore on a Database.

    Leases are timed by this process' clock: replicas need clocks that agree
    within a fraction of a lease. A wrong clock costs a needless take-over,
    never a double write: the fencing token decides about those.
    """

    def __init__(
        self,
        *,
        database: Database,
        clock: Clock,
        new_id: Callable[[], str],
        news: RunNews | None = None,
        default_quota: Quota | None = None,
    ) -> None:
        self._default_quota = default_quota
        self._news = RunNews() if news is None else news
        self._database = database
        self._clock = clock
        self._new_id = new_id

    # Sessions

    async def create_session(self, owner: Owner, new: NewSession) -> Session:
        """See SessionStore."""
        now_us = to_us(self._clock.now())
        row = session_row(owner, self._new_id(), new.team, new.display_name, now_us)
        row |= rows.kept(now_us, new.retention)
        row |= {"request_id": new.request_id, "body_hash": new.body_hash}

        def insert(connection: Connection) -> None:
            connection.execute(sa.insert(sessions), row)

        try:
            await self._database.write(insert, owner)
        except Duplicate as error:
            found = await self._session_of_request(owner, new.request_id)
            if found is None:
                raise
            if found.body_hash != new.body_hash:
                raise rows.request_id_reused(new.request_id) from error
            return found.value
        return rows.session_from([row[column.name] for column in SESSION])

    async def get_session(self, owner: Owner, session: str) -> Session:
        """See SessionStore."""
        query = sa.select(*SESSION).where(sessions.c.id == sa.bindparam("b_id"), owned(sessions))
        row = await self._one(query, owner, b_id=session)
        if row is None:
            raise rows.session_not_found(session)
        return rows.session_from(row)

    async def list_sessions(
        self,
        owner: Owner,
        *,
        team: str,
        before: tuple[datetime, str] | None,
        limit: int,
        times: SessionTimes = ANY_TIME,
    ) -> tuple[Session, ...]:
        """See SessionStore."""
        query = sa.select(*SESSION).where(owned(sessions), *within(times))
        if team:
            query = query.where(sessions.c.team == team)
        query = _newest_first(query, sessions.c.update_time_us, sessions.c.id, before, limit)
        return tuple(map(rows.session_from, await self._all(query, owner)))

    async def update_session(self, owner: Owner, session: str, *, display_name: str) -> Session:
        """See SessionStore."""
        update = (
            sa.update(sessions)
            .where(sessions.c.id == sa.bindparam("b_id"), owned(sessions))
            .values(display_name=sa.bindparam("b_name"))
            .returning(*SESSION)
        )
        values = owner_values(owner) | {"b_id": session, "b_name": display_name}
        row = await self._database.write(lambda c: c.execute(update, values).one_or_none(), owner)
        if row is None:
            raise rows.session_not_found(session)
        return rows.session_from(row)

    async def delete_session(self, owner: Owner, session: str) -> None:
        """See SessionStore."""
        values = owner_values(owner) | {"b_id": session}
        # The lock keeps a run from beginning between the look and the deletion.
        lock = (
            sa.select(sessions.c.id)
            .where(sessions.c.id == sa.bindparam("b_id"), owned(sessions))
            .with_for_update()
        )
        delete = sa.delete(sessions).where(sessions.c.id == sa.bindparam("b_id"), owned(sessions))

        def work(connection: Connection) -> None:
            if connection.execute(lock, values).one_or_none() is None:
                raise rows.session_not_found(session)
            busy = connection.execute(UNFINISHED, values).first()
            if busy is not None:
                raise rows.session_busy(session, busy[0])
            connection.execute(delete, values)

        await self._database.write(work, owner)

    async def list_messages(
        self, owner: Owner, session: str, *, after_sequence: int, limit: int
    ) -> Page[Message]:
        """See SessionStore."""
        values = owner_values(owner) | {"b_id": session, "b_after": after_sequence, "b_limit": limit + 1}

        def look(connection: Connection) -> Page[Message]:
            found = connection.execute(_MESSAGES_AFTER, values).all()
            fit = oldest_within(found[:limit], PAGE_BYTES, blobs.message_bytes)
            items = blobs.messages_from(connection, owner, session, fit)
            return Page(items=tuple(items), more=len(found) > len(fit))

        page = await self._whole(look, owner)
        if not page.items:
            await self.get_session(owner, session)
        return page

    # Runs

    async def begin_run(self, owner: Owner, new: NewRun) -> BegunRun:
        """See SessionStore."""
        TENANTS.of(owner.tenant)  # its refusals are counted from 0
        transaction = BeginRun(
            owner=owner,
            new=new,
            run=self._new_id(),
            new_session="" if new.session else self._new_id(),
            now=self._clock.now(),
            default_quota=None if self._default_quota is None else self._default_quota.most,
        )
        try:
            return await self._database.write(transaction, owner)
        except (Missed, Duplicate, BoundReached, QuotaReached) as error:
            # In this order: a repeated request must get its first answer
            # whatever has become of the session since.
            known = await self._begun_before(transaction, error)
            if known is not None:
                return known
            if isinstance(error, BoundReached):
                raise rows.too_many_runs(new.team, new.max_active_runs) from error
            if isinstance(error, QuotaReached):
                raise await self._quota_exhausted(owner.tenant, error) from error
            if not new.session:
                raise
            await self._check_team(owner, new)
        try:
            return await self._database.write(transaction.unless_free, owner)
        except BoundReached as error:
            raise rows.too_many_runs(new.team, new.max_active_runs) from error
        except QuotaReached as error:
            raise await self._quota_exhausted(owner.tenant, error) from error
        except (Missed, Duplicate) as error:
            # The same request at the same time, the session deleted, or a run
            # begun by code of revision 0001, which looks at nobody's queue.
            known = await self._begun_before(transaction, error)
            if known is not None:
                return known
            await self._check_team(owner, new)
            raise rows.session_busy(new.session, None) from error

    async def append_events(
        self,
        owner: Owner,
        run: str,
        *,
        fencing_token: int,
        events: Sequence[NewEvent],
        park_until: datetime | None = None,
    ) -> AppendedEvents:
        """See SessionStore."""
        transaction = AppendEvents(
            owner=owner,
            run=run,
            fencing_token=fencing_token,
            events=events,
            park_until=park_until,
            now=self._clock.now(),
        )
        try:
            appended = await self._database.write(transaction, owner)
        except Missed:
            appended = await self._database.write(transaction.rest, owner)
        self._news.tell(run)
        if appended.next_run is not None:
            self._news.tell(appended.next_run.run.id)
        return appended

    async def renew_leases(
        self, owner: Owner | None, names: Sequence[str], *, lease: Lease, tenant: str = ""
    ) -> RenewedLeases:
        """See SessionStore."""
        transaction = RenewLeases(owner=owner, tenant=tenant, names=names, lease=lease, now=self._clock.now())
        return await self._database.write(transaction, Bypass.LEASES if owner is None else owner)

    async def acquire_expired_runs(
        self, *, lease: Lease, limit: int, which: RunFilter = EVERY_RUN
    ) -> tuple[AcquiredRun, ...]:
        """See SessionStore."""
        now = self._clock.now()
        expired = AcquireExpired(which=which, lease=lease, limit=limit, now=now)
        taken = await self._with_summaries(await self._database.write(expired, Bypass.LEASES))
        if len(taken) == limit:
            return tuple(taken)
        # Looked for without a lock, and then looked at again under one.
        values = {"b_limit": limit - len(taken)}
        waiting_sessions = IDLE_SESSIONS.where(*those(which))
        idle = await self._database.read(lambda c: c.execute(waiting_sessions, values).all(), Bypass.LEASES)
        for session, tenant, user in idle:
            if sum(map(reply_bytes, taken)) > REPLY_BYTES - PAGE_BYTES:
                break
            owner = Owner(tenant=tenant, user=user)
            waiting = BeginWaiting(owner=owner, session=session, lease=lease, now=now)
            begun = await self._database.write(waiting, owner)
            if begun is not None:
                taken.append(begun)
                self._news.tell(begun.run.id)
        return tuple(taken)

    async def request_cancel(self, owner: Owner, run: str) -> Run:
        """See SessionStore."""
        transaction = RequestCancel(owner=owner, run=run, now=self._clock.now())
        active = await self._database.write(transaction, owner)
        if active is not None:
            return active
        ended = await self._database.write(transaction.unless_active, owner)
        self._news.tell(run)
        return ended

    async def owner_of_run(self, tenant: str, run: str) -> Owner:
        """See SessionStore."""
        query = sa.select(runs.c.owner).where(runs.c.id == run, runs.c.tenant == tenant)
        user = await self._database.read(lambda c: c.execute(query).scalar_one_or_none(), Bypass.LEASES)
        if user is None:
            raise rows.run_not_found(run)
        return Owner(tenant=tenant, user=user)

    async def provide_input(
        self, owner: Owner, run: str, new: NewInput, *, check: Callable[[bytes], None]
    ) -> Run:
        """See SessionStore."""
        transaction = ProvideInput(owner=owner, run=run, new=new, check=check, now=self._clock.now())
        return await self._database.write(transaction, owner)

    async def inputs_of_run(self, owner: Owner, run: str) -> tuple[RunInput, ...]:
        """See SessionStore."""
        return (await self._database.read(lambda c: said(c, [run]), owner)).get(run, ())

    async def get_run(self, owner: Owner, run: str) -> Run:
        """See SessionStore."""
        row = await self._one(_RUN_BY_ID, owner, b_run=run)
        if row is None:
            raise rows.run_not_found(run)
        return rows.run_from(row)

    async def list_runs(
        self,
        owner: Owner,
        *,
        session: str,
        team: str,
        before: tuple[datetime, str] | None,
        limit: int,
        state: RunState | None = None,
    ) -> tuple[Run, ...]:
        """See SessionStore."""
        query = sa.select(*RUN).where(owned(runs))
        if session:
            query = query.where(runs.c.session_id == session)
        if team:
            query = query.where(runs.c.team == team)
        if state is not None:
            query = query.where(rows.in_state(runs, state))
        query = _newest_first(query, runs.c.create_time_us, runs.c.id, before, limit)
        return tuple(map(rows.run_from, await self._all(query, owner)))

    async def _one(self, query: sa.Select[Any], owner: Owner, **values: object) -> rows.Row | None:
        return await self._database.read(
            lambda c: c.execute(query, owner_values(owner) | values).one_or_none(), owner
        )

    async def _all(self, query: sa.Select[Any], owner: Owner, **values: object) -> Sequence[rows.Row]:
        return await self._database.read(
            lambda c: c.execute(query, owner_values(owner) | values).all(), owner
        )

    async def _session_of_request(self, owner: Owner, request_id: str) -> _Found[Session] | None:
        query = sa.select(*SESSION, sessions.c.body_hash).where(
            owned(sessions), sessions.c.request_id == request_id
        )
        row = await self._one(query, owner)
        return None if row is None else _Found(rows.session_from(row), row[-1])

    async def _begun_before(self, transaction: BeginRun, error: Exception) -> BegunRun | None:
        """The run of an earlier call with the same request id."""
        owner, new = transaction.owner, transaction.new
        query = sa.select(*RUN, runs.c.body_hash).where(owned(runs), runs.c.request_id == new.request_id)
        row = await self._one(query, owner)
        if row is None:
            return None
        if row[-1] != new.body_hash:
            raise rows.request_id_reused(new.request_id) from error
        run = rows.run_from(row)
        again = await self._database.write(replace(transaction, run=run.id).again, owner)
        return again or BegunRun(run=run, created=False, fencing_token=0, history=())

    async def _with_summaries(self, taken: Sequence[AcquiredRun]) -> list[AcquiredRun]:
        """The bypass for leases does not see sessions, so this reads as each owner."""
        found: dict[str, Summary] = {}
        for owner in {_owner_of(one.run) for one in taken}:
            ids = [one.run.session for one in taken if owner == _owner_of(one.run)]
            found |= await self._database.read(partial(summaries, owner=owner, names=ids), owner)
        return [replace(one, summary=found.get(one.run.session, NO_SUMMARY)) for one in taken]

    async def _check_team(self, owner: Owner, new: NewRun) -> None:
        session = await self.get_session(owner, new.session)
        if session.team != new.team:
            raise InvalidArgument.field(
                "team", f"sessions/{session.id} is a conversation with teams/{session.team}", new.team
            )


def _owner_of(run: Run) -> Owner:
    return Owner(tenant=run.tenant, user=run.user)


def _newest_first(
    query: sa.Select[Any],
    time_us: sa.ColumnElement[int],
    id_: sa.ColumnElement[str],
    before: tuple[datetime, str] | None,
    limit: int,
) -> sa.Select[Any]:
    if before is not None:
        query = query.where(sa.tuple_(time_us, id_) < sa.tuple_(to_us(before[0]), before[1]))
    return query.order_by(time_us.desc(), id_.desc()).limit(limit)
