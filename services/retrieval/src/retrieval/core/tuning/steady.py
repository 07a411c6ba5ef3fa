"""Waiting until a collection is searched as it will be searched from then on.

A segment that is new is searched without its index, or with a makeshift one,
until query nodes have loaded the real one; and compaction puts small segments
together and builds the index of the sum anew. The same parameters find up to
12 points more or less meanwhile (docs/tuning.md), so what is measured then is
not what searches get.
"""

import asyncio
from datetime import timedelta

from retrieval.core.model import Place, Segments
from retrieval.core.ports import VectorStore
from servicekit.clock import Clock

_POLL_S = 1.0


async def until_steady(
    store: VectorStore, place: Place, *, clock: Clock, within: timedelta
) -> Segments | None:
    """The segments, once all are searched through their index, or as they are when the time is over.

    None: the store does not say. Rows that are not sealed yet are not waited for: flush first.
    """
    ends = clock.monotonic() + within.total_seconds()
    while True:
        segments = await store.segments(place)
        if segments is None or segments.settled or clock.monotonic() >= ends:
            return segments
        await asyncio.sleep(_POLL_S)
