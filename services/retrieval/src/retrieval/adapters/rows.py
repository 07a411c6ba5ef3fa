"""Rows of the catalogue to the domain and back."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Row

from retrieval.adapters.spec_rows import parts_of_spec, spec_to_text, strategy_of
from retrieval.core.model import (
    Chunking,
    Counts,
    Document,
    DocumentError,
    DocumentState,
    KnowledgeBase,
    KnowledgeBaseSpec,
    Scalar,
    SearchMode,
)


def ms(moment: datetime) -> int:
    """Milliseconds since 1970."""
    return round(moment.timestamp() * 1000)


def moment(value_ms: int) -> datetime:
    """The other way."""
    return datetime.fromtimestamp(value_ms / 1000, UTC)


def knowledge_base_values(knowledge_base: KnowledgeBase) -> dict[str, Any]:
    """A new row."""
    spec = knowledge_base.spec
    return {
        "tenant": knowledge_base.tenant,
        "id": knowledge_base.id,
        "embedding_model": spec.embedding_model,
        "max_tokens": spec.chunking.max_tokens,
        "overlap_tokens": spec.chunking.overlap_tokens,
        "search_mode": spec.search_mode,
        "dimension": knowledge_base.dimension,
        "model_fingerprint": knowledge_base.model_fingerprint,
        "revision": knowledge_base.revision,
        "alias": knowledge_base.alias,
        "collection": knowledge_base.collection,
        "create_time_ms": ms(knowledge_base.create_time),
        "generation": knowledge_base.generation,
        "spec": spec_to_text(spec),
    }


def knowledge_base_from_row(row: Row[Any]) -> KnowledgeBase:
    """A row as it stands."""
    return KnowledgeBase(
        tenant=row.tenant,
        id=row.id,
        spec=KnowledgeBaseSpec(
            embedding_model=row.embedding_model,
            chunking=Chunking(
                max_tokens=row.max_tokens, overlap_tokens=row.overlap_tokens, strategy=strategy_of(row.spec)
            ),
            search_mode=SearchMode(row.search_mode),
            **parts_of_spec(row.spec),
        ),
        dimension=row.dimension,
        model_fingerprint=row.model_fingerprint,
        revision=row.revision,
        alias=row.alias,
        collection=row.collection,
        create_time=moment(row.create_time_ms),
        generation=row.generation,
    )


def document_from_row(row: Row[Any]) -> Document:
    """A row as it stands."""
    error = None
    if row.error_reason is not None:
        error = DocumentError(reason=row.error_reason, message=row.error_message or "")
    return Document(
        tenant=row.tenant,
        knowledge_base=row.knowledge_base,
        id=row.id,
        path=row.path,
        media_type=row.media_type,
        size_bytes=row.size_bytes,
        sha256=row.sha256,
        blob=row.blob,
        state=DocumentState(row.state),
        error=error,
        chunk_count=row.chunk_count,
        warnings=tuple(json.loads(row.warnings)),
        attempts=row.attempts,
        version=row.version or "",
        moved_from=row.moved_from or "",
        metadata=json.loads(row.metadata) if row.metadata else {},
        source=row.source or "",
        source_stamp=row.source_stamp or "",
        create_time=moment(row.create_time_ms),
        update_time=moment(row.update_time_ms),
    )


def metadata_to_text(metadata: Mapping[str, Scalar]) -> str:
    """The same values give the same text."""
    return json.dumps(dict(metadata), sort_keys=True)


def requeued(now: datetime) -> dict[str, Any]:
    """Waits for a worker, as if for the first time."""
    return {
        "state": DocumentState.PENDING,
        "attempts": 0,
        "interruptions": 0,
        "first_failure_ms": None,
        "due_ms": ms(now),
        "queued_ms": ms(now),
        "lease_token": None,
        "update_time_ms": ms(now),
    }


def settled(state: DocumentState, now: datetime) -> dict[str, Any]:
    """In no worker's hands any more."""
    return {"state": state, "lease_token": None, "lease_until_ms": 0, "update_time_ms": ms(now)}


def upload_values(document: Document) -> dict[str, Any]:
    """The whole row of an upload."""
    return requeued(document.update_time) | {
        "tenant": document.tenant,
        "knowledge_base": document.knowledge_base,
        "id": document.id,
        "path": document.path,
        "media_type": document.media_type,
        "size_bytes": document.size_bytes,
        "sha256": document.sha256,
        "blob": document.blob,
        "error_reason": None,
        "error_message": None,
        "chunk_count": 0,
        "warnings": "[]",
        "metadata": metadata_to_text(document.metadata),
        "source": document.source or None,
        "source_stamp": document.source_stamp or None,
        "lease_until_ms": 0,
        "create_time_ms": ms(document.create_time),
        "delete_time_ms": None,
        "moved_from": None,
    }


def same_bytes(current: Document) -> dict[str, Any]:
    """What an upload leaves as it is if only the metadata are others.

    A READY document becomes one that moves to itself: its chunks are copied, not embedded anew.
    """
    ready = current.state == DocumentState.READY
    return {
        "blob": current.blob,
        "warnings": json.dumps(current.warnings),
        "moved_from": current.id if ready else current.moved_from or None,
    }


def counts_of(by_state: dict[int, int], chunks: int) -> Counts:
    """Documents by the state's number."""
    return Counts(
        pending=by_state.get(DocumentState.PENDING, 0),
        indexing=by_state.get(DocumentState.INDEXING, 0),
        ready=by_state.get(DocumentState.READY, 0),
        failed=by_state.get(DocumentState.FAILED, 0),
        chunks=chunks,
    )
