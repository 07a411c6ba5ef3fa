"""What indexing says of itself."""

from dataclasses import dataclass
from datetime import datetime

from retrieval.core.model import DocumentState


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestStatus:
    """How indexing of one knowledge base gets on.

    Attributes:
        oldest_pending: Since when the document that waits longest has waited; None: none waits.
        chunks_per_second: Of documents that got READY in the last minute, by whichever worker.
        documents_per_second: Likewise.
        last_error: The newest failure of a document; empty if none has failed.
        reconcile_time: When catalogue and store were last compared; None: never.
        stray_chunks_removed: By all comparisons so far.
        documents_requeued: Likewise.
    """

    oldest_pending: datetime | None = None
    chunks_per_second: float = 0.0
    documents_per_second: float = 0.0
    last_error: str = ""
    reconcile_time: datetime | None = None
    stray_chunks_removed: int = 0
    documents_requeued: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciled:
    """What a comparison has mended."""

    stray_chunks_removed: int = 0
    documents_requeued: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogued:
    """What the catalogue says should be in the store of one document.

    Attributes:
        hidden: Being deleted, or moved away.
    """

    id: str
    state: DocumentState
    version: str
    chunk_count: int
    hidden: bool
