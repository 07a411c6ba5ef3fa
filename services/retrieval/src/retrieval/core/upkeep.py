"""Retrying and moving documents; comparing on demand; how indexing gets on."""

from collections.abc import Callable, Sequence

import structlog

from retrieval.core import media
from retrieval.core.directory import Directory
from retrieval.core.errors import document_not_found, knowledge_base_not_found
from retrieval.core.ingest_model import IngestStatus, Reconciled
from retrieval.core.model import Document
from retrieval.core.names import document_id
from retrieval.core.ports import Catalogue
from retrieval.core.reconciling import Reconciler
from servicekit.clock import Clock
from servicekit.context import current_caller
from servicekit.errors import InvalidArgument

log = structlog.get_logger()


class DocumentUpkeep:
    """What can be done with documents after their upload.

    Args:
        queued: Called when documents wait: there is work for the worker.
    """

    def __init__(
        self,
        *,
        catalogue: Catalogue,
        reconciler: Reconciler,
        directory: Directory,
        clock: Clock,
        queued: Callable[[], None],
    ) -> None:
        self._catalogue = catalogue
        self._reconciler = reconciler
        self._directory = directory
        self._clock = clock
        self._queued = queued

    async def retry(self, knowledge_base: str, documents: Sequence[str]) -> int:
        """Failed documents wait again; returns how many.

        Args:
            documents: Only these; empty: all that failed.

        Raises:
            NotFound: There is no such knowledge base.
        """
        tenant = await self._tenant_of(knowledge_base)
        queued = await self._catalogue.retry_documents(
            tenant, knowledge_base, documents, now=self._clock.now()
        )
        if queued:
            log.info("documents_retried", tenant=tenant, knowledge_base=knowledge_base, documents=queued)
            self._changed(tenant, knowledge_base)
        return queued

    async def move(self, knowledge_base: str, document: str, path: str) -> Document:
        """Gives it another path.

        Raises:
            NotFound: The document or the knowledge base is not there.
            AlreadyExists: Another document has the path.
            InvalidArgument: It would be read as another kind of file under the new path.
        """
        tenant = await self._tenant_of(knowledge_base)
        found = await self._catalogue.get_document(tenant, knowledge_base, document)
        if found is None:
            raise document_not_found(knowledge_base, document)
        if path == found.path:
            return found
        by_name = media.media_type(path, b"")
        if by_name != found.media_type and media.media_type(found.path, b"") != by_name:
            raise InvalidArgument.field(
                "new_path",
                f"must be read as {found.media_type}, as {found.path} was; upload the file under the new "
                "path instead, and delete the old one",
                path,
            )
        moved = await self._catalogue.move_document(
            tenant, knowledge_base, document, to=document_id(path), path=path, now=self._clock.now()
        )
        log.info("document_moved", tenant=tenant, knowledge_base=knowledge_base, document=moved.id)
        self._changed(tenant, knowledge_base)
        return moved

    async def reconcile(self, knowledge_base: str) -> Reconciled:
        """Compares catalogue and store now.

        Raises:
            NotFound: There is no such knowledge base.
            Unavailable: The store does not answer; retry.
        """
        tenant = await self._tenant_of(knowledge_base)
        outcome = await self._reconciler.reconcile(tenant, knowledge_base)
        if outcome.documents_requeued:
            self._changed(tenant, knowledge_base)
        return outcome

    async def statuses(self, knowledge_bases: Sequence[str]) -> dict[str, IngestStatus]:
        """By knowledge base."""
        tenant = current_caller().tenant
        return await self._catalogue.ingest_statuses(tenant, knowledge_bases, now=self._clock.now())

    async def _tenant_of(self, knowledge_base: str) -> str:
        tenant = current_caller().tenant
        if await self._catalogue.snapshot(tenant, knowledge_base) is None:
            raise knowledge_base_not_found(knowledge_base)
        return tenant

    def _changed(self, tenant: str, knowledge_base: str) -> None:
        self._directory.forget(tenant, knowledge_base)
        self._queued()
