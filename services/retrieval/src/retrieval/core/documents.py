"""Uploading, reading and deleting documents."""

from collections.abc import AsyncIterator, Callable, Mapping
from types import MappingProxyType

import structlog

from retrieval.core import media
from retrieval.core.directory import Directory
from retrieval.core.errors import document_not_found, knowledge_base_not_found
from retrieval.core.metadata import checked_metadata
from retrieval.core.model import Document, DocumentState, Place, Scalar
from retrieval.core.names import document_id
from retrieval.core.ports import BlobStore, Catalogue, VectorStore
from servicekit.clock import Clock
from servicekit.context import current_caller
from servicekit.errors import InvalidArgument, NotFound, Unavailable

log = structlog.get_logger()

_SNIFFED_BYTES = 512


class Documents:
    """Everything about documents but indexing them.

    Args:
        max_bytes: Larger uploads are refused while they stream.
        uploaded: Called after each upload: there is work for the worker.
    """

    def __init__(
        self,
        *,
        catalogue: Catalogue,
        store: VectorStore,
        blobs: BlobStore,
        directory: Directory,
        clock: Clock,
        max_bytes: int,
        uploaded: Callable[[], None],
    ) -> None:
        self._catalogue = catalogue
        self._store = store
        self._blobs = blobs
        self._directory = directory
        self._clock = clock
        self._max_bytes = max_bytes
        self._uploaded = uploaded

    async def upload(
        self,
        knowledge_base: str,
        path: str,
        content: AsyncIterator[bytes],
        *,
        metadata: Mapping[str, Scalar] = MappingProxyType({}),
        source: str = "",
        source_stamp: str = "",
    ) -> Document:
        """Stores the original and queues the document.

        Args:
            metadata: Values of the knowledge base's metadata fields, all that the document has.
            source: That it comes from, if it does; with what its file is like.

        Raises:
            NotFound: There is no such knowledge base.
            InvalidArgument: It is empty, too large, or of a kind that cannot be read; a field of the
                metadata is not the knowledge base's, or its value not of the field's type.
        """
        tenant = current_caller().tenant
        snapshot = await self._catalogue.snapshot(tenant, knowledge_base)
        if snapshot is None:
            raise knowledge_base_not_found(knowledge_base)  # before its bytes are read
        fields = snapshot.knowledge_base.spec.metadata_fields
        values = checked_metadata(metadata, fields, field="header.metadata")
        async with self._blobs.writer(tenant) as writer:
            beginning = b""
            async for data in content:
                if writer.size_bytes + len(data) > self._max_bytes:
                    raise self._too_large(path)
                beginning = (beginning + data[:_SNIFFED_BYTES])[:_SNIFFED_BYTES]
                await writer.write(data)
            if not writer.size_bytes:
                raise InvalidArgument(
                    f"{path} has no bytes; there is nothing to index",
                    reason="DOCUMENT_EMPTY",
                    metadata={"path": path},
                )
            media_type = media.media_type(path, beginning)
            if media_type is None:
                raise _unsupported(path)
            now = self._clock.now()
            blob = await writer.commit()
            document = Document(
                tenant=tenant,
                knowledge_base=knowledge_base,
                id=document_id(path),
                path=path,
                media_type=media_type,
                size_bytes=writer.size_bytes,
                sha256=writer.sha256,
                blob=blob,
                state=DocumentState.PENDING,
                metadata=values,
                source=source,
                source_stamp=source_stamp,
                create_time=now,
                update_time=now,
            )
        try:
            stored, unused = await self._catalogue.put_document(document)
        except NotFound:
            await self._blobs.delete(blob)
            raise
        if unused is not None:
            await self._blobs.delete(unused)
        if unused != blob:
            log.info("document_uploaded", tenant=tenant, knowledge_base=knowledge_base, document=stored.id)
            self._directory.forget(tenant, knowledge_base)
            self._uploaded()
        return stored

    @property
    def max_bytes(self) -> int:
        """Larger uploads are refused."""
        return self._max_bytes

    async def find(self, knowledge_base: str, document: str) -> Document | None:
        """As it stands now, if it is there."""
        return await self._catalogue.get_document(current_caller().tenant, knowledge_base, document)

    async def get(self, knowledge_base: str, document: str) -> Document:
        """As it stands now.

        Raises:
            NotFound: The document or the knowledge base is not there.
        """
        tenant = current_caller().tenant
        found = await self._catalogue.get_document(tenant, knowledge_base, document)
        if found is None:
            raise await self._not_found(tenant, knowledge_base, document)
        return found

    async def list(
        self, knowledge_base: str, *, state: DocumentState | None, after: str, limit: int
    ) -> list[Document]:
        """By path, those behind `after`.

        Raises:
            NotFound: There is no such knowledge base.
        """
        tenant = current_caller().tenant
        found = await self._catalogue.list_documents(
            tenant, knowledge_base, state=state, after=after, limit=limit
        )
        if not found and await self._catalogue.snapshot(tenant, knowledge_base) is None:
            raise knowledge_base_not_found(knowledge_base)
        return found

    async def delete(self, knowledge_base: str, document: str) -> None:
        """Deletes it with its chunks; a call that failed half way may be repeated.

        Raises:
            NotFound: The document or the knowledge base is not there.
            Unavailable: The store does not answer; retry.
        """
        tenant = current_caller().tenant
        snapshot = await self._catalogue.snapshot(tenant, knowledge_base)
        if snapshot is None:
            raise knowledge_base_not_found(knowledge_base)
        busy = await self._catalogue.mark_document_deleted(
            tenant, knowledge_base, document, now=self._clock.now()
        )
        if busy is None:
            raise document_not_found(knowledge_base, document)
        self._directory.forget(tenant, knowledge_base)
        await self._delete_chunks(snapshot.knowledge_base.place, document)
        if not busy:  # else a worker may still add a last batch: `sweep` removes that too
            await self._remove(tenant, knowledge_base, document)

    async def sweep(self) -> None:
        """Finishes deletions whose worker has let go, or whose store did not answer."""
        for document, place in await self._catalogue.deleted_documents(now=self._clock.now(), limit=100):
            try:
                await self._delete_chunks(place, document.id)
            except Unavailable as error:
                log.warning("document_not_removed", document=document.id, reason=error.reason)
                return
            await self._remove(document.tenant, document.knowledge_base, document.id)

    async def _delete_chunks(self, place: Place, document: str) -> None:
        try:
            await self._store.delete_document(place, document)
            await self._store.settle(place)
        except NotFound:
            log.warning("collection_missing", collection=place.collection)  # then so are its chunks

    async def _remove(self, tenant: str, knowledge_base: str, document: str) -> None:
        blob = await self._catalogue.remove_document(tenant, knowledge_base, document, now=self._clock.now())
        self._directory.forget(tenant, knowledge_base)
        if blob is not None:
            await self._blobs.delete(blob)
            log.info("document_deleted", tenant=tenant, knowledge_base=knowledge_base, document=document)

    async def _not_found(self, tenant: str, knowledge_base: str, document: str) -> NotFound:
        if await self._catalogue.snapshot(tenant, knowledge_base) is None:
            return knowledge_base_not_found(knowledge_base)
        return document_not_found(knowledge_base, document)

    def _too_large(self, path: str) -> InvalidArgument:
        limit = f"{self._max_bytes / 1024 / 1024:g} MiB"
        return InvalidArgument(
            f"{path} is larger than {limit}; split it, or raise AGENTTEAMS_MAX_DOCUMENT_BYTES",
            reason="DOCUMENT_TOO_LARGE",
            metadata={"path": path, "max_bytes": str(self._max_bytes)},
        )


def _unsupported(path: str) -> InvalidArgument:
    return InvalidArgument(
        f"{path} is of a kind that cannot be indexed. Supported: {media.SUPPORTED}.",
        reason="DOCUMENT_TYPE_UNSUPPORTED",
        metadata={"path": path},
    )
