"""A search of a small knowledge base, its store, embedding and reranking in memory."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from retrieval.adapters.memory import MemoryStore
from retrieval.core.coverage import Coverage
from retrieval.core.directory import Directory
from retrieval.core.index import CollectionSpec
from retrieval.core.lookup import Lookup
from retrieval.core.model import (
    Chunking,
    ChunkRecord,
    Counts,
    Hit,
    KnowledgeBase,
    KnowledgeBaseSpec,
    MetadataField,
    MetadataType,
    Place,
    ReasonCode,
    Scalar,
    SearchMode,
    Snapshot,
)
from retrieval.core.ports import Catalogue
from retrieval.core.reranking import Reranking
from retrieval.core.search import Search
from retrieval.core.search_model import SearchQuery, SearchResult
from retrieval.core.search_options import SearchDefaults
from servicekit.errors import ServiceError, Unavailable
from servicekit.testing import FakeClock
from tests.support.retrieval import DIMENSION, MODEL, HashEmbedder, hash_vectors

TEXTS = ["red foxes hunt at night", "cats sleep all day", "rain falls in spring"]


class OneKnowledgeBase:
    """The part of a catalogue that searches read."""

    def __init__(self) -> None:
        self.reads = 0
        self.error: ServiceError | None = None
        self.counts = Counts(ready=3, chunks=3)
        self.knowledge_base = KnowledgeBase(
            tenant="default",
            id="kb",
            spec=KnowledgeBaseSpec(
                embedding_model=MODEL,
                chunking=Chunking(),
                search_mode=SearchMode.HYBRID,
                metadata_fields=(MetadataField(name="year", type=MetadataType.INT64),),
            ),
            dimension=DIMENSION,
            model_fingerprint="hash-1",
            revision=7,
            alias="alias",
            collection="collection",
            create_time=datetime(2026, 1, 1, tzinfo=UTC),
        )

    def defaults(self, **fields: Any) -> None:
        """Sets search defaults."""
        spec = replace(self.knowledge_base.spec, search_defaults=SearchDefaults(**fields))
        self.knowledge_base = replace(self.knowledge_base, spec=spec)

    async def snapshot(self, tenant: str, knowledge_base: str) -> Snapshot | None:
        self.reads += 1
        if self.error is not None:
            raise self.error
        if (tenant, knowledge_base) != ("default", "kb"):
            return None
        return Snapshot(knowledge_base=self.knowledge_base, counts=self.counts)


class FlakyStore(MemoryStore):
    """Fails where told, and counts.

    Attributes:
        error: Of every search.
        errors: Of one method, by its name.
        calls: Methods by name, with what they were asked.
        fails_after: So many searches of each kind from now on.
    """

    def __init__(self, *, sparse: bool = True) -> None:
        super().__init__(sparse=sparse)
        self.error: ServiceError | None = None
        self.errors: dict[str, ServiceError] = {}
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.fails_after: int | None = None

    async def search_dense(self, *args: Any, **kwargs: Any) -> list[list[Hit]]:
        self._called("search_dense", kwargs | {"queries": len(args[1])})
        return await super().search_dense(*args, **kwargs)

    async def search_sparse(self, *args: Any, **kwargs: Any) -> list[list[Hit]]:
        self._called("search_sparse", kwargs | {"queries": len(args[1])})
        return await super().search_sparse(*args, **kwargs)

    async def chunks_at(self, *args: Any, **kwargs: Any) -> list[Hit]:
        self._called("chunks_at", {"wanted": args[1]})
        return await super().chunks_at(*args, **kwargs)

    def _called(self, name: str, asked: dict[str, Any]) -> None:
        self.calls.append((name, asked))
        error = self.errors.get(name) or (self.error if name != "chunks_at" else None)
        if self.fails_after is not None and name == "search_dense":
            self.fails_after -= 1
        if self.fails_after is not None and self.fails_after < 0:
            error = Unavailable("away", reason="DEPENDENCY_UNAVAILABLE")
        if error is not None:
            raise error


class WordReranker:
    """Scores by how many of the query's words a passage has, more for a longer one.

    Attributes:
        takes: Seconds a passage, of the fake clock.
    """

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.takes = 0.0
        self.error: ServiceError | None = None
        self.asked: list[tuple[str, str, list[str]]] = []
        self.timeouts: list[timedelta] = []

    async def rerank(
        self, model: str, query: str, passages: Sequence[str], *, timeout: timedelta
    ) -> Sequence[float]:
        self.asked.append((model, query, list(passages)))
        self.timeouts.append(timeout)
        self.clock.advance(timedelta(seconds=self.takes * len(passages)))
        if self.error is not None:
            raise self.error
        words = set(query.split())
        return [10.0 * len(words & set(text.split())) + len(text) / 1000 for text in passages]


class World:
    def __init__(self, *, store: FlakyStore | None = None) -> None:
        self.catalogue = OneKnowledgeBase()
        self.clock = FakeClock()
        self.store = store or FlakyStore()
        self.embedder = HashEmbedder()
        self.reranker = WordReranker(self.clock)
        self.reranking = Reranking(reranker=self.reranker, clock=self.clock, timeout=timedelta(seconds=10))
        self.directory = Directory(
            catalogue=cast(Catalogue, self.catalogue), clock=self.clock, time_to_live=timedelta(seconds=2)
        )

        self.coverage = Coverage(
            store=self.store, catalogue=cast(Catalogue, self.catalogue), clock=self.clock
        )

    async def search(self, text: str = "red foxes", *, embedder: Any = None, **fields: Any) -> SearchResult:
        search = Search(
            directory=self.directory,
            store=self.store,
            lookup=Lookup(
                store=self.store,
                embedder=embedder or self.embedder,
                hybrid_budget=timedelta(milliseconds=100),
                embedding_timeout=timedelta(seconds=10),
            ),
            reranking=self.reranking,
            coverage=self.coverage,
        )
        return await search.run(SearchQuery(**({"knowledge_base": "kb", "text": text} | fields)))


async def fill(store: MemoryStore) -> None:
    """Three chunks of one document."""
    await put(store, *[("c", n, text) for n, text in enumerate(TEXTS)])


async def put(store: MemoryStore, *rows: tuple[str, int, str], **metadata: Scalar) -> None:
    """Chunks: document, ordinal and text. Their ids are `{document}{ordinal}`."""
    place = Place(collection="collection", alias="alias")
    await store.ensure_collection(CollectionSpec(place=place, dimension=DIMENSION))
    records = [
        ChunkRecord(
            id=f"{document}{ordinal}",
            document=document,
            title=f"{document}.md",
            version="v",
            ordinal=ordinal,
            text=text,
            location="",
            metadata=metadata,
        )
        for document, ordinal, text in rows
    ]
    await store.upsert(place, records, hash_vectors([text for _, _, text in rows]))


def codes(result: SearchResult) -> list[ReasonCode]:
    """Of all reasons."""
    return [reason.code for reason in result.reasons]


def ids(result: SearchResult) -> list[str]:
    """Of all hits, best first."""
    return [hit.id for hit in result.hits]
