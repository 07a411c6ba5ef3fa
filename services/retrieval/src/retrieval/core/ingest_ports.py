"""What indexing needs of the catalogue."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Protocol

from retrieval.core.model import Claim, Counts, DocumentError


class IngestQueue(Protocol):
    """Documents to index. Every method is one transaction; any number of workers may call."""

    async def claim(self, *, lease: timedelta, now: datetime) -> Claim | None:
        """The next document to index: one that waits and is due, or whose worker's lease ended.

        Tenants come in turn, then their knowledge bases, then the document that waits longest.
        """
        ...

    async def renew(self, claim: Claim, *, lease: timedelta, now: datetime) -> bool:
        """Keeps the claim; False if it is lost."""
        ...

    async def finish(
        self, claim: Claim, *, collection: str, chunk_count: int, warnings: Sequence[str], now: datetime
    ) -> bool:
        """READY, and the knowledge base's revision grows; False if the claim is lost."""
        ...

    async def fail(self, claim: Claim, error: DocumentError, *, chunks_removed: bool, now: datetime) -> bool:
        """FAILED; False if the claim is lost."""
        ...

    async def postpone(self, claim: Claim, *, until: datetime, now: datetime) -> bool:
        """PENDING again after a failure, not to be claimed before `until`; False if the claim is lost."""
        ...

    async def release(self, claim: Claim, *, until: datetime, now: datetime) -> bool:
        """PENDING again, as if it had not been claimed; False if the claim is lost."""
        ...

    async def abandon(self, claim: Claim) -> None:
        """The worker of a lost claim has stopped writing: the document need not wait for its lease."""
        ...

    async def queue_depth(self) -> Counts:
        """Documents by state over all knowledge bases (chunks are not counted)."""
        ...

    async def oldest_pending(self) -> datetime | None:
        """Since when the document that waits longest has waited, over all knowledge bases."""
        ...
