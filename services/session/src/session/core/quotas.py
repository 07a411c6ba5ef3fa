"""How many runs a tenant may have at a time."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """A limit on the RUNNING runs of a tenant.

    Attributes:
        most: 0 lets none begin.
        source: Where it is set, in words; empty: nobody said.
    """

    most: int
    source: str = ""


class QuotaStore(Protocol):
    """What `begin_run` holds to."""

    async def set_run_quota(self, tenant: str, quota: Quota | None) -> None:
        """In place of the one before; None: the service's default holds. Raises Unavailable."""
        ...
