"""The words of this service: knowledge bases, documents, chunks, searches."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from retrieval.core.places import shared_collection, tenant_database
from retrieval.core.search_options import SearchDefaults

Vectors = npt.NDArray[np.float32]
Scalar = str | int | float | bool  # a value of a metadata field

DEFAULT_MAX_TOKENS = 200
DEFAULT_OVERLAP_TOKENS = 30


class SearchMode(IntEnum):
    """How a search compares. Same numbers as on the wire."""

    DENSE = 1
    SPARSE = 2
    HYBRID = 3


class DocumentState(IntEnum):
    """Where a document stands. Same numbers as on the wire."""

    PENDING = 1
    INDEXING = 2
    READY = 3
    FAILED = 4


class Outcome(IntEnum):
    """How a search ended. Same numbers as on the wire."""

    OK = 1
    EMPTY = 2
    DEGRADED = 3
    FAILED = 4


class ReasonCode(IntEnum):
    """Why a search was degraded or failed. Same numbers as on the wire."""

    SPARSE_UNSUPPORTED = 1
    EMBEDDING_UNAVAILABLE = 2
    STORE_UNAVAILABLE = 3
    DEADLINE = 4
    INDEXING = 5
    MODEL_CHANGED = 6
    RERANK_UNAVAILABLE = 7


class MetadataType(IntEnum):
    """What a metadata field holds. Same numbers as on the wire."""

    STRING = 1
    INT64 = 2
    DOUBLE = 3
    BOOL = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class MetadataField:
    """A field that documents may have."""

    name: str
    type: MetadataType


class IndexType(IntEnum):
    """What kind of index. Same numbers as on the wire."""

    FLAT = 1
    IVF_FLAT = 2
    IVF_SQ8 = 3
    HNSW = 4
    HNSW_SQ = 5


class Tenancy(IntEnum):
    """What a knowledge base's rows share with others. Same numbers as on the wire."""

    COLLECTION = 1
    PARTITION_KEY = 2
    DATABASE = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a knowledge base's rows are in the store.

    Attributes:
        collection: What is written, counted and walked through.
        alias: What is searched; empty: the collection itself, and no alias is made.
        database: Empty: the default one.
        scope: Partition key of every row and search; empty: the collection is its own.
    """

    collection: str
    alias: str = ""
    database: str = ""
    scope: str = ""

    @property
    def searched(self) -> str:
        """The name that searches use."""
        return self.alias or self.collection


class ChunkingStrategy(IntEnum):
    """Where a document may be cut. Same numbers as on the wire."""

    AUTO = 1
    RECURSIVE = 2
    MARKDOWN = 3
    CODE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunking:
    """How documents are cut, in tokens of the embedding model."""

    max_tokens: int = DEFAULT_MAX_TOKENS
    overlap_tokens: int = DEFAULT_OVERLAP_TOKENS
    strategy: ChunkingStrategy = ChunkingStrategy.AUTO


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexPolicy:
    """What the index of a knowledge base should be.

    Attributes:
        type: None: chosen by size and by what the deployed Milvus has.
        build_params: Only with a type; empty: by rows per segment.
        search_params: Only with a type; empty: tuned by measurement.
        target_recall_percent: Recall at 10 that tuning must reach.
        tuning_off: No tuning by itself.
    """

    type: IndexType | None = None
    build_params: Mapping[str, int] = field(default_factory=dict)
    search_params: Mapping[str, int] = field(default_factory=dict)
    target_recall_percent: int = 95
    tuning_off: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderSource:
    """A folder that the worker looks through.

    Attributes:
        path: Relative to the folder that the worker's operator allows.
        mirror_deletes: Documents whose files have gone are deleted too.
    """

    name: str
    path: str
    mirror_deletes: bool = False
    interval_s: int = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationPolicy:
    """How the quality of a knowledge base is watched.

    Attributes:
        thresholds: Least scores, by the names of `Evaluation`'s fields: ndcg_at_10, recall_at_10, mrr_at_10.
        golden_set: Its name; empty: whichever there is.
        interval_s: From the end of one evaluation to the next.
    """

    thresholds: Mapping[str, float]
    golden_set: str = ""
    interval_s: int = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class KnowledgeBaseSpec:
    """What was asked for. What of it can be changed, `spec_changes` says."""

    embedding_model: str
    chunking: Chunking
    search_mode: SearchMode
    metadata_fields: tuple[MetadataField, ...] = ()
    search_defaults: SearchDefaults = field(default_factory=SearchDefaults)
    tenancy: Tenancy = Tenancy.COLLECTION
    index: IndexPolicy = field(default_factory=IndexPolicy)
    sources: tuple[FolderSource, ...] = ()
    evaluation: EvaluationPolicy | None = None
    allowed_tenants: tuple[str, ...] = ()


def place_of(
    tenancy: Tenancy, *, tenant: str, collection: str, alias: str, model_fingerprint: str, dimension: int
) -> Place:
    """Where the knowledge base's rows are.

    Args:
        collection: Never used again for another set of chunks; the scope, if the collection is shared.
    """
    match tenancy:
        case Tenancy.COLLECTION:
            return Place(collection=collection, alias=alias)
        case Tenancy.PARTITION_KEY:
            return Place(collection=shared_collection(model_fingerprint, dimension), scope=collection)
        case Tenancy.DATABASE:
            return Place(database=tenant_database(tenant), collection=collection, alias=alias)


@dataclass(frozen=True, slots=True, kw_only=True)
class KnowledgeBase:
    """A set of documents that can be searched.

    Attributes:
        alias: The store's name for whatever collection serves it now.
        collection: Names the set of chunks that serves it now; a re-index makes another. With
            Tenancy.PARTITION_KEY it is not a collection but a scope of a shared one.
        revision: Grows whenever a search could find something else.
        generation: Grows whenever its spec changes.
    """

    tenant: str
    id: str
    spec: KnowledgeBaseSpec
    dimension: int
    model_fingerprint: str
    revision: int
    alias: str
    collection: str
    create_time: datetime
    generation: int = 1

    @property
    def name(self) -> str:
        """The resource name."""
        return f"knowledgeBases/{self.id}"

    @property
    def place(self) -> Place:
        """Where its rows are."""
        return place_of(
            self.spec.tenancy,
            tenant=self.tenant,
            collection=self.collection,
            alias=self.alias,
            model_fingerprint=self.model_fingerprint,
            dimension=self.dimension,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Documents by state, and chunks that can be found."""

    pending: int = 0
    indexing: int = 0
    ready: int = 0
    failed: int = 0
    chunks: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A knowledge base and its counts, read at one moment."""

    knowledge_base: KnowledgeBase
    counts: Counts
    search_params: Mapping[str, int] = field(default_factory=dict)
    """Tuned for the collection that serves it; empty: never tuned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentError:
    """Why a document could not be indexed; `reason` is one of errors.v1."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One document as the catalogue knows it.

    Attributes:
        version: Of the chunks that can be found; empty: none can, or nobody wrote it down.
        moved_from: The document that has these chunks until it is READY.
        source: It came from this one; empty: it was uploaded.
        source_stamp: What its file was like.
    """

    tenant: str
    knowledge_base: str
    id: str
    path: str
    media_type: str
    size_bytes: int
    sha256: str
    blob: str
    state: DocumentState
    error: DocumentError | None = None
    chunk_count: int = 0
    warnings: tuple[str, ...] = ()
    attempts: int = 0
    version: str = ""
    moved_from: str = ""
    metadata: Mapping[str, Scalar] = field(default_factory=dict)
    source: str = ""
    source_stamp: str = ""
    create_time: datetime
    update_time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A document that one worker may index until the lease ends.

    Attributes:
        token: Names the lease; every write of the claim is refused once another has it.
        first_failure: When the present series of transient failures began.
        interruptions: How many claims before have ended with their worker.
        first: Nobody had it before, so no other claim has written chunks of it.
    """

    document: Document
    token: str
    first_failure: datetime | None
    interruptions: int = 0
    first: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkDraft:
    """A piece of a document before it is stored.

    Attributes:
        text: What a reader sees.
        context: Headings above it, embedded in front of the text.
        location: Page or heading path.
    """

    text: str
    context: str
    location: str

    @property
    def embedded_text(self) -> str:
        """What the model reads."""
        return f"{self.context}\n\n{self.text}" if self.context else self.text


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkRecord:
    """A chunk in the store. `version` names the claim that wrote it last, `title` is the document's path."""

    id: str
    document: str
    title: str
    version: str
    ordinal: int
    text: str
    location: str
    metadata: Mapping[str, Scalar] = field(default_factory=dict)

    @property
    def searched_text(self) -> str:
        """What keyword search reads: path and headings too, since the text may not name what it is about."""
        return f"{self.title}\n{self.location}\n{self.text}"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredChunk:
    """A chunk as it is stored; its vector only if it was asked for."""

    record: ChunkRecord
    vector: Vectors | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A chunk that was found.

    Attributes:
        score: Higher is better; what it means depends on the search. 0 if nothing was searched.
        similarity: Cosine to the query's vector; None if there was none to compare with.
        vector: Of length 1; only if it was asked for.
    """

    id: str
    document: str
    title: str
    ordinal: int
    text: str
    location: str
    score: float
    metadata: Mapping[str, Scalar] = field(default_factory=dict)
    similarity: float | None = None
    vector: Vectors | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Segments:
    """Sealed pieces of a collection: each has an index of its own. Of all its scopes together.

    Attributes:
        rows: In all of them; rows that are still growing are in none.
        indexed: Of them, in those whose index is built.
        pending: In those whose index is being built, of what compaction is making of others too.
        served: Of `rows`, in those whose index searches use by now. The others are compared otherwise,
            and are found at another rate.
        layout: Which pieces searches go through; what was measured on others does not hold for them.
    """

    count: int
    rows: int
    indexed: int
    pending: int
    served: int
    layout: frozenset[int]

    @property
    def settled(self) -> bool:
        """Whether searches use an index for every sealed row, and no other segments are being made."""
        return self.served >= self.rows and not self.pending


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreMemory:
    """Of all nodes that hold collections, as the store itself sees it when it decides what it may load.

    Attributes:
        used_bytes: By all collections, and by what runs beside them on the nodes.
    """

    total_bytes: int
    used_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedDocument:
    """What the parser made of a document."""

    chunks: tuple[ChunkDraft, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """What the embedding service says of a model."""

    dimension: int
    fingerprint: str
    max_input_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedded:
    """Vectors, one a row, of length 1."""

    vectors: Vectors
    fingerprint: str
    truncated: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What the connected store can do.

    Attributes:
        deployment: Lite, Standalone or Distributed, with the version.
        sparse: Whether it has keyword search (BM25), hence hybrid search.
        flush_after_ingest: Whether rows are slow to search until flushed.
        index_types: Kinds of index it can build.
        databases: Whether it has databases, for tenants of their own.
        may_miss: Whether searches may leave out what a part of it that failed had held, and not say so.
    """

    deployment: str
    sparse: bool
    flush_after_ingest: bool
    index_types: frozenset[IndexType]
    databases: bool
    may_miss: bool = False
