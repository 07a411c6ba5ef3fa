"""What indexing needs of the catalogue."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Protocol

from retrieval.core.ingest_model import Catalogued, IngestStatus, Reconciled
from retrieval.core.model import Claim, Counts, Document, DocumentError


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
        """Over all knowledge bases. READY documents and chunks, which may be many, are not counted."""
        ...

    async def oldest_pending(self) -> datetime | None:
        """Since when the document that waits longest has waited, over all knowledge bases."""
        ...


class Upkeep(Protocol):
    """What keeps queue and store right. Every method is one transaction."""

    async def retry_documents(
        self, tenant: str, knowledge_base: str, ids: Sequence[str], *, now: datetime
    ) -> int:
        """Failed documents wait again, all of them if no ids are given; returns how many."""
        ...

    async def move_document(
        self, tenant: str, knowledge_base: str, document: str, *, to: str, path: str, now: datetime
    ) -> Document:
        """The document `to` waits in its place; `moved_from` says whose chunks can be copied.

        Raises:
            NotFound: The knowledge base or the document is not there.
            AlreadyExists: There is a document `to`.
        """
        ...

    async def catalogued(
        self, tenant: str, knowledge_base: str, *, after: str, limit: int
    ) -> list[Catalogued]:
        """What should be in the store, by id, those behind `after`."""
        ...

    async def hold(
        self, tenant: str, knowledge_base: str, document: Catalogued, *, now: datetime
    ) -> str | None:
        """Nobody else may write its chunks until `let_go` or for a minute.

        Returns:
            A token; None if it is not as given any more, or in other hands.
        """
        ...

    async def let_go(
        self,
        tenant: str,
        knowledge_base: str,
        document: str,
        token: str,
        *,
        chunk_count: int,
        requeue: bool,
        now: datetime,
    ) -> bool:
        """Says what is there now, and perhaps that it must be indexed again; False if the hold was lost."""
        ...

    async def bury(
        self, tenant: str, knowledge_base: str, document: str, *, path: str, now: datetime
    ) -> bool:
        """A hidden row, held for its deletion, for chunks that belong to no document.

        False if it is one's.
        """
        ...

    async def reconcile_next(self, *, lease: timedelta, now: datetime) -> tuple[str, str] | None:
        """Tenant and knowledge base of a comparison that is due."""
        ...

    async def reconciled(
        self, tenant: str, knowledge_base: str, outcome: Reconciled, *, due: datetime, now: datetime
    ) -> None:
        """It was compared; the next comparison is due then."""
        ...

    async def reconcile_by(self, due: datetime, *, unless_since: datetime | None = None) -> None:
        """All comparisons are due then at the latest, but those made since `unless_since`."""
        ...

    async def ingest_statuses(
        self, tenant: str, knowledge_bases: Sequence[str], *, now: datetime
    ) -> dict[str, IngestStatus]:
        """By knowledge base."""
        ...
