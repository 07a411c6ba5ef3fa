"""Keeps some vectors of the queries that are asked. Costs a search a few microseconds."""

import asyncio
import random
from datetime import timedelta

import structlog

from retrieval.core.model import KnowledgeBase, Vectors
from retrieval.core.tuning.ports import QuerySample, QuerySamples
from servicekit.clock import Clock
from servicekit.errors import ServiceError

log = structlog.get_logger()

_EACH = 16  # of a knowledge base, between two writes
_KNOWLEDGE_BASES = 1_000  # between two writes; the others have to wait


class QuerySampler:
    """A small reservoir in memory for each knowledge base, emptied into the catalogue now and then."""

    def __init__(
        self,
        *,
        samples: QuerySamples,
        clock: Clock,
        rng: random.Random,
        period: timedelta = timedelta(seconds=10),
        enabled: bool = True,
    ) -> None:
        self._samples = samples
        self._clock = clock
        self._rng = rng
        self._period_s = period.total_seconds()
        self._enabled = enabled
        self._kept: dict[tuple[str, str], list[QuerySample]] = {}
        self._seen: dict[tuple[str, str], int] = {}

    def offer(self, knowledge_base: KnowledgeBase, vector: Vectors) -> None:
        """A query was asked. Every one since the last write has the same chance to be kept."""
        if not self._enabled:
            return
        key = knowledge_base.tenant, knowledge_base.id
        kept = self._kept.get(key)
        if kept is None:
            if len(self._kept) >= _KNOWLEDGE_BASES:
                return
            kept = self._kept[key] = []
        seen = self._seen[key] = self._seen.get(key, 0) + 1
        place = len(kept) if len(kept) < _EACH else self._rng.randrange(seen)
        if place >= _EACH:
            return
        sample = QuerySample(
            tenant=knowledge_base.tenant,
            knowledge_base=knowledge_base.id,
            model_fingerprint=knowledge_base.model_fingerprint,
            vector=vector.copy(),  # the caller's may be a view of a whole message
        )
        if place == len(kept):
            kept.append(sample)
        else:
            kept[place] = sample

    async def run(self) -> None:
        """Writes until it is cancelled."""
        while True:
            await asyncio.sleep(self._period_s)
            await self.flush()

    async def flush(self) -> None:
        """Writes what there is. What cannot be written is given up: others will come."""
        if not self._kept:
            return
        kept, self._kept, self._seen = self._kept, {}, {}
        try:
            await self._samples.add(
                [sample for of_one in kept.values() for sample in of_one], now=self._clock.now()
            )
        except ServiceError as error:
            log.warning("query_samples_not_written", reason=error.reason)
