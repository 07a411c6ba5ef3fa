"""The second lock: what Postgres lets a transaction see, whatever its statements say.

Every transaction names whose rows it is about. The policies of migration 0003
compare each row with that (row level security), so a statement that forgets
`rows.owned` finds nothing of others. SQLite has no such lock: there the
statements alone decide.
"""

from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from session.core.model import Owner


class Bypass(StrEnum):
    """What the service does for nobody in particular; the policies list the tables of each."""

    LEASES = "leases"  # an orchestrator renews its leases and takes over runs of every tenant
    RETENTION = "retention"  # the sweeper deletes expired sessions of every tenant


# Nobody: no row of anybody, which is enough to look at the schema.
Access = Owner | Bypass | None

# True: until the transaction ends. A pooled connection keeps nothing, also
# behind a proxy that deals out connections by the transaction.
_ANNOUNCE = sa.text(
    "SELECT set_config('agentteams.tenant', :tenant, true), set_config('agentteams.owner', :owner, true),"
    " set_config('agentteams.bypass', :bypass, true)"
)


def announce(connection: sa.Connection, access: Access) -> None:
    """Tells Postgres whose rows the transaction is about."""
    values: dict[str, Any] = {"tenant": "", "owner": "", "bypass": ""}
    match access:
        case Owner():
            values |= {"tenant": access.tenant, "owner": access.user}
        case Bypass():
            values |= {"bypass": access.value}
        case None:
            return
    connection.execute(_ANNOUNCE, values)
