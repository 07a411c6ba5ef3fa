"""What the core needs from the outside."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from retrieval.core.filters import Filter
from retrieval.core.index import BuiltIndex, CollectionSpec
from retrieval.core.ingest_ports import IngestQueue, Upkeep
from retrieval.core.model import (
    Capabilities,
    Chunking,
    ChunkRecord,
    Document,
    DocumentError,
    DocumentState,
    Embedded,
    Hit,
    KnowledgeBase,
    KnowledgeBaseSpec,
    MetadataField,
    ModelInfo,
    ParsedDocument,
    Place,
    Segments,
    Snapshot,
    StoredChunk,
    StoreMemory,
    Vectors,
)

NO_PARAMS: Mapping[str, int] = MappingProxyType({})


class VectorStore(Protocol):
    """Chunks and their vectors, each knowledge base's in a place of its own.

    Every method raises Unavailable when the store does not answer and
    DeadlineExceeded when the time ran out; those that need the collection
    raise NotFound (reason COLLECTION_NOT_FOUND) when there is none. A
    collection that was released is loaded again by itself.

    With a scope in the place, rows of other scopes are never read, counted,
    replaced or deleted, whatever ids and filters are given.
    """

    async def connect(self) -> Capabilities:
        """Learns what the store can do. Safe to repeat."""
        ...

    async def capabilities(self) -> Capabilities:
        """What `connect` learnt; connects if it has not yet."""
        ...

    async def ensure_collection(self, spec: CollectionSpec) -> bool:
        """Makes database and collection if they are not there, loads it, points the alias at it.

        Returns:
            Whether it was made now, hence is empty.
        """
        ...

    async def lacking(self, place: Place) -> frozenset[str]:
        """Names of fields that `ensure_collection` would make now and this collection does not have.

        An earlier release made it, or an earlier Milvus. Its rows can be read, as chunks without
        metadata; what needs such a field raises OutdatedCollection, every `upsert` among it.
        """
        ...

    async def add_fields(self, place: Place, fields: Sequence[MetadataField]) -> None:
        """Rows that are written from now on may have these fields too."""
        ...

    async def drop(self, place: Place) -> None:
        """Removes collection and alias, or the scope's rows; what is not there is no error."""
        ...

    async def upsert(self, place: Place, records: Sequence[ChunkRecord], vectors: Vectors) -> None:
        """Stores chunks; one of the same id is replaced. Searches see it after `settle`."""
        ...

    async def delete_document(self, place: Place, document: str, *, keep_version: str | None = None) -> None:
        """Removes the document's chunks, except those of the version to keep."""
        ...

    async def delete_chunks(self, place: Place, ids: Sequence[str]) -> None:
        """Removes chunks; what is not there is no error."""
        ...

    async def settle(self, place: Place) -> None:
        """Returns when searches that begin now, of any process, see what was written and deleted before.

        Up to a fifth of a second on a server, half a second on a cluster; nothing on Lite.
        """
        ...

    async def flush(self, place: Place) -> None:
        """Makes what was stored quick to search. Only useful where capabilities say so."""
        ...

    async def search_dense(
        self,
        place: Place,
        vectors: Vectors,
        *,
        limit: int,
        filter: Filter | None = None,
        search_params: Mapping[str, int] = NO_PARAMS,
        with_vectors: bool = False,
    ) -> list[list[Hit]]:
        """Nearest by cosine, one list for each row of `vectors`; the score is the cosine similarity.

        Args:
            search_params: nprobe, ef; what the index does not know is ignored.
        """
        ...

    async def search_sparse(
        self,
        place: Place,
        texts: Sequence[str],
        *,
        limit: int,
        filter: Filter | None = None,
        with_vectors: bool = False,
    ) -> list[list[Hit]]:
        """Best by BM25, one list for each text; the score is positive.

        Raises:
            FailedPrecondition: The store has no keyword search; capabilities say so.
        """
        ...

    async def chunks_at(self, place: Place, wanted: Sequence[tuple[str, Sequence[int]]]) -> list[Hit]:
        """Chunks by document and ordinals, sorted so; those that are not there are left out."""
        ...

    def iterate(
        self, place: Place, *, filter: Filter | None = None, with_vectors: bool = False, batch: int = 500
    ) -> AsyncIterator[list[StoredChunk]]:
        """Every chunk once, by id, as it was when the walk began or later.

        A walk that cannot be ended raises; it never ends early.
        """
        ...

    async def count(self, place: Place) -> int:
        """Chunks, exactly."""
        ...

    async def findable(self, place: Place) -> int:
        """Chunks that a search would look at: not fewer than `count`, unless some of them are not loaded.

        As a search sees it: a moment ago.
        """
        ...

    async def chunk_ids(self, place: Place, document: str) -> list[str]:
        """Ids of the document's chunks, in their order."""
        ...

    async def index_of(self, place: Place) -> BuiltIndex:
        """How the vectors are indexed."""
        ...

    async def segments(self, place: Place) -> Segments | None:
        """None if the store does not say."""
        ...

    async def memory(self) -> StoreMemory | None:
        """None if the store does not say."""
        ...

    async def close(self) -> None:
        """Ends connections."""
        ...


class Embedder(Protocol):
    """Texts to vectors, as the current caller. Raises ServiceErrors."""

    async def describe(self, model: str) -> ModelInfo:
        """What the model makes."""
        ...

    async def embed_queries(
        self, model: str, texts: Sequence[str], *, timeout: timedelta | None = None
    ) -> Embedded:
        """Questions, in one call."""
        ...

    async def embed_passages(self, model: str, texts: Sequence[str]) -> Embedded:
        """Passages, at most 256."""
        ...


class Reranker(Protocol):
    """Reads a question and passages together, as the current caller. Raises ServiceErrors."""

    async def rerank(
        self, model: str, query: str, passages: Sequence[str], *, timeout: timedelta
    ) -> Sequence[float]:
        """One finite score a passage, at most 256; higher is better."""
        ...


class Catalogue(IngestQueue, Upkeep, Protocol):
    """Knowledge bases, documents and the ingest queue. Every method is one transaction."""

    async def check(self) -> None:
        """Raises Unavailable unless the database answers and has its tables."""
        ...

    async def insert_knowledge_base(self, knowledge_base: KnowledgeBase) -> bool:
        """False if one of that name is there."""
        ...

    async def snapshot(self, tenant: str, knowledge_base: str) -> Snapshot | None:
        """The knowledge base and its counts; None if it is not there or being deleted."""
        ...

    async def list_knowledge_bases(self, tenant: str, *, after: str, limit: int) -> list[Snapshot]:
        """By id, those behind `after`."""
        ...

    async def start_reindex(
        self, before: KnowledgeBase, *, collection: str, dimension: int, fingerprint: str, now: datetime
    ) -> bool:
        """Moves to another, empty collection: every document waits again. False if somebody else did.

        The former collection is remembered until `forget_collection`.
        """
        ...

    async def doomed_collections(self) -> list[tuple[str, Place]]:
        """What a re-index has left, by the name to forget it by, and where it is."""
        ...

    async def forget_collection(self, collection: str) -> None:
        """It was dropped."""
        ...

    async def mark_knowledge_base_deleted(self, tenant: str, knowledge_base: str) -> KnowledgeBase | None:
        """Hides it from everything but this method and `remove_knowledge_base`; None if it is not there."""
        ...

    async def deleted_knowledge_bases(self) -> list[KnowledgeBase]:
        """Those marked as deleted and not yet removed."""
        ...

    async def remove_knowledge_base(self, tenant: str, knowledge_base: str) -> list[str]:
        """Removes its rows; returns the originals that nobody refers to any more."""
        ...

    async def put_document(self, document: Document) -> tuple[Document, str | None]:
        """Stores an upload as PENDING, unless the same bytes wait or are indexed already.

        Returns:
            The document as it stands now, and the original that is no longer needed, if any
            (that of the former version, or the given one if the upload was a no-op).

        Raises:
            NotFound: The knowledge base is not there.
        """
        ...

    async def get_document(self, tenant: str, knowledge_base: str, document: str) -> Document | None:
        """None if it is not there or being deleted."""
        ...

    async def list_documents(
        self, tenant: str, knowledge_base: str, *, state: DocumentState | None, after: str, limit: int
    ) -> list[Document]:
        """By path, those behind `after`."""
        ...

    async def mark_document_deleted(
        self, tenant: str, knowledge_base: str, document: str, *, now: datetime
    ) -> bool | None:
        """Hides it. None: it is not there. True: a worker may still be writing its chunks."""
        ...

    async def deleted_documents(self, *, now: datetime, limit: int) -> list[tuple[Document, Place]]:
        """Those marked as deleted that no worker and no other caller holds, with where their chunks are."""
        ...

    async def remove_document(
        self, tenant: str, knowledge_base: str, document: str, *, now: datetime
    ) -> str | None:
        """Its chunks are gone: removes the row if it is still marked as deleted; returns its original."""
        ...


class Specs(Protocol):
    """What knowledge bases were asked to be."""

    async def replace_spec(self, before: KnowledgeBase, spec: KnowledgeBaseSpec, *, now: datetime) -> bool:
        """The next generation, and the revision grows; False if it is another generation by now, or gone."""
        ...


class BlobStore(Protocol):
    """Originals."""

    def writer(self, tenant: str) -> AbstractAsyncContextManager["BlobWriter"]:
        """A new original; what is not committed in the block leaves nothing behind."""
        ...

    def local_path(self, blob: str) -> AbstractAsyncContextManager[Path]:
        """The original as a file to read.

        Raises:
            NotFound: It is not there.
        """
        ...

    async def delete(self, blob: str) -> None:
        """Removes it; what is not there is no error."""
        ...


class BlobWriter(Protocol):
    """One original that is being written."""

    async def write(self, data: bytes) -> None:
        """Appends."""
        ...

    async def commit(self) -> str:
        """Keeps it; returns its key."""
        ...

    @property
    def size_bytes(self) -> int:
        """So far."""
        ...

    @property
    def sha256(self) -> str:
        """Of what was written so far, in hex."""
        ...


class Parser(Protocol):
    """Files to chunks."""

    async def parse(self, file: Path, *, path: str, media_type: str, chunking: Chunking) -> ParsedDocument:
        """Reads and cuts the file.

        Raises:
            DocumentUnreadable: It cannot be read, now or later.
        """
        ...


class DocumentUnreadable(Exception):
    """The document is at fault: trying again would not help."""

    def __init__(self, error: DocumentError) -> None:
        super().__init__(error.message)
        self.error = error
