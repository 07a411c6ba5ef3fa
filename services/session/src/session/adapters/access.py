"""The second lock: what Postgres lets a transaction see, whatever its statements say.

Every transaction names whose rows it is about. The policies of migration 0003
compare each row with that (row level security), so a statement that forgets
`rows.owned` finds nothing of others. SQLite has no such lock: there the
statements alone decide.
"""

from enum import StrEnum
from typing import Any

import asyncpg
import sqlalchemy as sa

from session.core.model import Owner


class Bypass(StrEnum):
    """What the service does for nobody in particular; the policies list the tables of each."""

    LEASES = "leases"  # an orchestrator renews its leases and takes over runs of every tenant
    RETENTION = "retention"  # the sweeper deletes expired sessions of every tenant
    QUOTAS = "quotas"  # the operator says how many runs a tenant may have
    SCORING = "scoring"  # an evaluation service claims runs of every tenant; scores are summed up


# Nobody: no row of anybody, which is enough to look at the schema.
Access = Owner | Bypass | None


class AnnouncingConnection(asyncpg.Connection):  # type: ignore[misc, unused-ignore]
    """Begins transactions with an announcement, in one message: a round trip less for each."""

    announcement = ""

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:
        """See asyncpg.Connection."""
        if query.startswith("BEGIN"):
            query += self.announcement
        return str(await super().execute(query, *args, timeout=timeout))


def announce(connection: sa.Connection, access: Access) -> None:
    """Tells Postgres whose rows the transaction is about, which begins with its first statement."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, AnnouncingConnection)
    driver.announcement = announcement(access)


def announcement(access: Access) -> str:
    """The statement that says so."""
    tenant, owner, bypass = "", "", ""
    match access:
        case Owner():
            tenant, owner = access.tenant, access.user
        case Bypass():
            bypass = access.value
        case None:
            return ""
    # True: until the transaction ends. A pooled connection keeps nothing, also
    # behind a proxy that deals out connections by the transaction.
    return (
        f"SELECT set_config('agentteams.tenant', {_literal(tenant)}, true),"
        f" set_config('agentteams.owner', {_literal(owner)}, true),"
        f" set_config('agentteams.bypass', {_literal(bypass)}, true)"
    )


def _literal(text: str) -> str:
    """As SQL, with standard_conforming_strings, which database.py sets. A message ends at a NUL."""
    if "\0" in text:
        raise ValueError("a tenant or a user has a NUL character")
    return "'" + text.replace("'", "''") + "'"
