"""A knowledge base in the catalogue, for tests of golden sets."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from retrieval.adapters.catalogue import SqlCatalogue
from retrieval.core.model import (
    Chunking,
    Document,
    DocumentState,
    KnowledgeBase,
    KnowledgeBaseSpec,
    SearchMode,
)
from retrieval.core.names import document_id

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def knowledge_base(tenant: str = "default") -> KnowledgeBase:
    return KnowledgeBase(
        tenant=tenant,
        id="kb",
        spec=KnowledgeBaseSpec(
            embedding_model="models/m", chunking=Chunking(), search_mode=SearchMode.HYBRID
        ),
        dimension=8,
        model_fingerprint="f1",
        revision=1,
        alias="alias",
        collection="c1",
        create_time=NOW,
    )


async def add_documents(
    catalogue: SqlCatalogue, *, ready: Sequence[str], waiting: Sequence[str] = (), now: datetime = NOW
) -> None:
    """Of the knowledge base `kb`, as the worker leaves them."""
    for path in (*ready, *waiting):
        await catalogue.put_document(
            Document(
                tenant="default",
                knowledge_base="kb",
                id=document_id(path),
                path=path,
                media_type="text/markdown",
                size_bytes=10,
                sha256="1" * 64,
                blob=f"blob-{path}",
                state=DocumentState.PENDING,
                create_time=now,
                update_time=now,
            )
        )
        if path in ready:
            claim = await catalogue.claim(lease=timedelta(seconds=60), now=now)
            assert claim is not None
            assert await catalogue.finish(claim, collection="c1", chunk_count=1, warnings=(), now=now)
