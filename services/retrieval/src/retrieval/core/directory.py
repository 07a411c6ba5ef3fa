"""What searches need to know of knowledge bases, kept in memory.

A warm search makes no SQL statement: an entry is used for as long as it is
fresh; once it is stale it is used a last time while one background read
renews it. Changes made by this process take effect at once (`forget`); those
of other replicas within twice the time to live of a knowledge base in use.
"""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from datetime import timedelta

import structlog

from retrieval.core.errors import knowledge_base_not_found
from retrieval.core.model import Snapshot
from retrieval.core.ports import Catalogue
from servicekit.clock import Clock
from servicekit.errors import ServiceError

log = structlog.get_logger()

_MAX_ENTRIES = 10_000
_MAX_STALE = 10  # times the time to live; older entries are not used at all


@dataclass(slots=True)
class _Entry:
    snapshot: Snapshot
    read_at: float
    renewal: asyncio.Task[None] | None = None


class Directory:
    """Snapshots by tenant and knowledge base."""

    def __init__(self, *, catalogue: Catalogue, clock: Clock, time_to_live: timedelta) -> None:
        self._catalogue = catalogue
        self._clock = clock
        self._ttl_s = time_to_live.total_seconds()
        self._entries: OrderedDict[tuple[str, str], _Entry] = OrderedDict()
        self._generation = 0

    async def get(self, tenant: str, knowledge_base: str) -> Snapshot:
        """The knowledge base as it was a moment ago.

        Raises:
            NotFound: It is not there.
        """
        key = tenant, knowledge_base
        entry = self._entries.get(key)
        if entry is not None:
            age_s = self._clock.monotonic() - entry.read_at
            if age_s <= self._ttl_s:
                return entry.snapshot
            if age_s <= self._ttl_s * _MAX_STALE:
                if entry.renewal is None:
                    # The loop keeps only weak references to tasks; the entry keeps this one.
                    entry.renewal = asyncio.get_running_loop().create_task(self._renew(key, entry))
                return entry.snapshot
        return await self._read(key)

    def forget(self, tenant: str, knowledge_base: str) -> None:
        """It changed: the next search reads it anew."""
        self._generation += 1  # a read that began before must not be kept
        self._entries.pop((tenant, knowledge_base), None)

    async def _read(self, key: tuple[str, str]) -> Snapshot:
        generation = self._generation
        snapshot = await self._catalogue.snapshot(*key)
        if snapshot is None:
            self._entries.pop(key, None)
            raise knowledge_base_not_found(key[1])
        if generation == self._generation:
            self._entries[key] = _Entry(snapshot, self._clock.monotonic())
            self._entries.move_to_end(key)
            if len(self._entries) > _MAX_ENTRIES:
                self._entries.popitem(last=False)
        return snapshot

    async def _renew(self, key: tuple[str, str], entry: _Entry) -> None:
        try:
            await self._read(key)
        except ServiceError as error:
            # The next search tries again; when the entry gets too old, it is that search's error.
            log.warning("snapshot_not_renewed", knowledge_base=key[1], reason=error.reason)
        finally:
            entry.renewal = None
