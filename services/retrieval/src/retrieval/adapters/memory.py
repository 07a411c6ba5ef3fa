"""A small exact vector store in memory: for unit tests, and to say what the contract means."""

import math
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from retrieval.core.filters import Filter, matches
from retrieval.core.index import BuiltIndex, CollectionSpec
from retrieval.core.model import (
    Capabilities,
    ChunkRecord,
    Hit,
    IndexType,
    MetadataField,
    Place,
    Segments,
    StoredChunk,
    StoreMemory,
    Vectors,
)
from retrieval.core.ports import NO_PARAMS
from retrieval.core.words import query_words, words
from servicekit.errors import FailedPrecondition, NotFound

_K1, _B = 1.2, 0.75


@dataclass(frozen=True, slots=True)
class _Row:
    record: ChunkRecord
    vector: Vectors


@dataclass(slots=True)
class _Collection:
    """Rows by scope and id."""

    rows: dict[tuple[str, str], _Row]
    index: BuiltIndex


class MemoryStore:
    """See `VectorStore`. Dense is exact; BM25 is the textbook's."""

    def __init__(self, *, sparse: bool = True) -> None:
        self._collections: dict[tuple[str, str], _Collection] = {}
        self._aliases: dict[tuple[str, str], str] = {}
        self._capabilities = Capabilities(
            deployment="Memory",
            sparse=sparse,
            flush_after_ingest=False,
            index_types=frozenset(IndexType),
            databases=True,
        )

    async def connect(self) -> Capabilities:
        """Nothing to learn."""
        return self._capabilities

    async def capabilities(self) -> Capabilities:
        """What was given."""
        return self._capabilities

    async def ensure_collection(self, spec: CollectionSpec) -> bool:
        """Makes it if it is not there."""
        place = spec.place
        key = place.database, place.collection
        created = key not in self._collections
        if created:
            self._collections[key] = _Collection(rows={}, index=spec.index)
        if place.alias:
            self._aliases[place.database, place.alias] = place.collection
        return created

    async def lacking(self, place: Place) -> frozenset[str]:
        """Nothing."""
        self._collection(place)
        return frozenset()

    async def add_fields(self, place: Place, fields: Sequence[MetadataField]) -> None:
        """Rows hold whatever they are given."""
        self._collection(place)

    async def drop(self, place: Place) -> None:
        """Forgets it."""
        key = place.database, place.collection
        if place.scope:
            if key in self._collections:
                for row in list(self._rows(place)):
                    del self._collection(place).rows[place.scope, row.record.id]
            return
        self._collections.pop(key, None)
        if self._aliases.get((place.database, place.alias)) == place.collection:
            del self._aliases[place.database, place.alias]

    async def upsert(self, place: Place, records: Sequence[ChunkRecord], vectors: Vectors) -> None:
        """By id."""
        rows = self._collection(place).rows
        for record, vector in zip(records, vectors, strict=True):
            rows[place.scope, record.id] = _Row(record, np.asarray(vector, dtype=np.float32))

    async def delete_document(self, place: Place, document: str, *, keep_version: str | None = None) -> None:
        """By document."""
        await self.delete_chunks(
            place,
            [
                row.record.id
                for row in self._rows(place)
                if row.record.document == document and row.record.version != keep_version
            ],
        )

    async def delete_chunks(self, place: Place, ids: Sequence[str]) -> None:
        """By id."""
        rows = self._collection(place).rows
        for id_ in ids:
            rows.pop((place.scope, id_), None)

    async def flush(self, place: Place) -> None:
        """Nothing to do."""
        self._collection(place)

    async def settle(self, place: Place) -> None:
        """Writes are seen at once."""
        self._collection(place)

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
        """All of them compared."""
        rows = list(self._rows(place, filter, searched=True))
        answers = []
        for query in np.asarray(vectors, dtype=np.float32):
            scored = [(cosine(query, row.vector), row) for row in rows]
            scored.sort(key=lambda item: -item[0])
            answers.append(
                [_hit(row, score, with_vectors, similarity=score) for score, row in scored[:limit]]
            )
        return answers

    async def search_sparse(
        self,
        place: Place,
        texts: Sequence[str],
        *,
        limit: int,
        filter: Filter | None = None,
        with_vectors: bool = False,
    ) -> list[list[Hit]]:
        """Only those that share a word. Words are weighed over all rows, as Milvus does."""
        if not self._capabilities.sparse:
            raise FailedPrecondition("this store has no keyword search", reason="SPARSE_UNSUPPORTED")
        every = [row.record.searched_text for row in self._collection(place, searched=True).rows.values()]
        answers = []
        for text in texts:
            score = _bm25(every, text)
            scored = [
                (score(row.record.searched_text), row) for row in self._rows(place, filter, searched=True)
            ]
            scored = sorted((item for item in scored if item[0] > 0), key=lambda item: -item[0])
            answers.append([_hit(row, found, with_vectors) for found, row in scored[:limit]])
        return answers

    async def chunks_at(self, place: Place, wanted: Sequence[tuple[str, Sequence[int]]]) -> list[Hit]:
        """By document and ordinal."""
        places = {(document, ordinal) for document, ordinals in wanted for ordinal in ordinals}
        rows = [
            row
            for row in self._rows(place, searched=True)
            if (row.record.document, row.record.ordinal) in places
        ]
        rows.sort(key=lambda row: (row.record.document, row.record.ordinal, row.record.id))
        return [_hit(row, 0.0, with_vectors=False) for row in rows]

    async def iterate(
        self, place: Place, *, filter: Filter | None = None, with_vectors: bool = False, batch: int = 500
    ) -> AsyncIterator[list[StoredChunk]]:
        """As it is when the walk begins."""
        rows = sorted(self._rows(place, filter), key=lambda row: row.record.id)
        for start in range(0, len(rows), batch):
            yield [
                StoredChunk(record=row.record, vector=row.vector if with_vectors else None)
                for row in rows[start : start + batch]
            ]

    async def count(self, place: Place) -> int:
        """Exact."""
        return sum(1 for _ in self._rows(place))

    async def findable(self, place: Place) -> int:
        """All of them."""
        return await self.count(place)

    async def chunk_ids(self, place: Place, document: str) -> list[str]:
        """By ordinal."""
        records = [row.record for row in self._rows(place) if row.record.document == document]
        return [record.id for record in sorted(records, key=lambda record: (record.ordinal, record.id))]

    async def index_of(self, place: Place) -> BuiltIndex:
        """As it was asked for."""
        return self._collection(place).index

    async def segments(self, place: Place) -> Segments | None:
        """It has none."""
        self._collection(place)
        return None

    async def memory(self) -> StoreMemory | None:
        """The process's own; it has no bound that would be known."""
        return None

    async def close(self) -> None:
        """Nothing to end."""

    def _collection(self, place: Place, *, searched: bool = False) -> _Collection:
        name = place.searched if searched else place.collection
        name = self._aliases.get((place.database, name), name)
        collection = self._collections.get((place.database, name))
        if collection is None:
            raise NotFound(f"no collection {name}", reason="COLLECTION_NOT_FOUND")
        return collection

    def _rows(self, place: Place, filter: Filter | None = None, *, searched: bool = False) -> Iterator[_Row]:
        for (scope, _), row in self._collection(place, searched=searched).rows.items():
            record = row.record
            if scope == place.scope and matches(
                filter, document=record.document, path=record.title, metadata=record.metadata
            ):
                yield row


def cosine(one: Vectors, other: Vectors) -> float:
    """0 if one of them has no length."""
    norm = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / norm if norm else 0.0


def _bm25(texts: Iterable[str], query: str) -> Callable[[str], float]:
    documents = [words(text) for text in texts]
    average = sum(map(len, documents)) / max(1, len(documents)) or 1.0
    frequency = Counter(word for document in documents for word in set(document))
    idf = {
        word: math.log(1 + (len(documents) - frequency[word] + 0.5) / (frequency[word] + 0.5))
        for word in query_words(query)
    }

    def score(text: str) -> float:
        found = words(text)
        counts = Counter(found)
        length = _K1 * (1 - _B + _B * len(found) / average)
        return sum(
            weight * counts[word] * (_K1 + 1) / (counts[word] + length) for word, weight in idf.items()
        )

    return score


def _hit(row: _Row, score: float, with_vectors: bool, *, similarity: float | None = None) -> Hit:
    record = row.record
    return Hit(
        id=record.id,
        document=record.document,
        title=record.title,
        ordinal=record.ordinal,
        text=record.text,
        location=record.location,
        score=score,
        metadata=record.metadata,
        similarity=similarity,
        vector=row.vector if with_vectors else None,
    )
