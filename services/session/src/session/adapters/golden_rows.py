"""Golden sets of teams in SQL."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from servicekit.clock import Clock
from session.adapters.access import Bypass
from session.adapters.database import Database, Duplicate
from session.adapters.rows import duration_us, from_us, to_us
from session.adapters.tables import team_evaluations, team_golden_sets
from session.core.golden_sets import GoldenSet, NewFailure, NewGoldenSet, NewResult
from session.core.model import Owner

_ROW = [column for column in team_golden_sets.c if column.name != "payload"]
_NO_CLAIM: dict[str, Any] = {"lease_token": "", "lease_expire_time_us": 0, "done": 0}
_NO_FAILURE = {"failures": 0, "failure_time_us": None, "retry_time_us": None, "failure": ""}


class GoldenSetRows:
    """Mixed into the session store. See GoldenSetStore."""

    _database: Database
    _clock: Clock

    async def set_golden_set(self, tenant: str, new: NewGoldenSet) -> GoldenSet:
        """See GoldenSetStore."""
        put = _Set(tenant=tenant, new=new, now_us=to_us(self._clock.now()))
        try:
            return await self._database.write(put, _nobody(tenant))
        except Duplicate:  # another process was quicker by a moment
            return await self._database.write(put, _nobody(tenant))

    async def drop_golden_set(self, tenant: str, team: str) -> None:
        """See GoldenSetStore."""
        statement = sa.delete(team_golden_sets).where(_is(tenant, team))

        def delete(connection: Connection) -> None:
            connection.execute(statement)

        await self._database.write(delete, _nobody(tenant))

    async def golden_set(self, tenant: str, team: str) -> GoldenSet | None:
        """See GoldenSetStore."""
        return await self._database.read(lambda c: _find(c, tenant, team), _nobody(tenant))

    async def golden_sets(self, tenant: str, *, after: tuple[str, str], limit: int) -> tuple[GoldenSet, ...]:
        """See GoldenSetStore."""
        key = sa.tuple_(team_golden_sets.c.tenant, team_golden_sets.c.team)
        query = sa.select(*_ROW).where(key > sa.tuple_(*after)).order_by(*key.clauses).limit(limit)
        if tenant:
            query = query.where(team_golden_sets.c.tenant == tenant)
        found = await self._database.read(lambda c: c.execute(query).all(), Bypass.SCORING)
        return tuple(map(_golden_set, found))

    async def claim_golden_set(
        self, tenant: str, team: str, *, sha256: str, turn: int, token: str, lease: timedelta
    ) -> bytes | None:
        """Compares and swaps the turn: what another process has begun or ended since is not begun again."""
        now_us = to_us(self._clock.now())
        claim = (
            sa.update(team_golden_sets)
            .where(
                _is(tenant, team),
                team_golden_sets.c.sha256 == sha256,
                team_golden_sets.c.turn == turn,
                team_golden_sets.c.lease_expire_time_us <= now_us,
            )
            .values(
                turn=turn + 1,
                lease_token=token,
                lease_expire_time_us=now_us + duration_us(lease),
                done=0,
            )
            .returning(team_golden_sets.c.payload)
        )
        found = await self._database.write(lambda c: c.execute(claim).scalar_one_or_none(), _nobody(tenant))
        return None if found is None else bytes(found)

    async def renew_golden_set(
        self, tenant: str, team: str, *, token: str, lease: timedelta, done: int
    ) -> bool:
        """See GoldenSetStore."""
        expires = to_us(self._clock.now()) + duration_us(lease)
        statement = _held(tenant, team, token).values(lease_expire_time_us=expires, done=done)
        return await self._database.write(lambda c: bool(c.execute(statement).rowcount), _nobody(tenant))

    async def end_golden_set(
        self, tenant: str, team: str, *, token: str, end: NewResult | NewFailure
    ) -> GoldenSet | None:
        """See GoldenSetStore."""
        ending = _End(tenant=tenant, team=team, token=token, end=end, now_us=to_us(self._clock.now()))
        return await self._database.write(ending, _nobody(tenant))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Set:
    """A transaction that stores a golden set."""

    tenant: str
    new: NewGoldenSet
    now_us: int

    def __call__(self, connection: Connection) -> GoldenSet:
        new = self.new
        known = _find(connection, self.tenant, new.team)
        values: dict[str, Any] = {"name": new.name}
        if known is None or known.sha256 != new.sha256:
            values |= {
                "sha256": new.sha256,
                "questions": new.questions,
                "payload": new.payload,
                "set_time_us": self.now_us,
                "newest": b"",
                "newest_time_us": None,
                "former": b"",
                "former_time_us": None,
                **_NO_CLAIM,
                **_NO_FAILURE,
            }
        if known is None:
            key = {"tenant": self.tenant, "team": new.team}
            connection.execute(sa.insert(team_golden_sets), {**key, "turn": 0, **values})
        elif known.name != new.name or "sha256" in values:
            statement = sa.update(team_golden_sets).where(_is(self.tenant, new.team))
            connection.execute(statement.values(**values))
        stored = _find(connection, self.tenant, new.team)
        assert stored is not None
        return stored


@dataclass(frozen=True, slots=True, kw_only=True)
class _End:
    """A transaction that ends an evaluation."""

    tenant: str
    team: str
    token: str
    end: NewResult | NewFailure
    now_us: int

    def __call__(self, connection: Connection) -> GoldenSet | None:
        # Who saw it while it was under way must not begin it again.
        end, values = self.end, _NO_CLAIM | {"turn": team_golden_sets.c.turn + 1}
        if isinstance(end, NewFailure):
            values |= {
                "failures": end.failures,
                "failure_time_us": self.now_us,
                "retry_time_us": to_us(end.retry_time),
                "failure": end.message,
            }
        else:
            values |= {"newest": end.newest, "newest_time_us": self.now_us, **_NO_FAILURE}
            if end.is_other:
                values |= {
                    "former": team_golden_sets.c.newest,
                    "former_time_us": team_golden_sets.c.newest_time_us,
                }
        held = _held(self.tenant, self.team, self.token).values(**values)
        if not connection.execute(held).rowcount:
            return None
        if isinstance(end, NewResult):
            row = {
                "id": end.id,
                "tenant": self.tenant,
                "owner": "",
                "team": self.team,
                "create_time_us": self.now_us,
                "payload": end.payload,
            }
            connection.execute(sa.insert(team_evaluations), row)
        return _find(connection, self.tenant, self.team)


def _nobody(tenant: str) -> Owner:
    """No user's, but the tenant's."""
    return Owner(tenant=tenant, user="")


def _is(tenant: str, team: str) -> sa.ColumnElement[bool]:
    return sa.and_(team_golden_sets.c.tenant == tenant, team_golden_sets.c.team == team)


def _held(tenant: str, team: str, token: str) -> sa.Update:
    return sa.update(team_golden_sets).where(_is(tenant, team), team_golden_sets.c.lease_token == token)


def _find(connection: Connection, tenant: str, team: str) -> GoldenSet | None:
    row = connection.execute(sa.select(*_ROW).where(_is(tenant, team))).one_or_none()
    return None if row is None else _golden_set(row)


def _golden_set(row: Any) -> GoldenSet:
    return GoldenSet(
        tenant=row.tenant,
        team=row.team,
        name=row.name,
        sha256=row.sha256,
        questions=row.questions,
        set_time=from_us(row.set_time_us),
        turn=row.turn,
        lease_expire_time=from_us(row.lease_expire_time_us) if row.lease_token else None,
        done=row.done,
        failures=row.failures,
        failure_time=_time(row.failure_time_us),
        retry_time=_time(row.retry_time_us),
        failure=row.failure,
        newest=bytes(row.newest),
        newest_time=_time(row.newest_time_us),
        former=bytes(row.former),
        former_time=_time(row.former_time_us),
    )


def _time(us: int | None) -> datetime | None:
    return None if us is None else from_us(us)
