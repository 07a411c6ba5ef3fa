"""Leases: renewed, given back, and taken over when they have expired."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from session.adapters import rows
from session.adapters.inputs import WAKE_EXPIRED, said
from session.adapters.records import ACQUIRED, acquired
from session.adapters.rows import GIVEN_BACK, RUN, RUNNING, duration_us, owned, owner_values, to_us
from session.adapters.tables import runs
from session.core.model import AcquiredRun, Lease, Owner, RenewedLeases, RunFilter, back_off
from session.core.pages import REPLY_BYTES, sizes_bytes

_STEPS = 7  # after so many lost attempts the back-off grows no more
_BACK_OFF_US = sa.case(
    *((runs.c.lost_attempts == lost, duration_us(back_off(lost))) for lost in range(_STEPS)),
    else_=duration_us(back_off(_STEPS)),
)
_LEASED = sa.and_(
    runs.c.id.in_(sa.bindparam("b_runs", expanding=True)),
    RUNNING,
    runs.c.lease_owner == sa.bindparam("b_lease_owner"),
)
_RENEW = (
    sa.update(runs)
    .where(_LEASED)
    .values(
        lease_expire_time_us=sa.bindparam("b_expires"),
        lease_duration_us=sa.bindparam("b_duration"),
    )
    .returning(runs.c.id, runs.c.cancel_requested)
)
# A token of its own: the old owner's late append must not renew what it gave back.
_GIVE_BACK = (
    sa.update(runs)
    .where(_LEASED)
    .values(
        lease_owner="",
        lease_address="",
        lease_expire_time_us=GIVEN_BACK,
        fencing_token=runs.c.fencing_token + 1,
    )
    .returning(runs.c.id, runs.c.cancel_requested)
)
# SKIP LOCKED, so that two orchestrators share the work instead of waiting for one another.
_EXPIRED = (
    sa.select(*ACQUIRED, runs.c.lease_expire_time_us, runs.c.lease_duration_us)
    .where(RUNNING, runs.c.lease_expire_time_us < sa.bindparam("b_now", type_=sa.BigInteger) - _BACK_OFF_US)
    .order_by(runs.c.lease_expire_time_us)
    .limit(sa.bindparam("b_limit"))
    .with_for_update(skip_locked=True)
)
_TAKE_OVER = (
    sa.update(runs)
    .where(runs.c.id.in_(sa.bindparam("b_runs", expanding=True)), RUNNING)
    .values(
        fencing_token=runs.c.fencing_token + 1,
        attempt=runs.c.attempt + 1,
        lost_attempts=runs.c.lost_attempts + sa.case((runs.c.lease_expire_time_us == GIVEN_BACK, 0), else_=1),
        lease_owner=sa.bindparam("b_lease_owner"),
        lease_address=sa.bindparam("b_lease_address"),
        lease_duration_us=sa.bindparam("b_duration"),
        lease_expire_time_us=sa.bindparam("b_expires"),
    )
    .returning(*RUN, runs.c.fencing_token)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewLeases:
    """A transaction that renews leases, or gives them back when the lease has no duration.

    Attributes:
        owner: Whose runs; None: everybody's.
        tenant: Only this one's, without an owner; empty: every tenant's.
    """

    owner: Owner | None
    tenant: str
    names: Sequence[str]
    lease: Lease
    now: datetime

    def __call__(self, connection: Connection) -> RenewedLeases:
        """Does it for all that are the lease's owner's."""
        values: dict[str, Any] = {"b_runs": sorted(set(self.names)), "b_lease_owner": self.lease.owner}
        if self.lease.duration:
            update = _RENEW
            duration = duration_us(self.lease.duration)
            values |= {"b_duration": duration, "b_expires": to_us(self.now) + duration}
        else:
            update = _GIVE_BACK
        if self.owner is not None:
            update = update.where(owned(runs))
            values |= owner_values(self.owner)
        elif self.tenant:
            update = update.where(runs.c.tenant == self.tenant)
        kept = connection.execute(update, values).all()
        return RenewedLeases(
            lost=frozenset(self.names).difference(row[0] for row in kept),
            cancelled=frozenset(row[0] for row in kept if row[1]),
            said=said(connection, [row[0] for row in kept]) if self.lease.duration else {},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AcquireExpired:
    """A transaction that takes over runs whose leases have expired for as long as they must."""

    which: RunFilter
    lease: Lease
    limit: int
    now: datetime

    def __call__(self, connection: Connection) -> tuple[AcquiredRun, ...]:
        """As many as fit into one response, and one at least if there is one."""
        now_us, duration = to_us(self.now), duration_us(self.lease.duration)
        connection.execute(WAKE_EXPIRED, {"b_now": now_us, "b_limit": self.limit})
        found: dict[str, AcquiredRun] = {}
        left = REPLY_BYTES
        expired = connection.execute(
            _EXPIRED.where(*those(self.which)), {"b_now": now_us, "b_limit": self.limit}
        ).all()
        said_to = said(connection, [row[0] for row in expired])
        for row in expired:
            expired_us, duration_before_us = row[-2:]
            seen = None if expired_us == GIVEN_BACK else rows.from_us(expired_us - duration_before_us)
            one = acquired(connection, row[:-2])
            one = replace(one, said=said_to.get(one.run.id, ()), owner_seen=seen)
            left -= reply_bytes(one)
            if found and left < 0:
                break
            found[one.run.id] = one
        if not found:
            return ()
        values = {
            "b_runs": sorted(found),
            "b_lease_owner": self.lease.owner,
            "b_lease_address": self.lease.address,
            "b_duration": duration,
            "b_expires": now_us + duration,
        }
        taken = {row[0]: row for row in connection.execute(_TAKE_OVER, values)}
        return tuple(
            replace(one, run=rows.run_from(taken[run]), fencing_token=taken[run][-1])
            for run, one in found.items()
        )


def those(which: RunFilter) -> list[sa.ColumnElement[bool]]:
    """The filter as conditions."""
    conditions: list[sa.ColumnElement[bool]] = []
    if which.tenant:
        conditions.append(runs.c.tenant == which.tenant)
    if which.teams:
        conditions.append(runs.c.team.in_(sorted(which.teams)))
    if which.except_teams:
        conditions.append(runs.c.team.not_in(sorted(which.except_teams)))
    return conditions


def reply_bytes(run: AcquiredRun) -> int:
    """How much of a response it takes, but for its summary: those fit beside REPLY_BYTES."""
    said_bytes = sum(len(one.body) + 256 for one in run.said)
    return sizes_bytes(run.history) + sizes_bytes(run.input) + said_bytes + len(run.answer_schema)
