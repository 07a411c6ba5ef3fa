"""Bounds of indexing."""

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestLimits:
    """Bounds of the worker.

    Attributes:
        parallel: Documents at the same time.
        batch: Chunks in one call of the embedding service, and in one write to the store.
        batch_tokens: Tokens in one such call, about.
        lease: How long a killed worker's documents wait.
        patience: How long outages of others may last before a document fails of them.
        back_pressure: How long a document is held while the embedding service has no room.
        poll: How often the queue is read when nothing wakes the worker.
        sweep: How often what was left half done is looked for.
    """

    parallel: int = 2
    batch: int = 32
    batch_tokens: int = 4096
    lease: timedelta = timedelta(seconds=60)
    patience: timedelta = timedelta(minutes=10)
    back_pressure: timedelta = timedelta(seconds=30)
    poll: timedelta = timedelta(seconds=2)
    sweep: timedelta = timedelta(seconds=30)
