"""Quotas of tenants in SQL: the part of the store that begin_run holds to."""

from typing import Any

import sqlalchemy as sa
from prometheus_client import Counter
from sqlalchemy.engine import Connection

from servicekit.counters import from_zero
from servicekit.errors import ResourceExhausted
from servicekit.labels import BoundedLabels
from session.adapters import rows
from session.adapters.access import Bypass
from session.adapters.database import Database, QuotaReached
from session.adapters.rows import RUNNING
from session.adapters.tables import run_quotas, runs
from session.core.quotas import Quota

REFUSED = Counter(
    "agentteams_session_quota_refusals_total",
    "Runs that did not begin, since the tenant had as many as its quota allows",
    ["tenant"],
)
_MOST_TENANTS = 500
TENANTS = BoundedLabels(_MOST_TENANTS, new=lambda tenant: from_zero(REFUSED, tenant=[tenant]))

_OF_TENANT = run_quotas.c.tenant == sa.bindparam("b_tenant")
_QUOTA = sa.select(run_quotas.c.max_concurrent_runs, run_quotas.c.source).where(_OF_TENANT)
# Read in the transaction that begins the run: a change holds for all that begin after it.
LIMIT = sa.func.coalesce(
    sa.select(run_quotas.c.max_concurrent_runs).where(_OF_TENANT).scalar_subquery(),
    sa.bindparam("b_default_quota", type_=sa.Integer),
)
_RUNNING = sa.select(sa.func.count()).where(runs.c.tenant == sa.bindparam("b_tenant"), RUNNING)
_REACHED = sa.select(runs.c.max_tenant_runs, _RUNNING.scalar_subquery()).where(
    runs.c.id == sa.bindparam("b_run"), runs.c.max_tenant_runs < _RUNNING.scalar_subquery()
)


def check_quota(connection: Connection, tenant: str, run: str) -> None:
    """On SQLite, where nobody else writes now. On Postgres a trigger does it at the commit.

    Raises:
        QuotaReached: The run that was inserted is one too many.
    """
    if connection.dialect.name != "sqlite":
        return
    row = connection.execute(_REACHED, {"b_tenant": tenant, "b_run": run}).one_or_none()
    if row is not None:
        raise QuotaReached(active=row[1] - 1, most=row[0])


class QuotaRows:
    """See QuotaStore."""

    _database: Database
    _default_quota: Quota | None

    async def set_run_quota(self, tenant: str, quota: Quota | None) -> None:
        """See QuotaStore."""

        def replace(connection: Connection) -> None:
            connection.execute(sa.delete(run_quotas).where(run_quotas.c.tenant == tenant))
            if quota is not None:
                row = {"tenant": tenant, "max_concurrent_runs": quota.most, "source": quota.source}
                connection.execute(sa.insert(run_quotas), row)

        if await self._quota_of(tenant) != quota:
            await self._database.write(replace, Bypass.QUOTAS)

    async def _quota_of(self, tenant: str) -> Quota | None:
        """As somebody has said it."""
        values = {"b_tenant": tenant}
        row: Any = await self._database.read(lambda c: c.execute(_QUOTA, values).one_or_none(), Bypass.QUOTAS)
        return None if row is None else Quota(most=row[0], source=row[1])

    async def _quota_exhausted(self, tenant: str, reached: QuotaReached) -> ResourceExhausted:
        """The refusal, with where the limit is set. Counts it."""
        REFUSED.labels(TENANTS.of(tenant)).inc()
        quota = await self._quota_of(tenant) or self._default_quota
        source = quota.source if quota is not None and quota.most == reached.most else ""
        return rows.quota_exhausted(tenant, active=reached.active, most=reached.most, source=source)
