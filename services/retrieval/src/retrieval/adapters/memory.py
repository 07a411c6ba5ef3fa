"""A small exact vector store in memory: for unit tests, and to say what the contract means."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from retrieval.core.model import Capabilities, ChunkRecord, Hit, Vectors
from servicekit.errors import NotFound

_WORD = re.compile(r"\w+")
_K1, _B, _RRF_K = 1.2, 0.75, 60
_CANDIDATES = 2


class MemoryStore:
    """See `VectorStore`. Dense is exact; BM25 is the textbook's."""

    def __init__(self, *, sparse: bool = True) -> None:
        self._rows: dict[str, dict[str, tuple[ChunkRecord, Vectors]]] = {}
        self._aliases: dict[str, str] = {}
        self._capabilities = Capabilities(deployment="Memory", sparse=sparse, flush_after_ingest=False)

    async def connect(self) -> Capabilities:
        """Nothing to learn."""
        return self._capabilities

    async def capabilities(self) -> Capabilities:
        """What was given."""
        return self._capabilities

    async def ensure_collection(self, *, alias: str, collection: str, dimension: int) -> bool:
        """Makes it if it is not there."""
        created = collection not in self._rows
        self._rows.setdefault(collection, {})
        self._aliases[alias] = collection
        return created

    async def drop_collection(self, collection: str, *, alias: str | None = None) -> None:
        """Forgets it."""
        self._rows.pop(collection, None)
        if alias is not None and self._aliases.get(alias) == collection:
            del self._aliases[alias]

    async def upsert(self, collection: str, records: Sequence[ChunkRecord], vectors: Vectors) -> None:
        """By id."""
        rows = self._collection(collection)
        for record, vector in zip(records, vectors, strict=True):
            rows[record.id] = record, np.asarray(vector, dtype=np.float32)

    async def delete_document(
        self, collection: str, document: str, *, keep_version: str | None = None
    ) -> None:
        """By document."""
        rows = self._collection(collection)
        for id_, (record, _) in list(rows.items()):
            if record.document == document and record.version != keep_version:
                del rows[id_]

    async def flush(self, collection: str) -> None:
        """Nothing to do."""
        self._collection(collection)

    async def search_dense(
        self, alias: str, vector: Vectors, *, limit: int, min_similarity: float | None = None
    ) -> list[Hit]:
        """All of them compared."""
        ranked = self._ranked(alias, _similarity(vector))
        return [
            _hit(record, score)
            for record, score, _ in ranked[:limit]
            if min_similarity is None or score >= min_similarity
        ]

    async def search_sparse(self, alias: str, text: str, *, limit: int) -> list[Hit]:
        """Only those that share a word."""
        return [_hit(record, score) for record, score, _ in self._sparse(alias, text)[:limit]]

    async def search_hybrid(
        self, alias: str, vector: Vectors, text: str, *, limit: int, min_similarity: float | None = None
    ) -> list[Hit]:
        """Reciprocal ranks of both."""
        candidates = limit * _CANDIDATES
        scores: defaultdict[str, float] = defaultdict(float)
        found: dict[str, tuple[ChunkRecord, Vectors]] = {}
        for ranked in (self._ranked(alias, _similarity(vector)), self._sparse(alias, text)):
            for rank, (record, _, other) in enumerate(ranked[:candidates], start=1):
                scores[record.id] += 1 / (_RRF_K + rank)
                found[record.id] = record, other
        similarity = _similarity(vector)
        hits = [
            _hit(found[id_][0], score)
            for id_, score in sorted(scores.items(), key=lambda item: -item[1])
            if min_similarity is None or similarity(*found[id_]) >= min_similarity
        ]
        return hits[:limit]

    async def count(self, collection: str) -> int:
        """Exact."""
        return len(self._collection(collection))

    async def chunk_ids(self, collection: str, document: str) -> list[str]:
        """By ordinal."""
        records = [r for r, _ in self._collection(collection).values() if r.document == document]
        return [record.id for record in sorted(records, key=lambda record: (record.ordinal, record.id))]

    async def close(self) -> None:
        """Nothing to end."""

    def _collection(self, name: str) -> dict[str, tuple[ChunkRecord, Vectors]]:
        rows = self._rows.get(self._aliases.get(name, name))
        if rows is None:
            raise NotFound(f"no collection {name}", reason="COLLECTION_NOT_FOUND")
        return rows

    def _ranked(
        self, alias: str, score: Callable[[ChunkRecord, Vectors], float]
    ) -> list[tuple[ChunkRecord, float, Vectors]]:
        rows = [
            (record, score(record, vector), vector) for record, vector in self._collection(alias).values()
        ]
        return sorted(rows, key=lambda row: -row[1])

    def _sparse(self, alias: str, text: str) -> list[tuple[ChunkRecord, float, Vectors]]:
        score = _bm25([record.text for record, _ in self._collection(alias).values()], text)
        return [row for row in self._ranked(alias, lambda record, _: score(record.text)) if row[1] > 0]


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _bm25(texts: Iterable[str], query: str) -> Callable[[str], float]:
    documents = [_words(text) for text in texts]
    average = sum(map(len, documents)) / max(1, len(documents)) or 1.0
    frequency = Counter(word for document in documents for word in set(document))
    idf = {
        word: math.log(1 + (len(documents) - frequency[word] + 0.5) / (frequency[word] + 0.5))
        for word in _words(query)
    }

    def score(text: str) -> float:
        words = _words(text)
        counts = Counter(words)
        length = _K1 * (1 - _B + _B * len(words) / average)
        return sum(
            weight * counts[word] * (_K1 + 1) / (counts[word] + length) for word, weight in idf.items()
        )

    return score


def _similarity(query: Vectors) -> Callable[[ChunkRecord, Vectors], float]:
    def score(_: ChunkRecord, vector: Vectors) -> float:
        norm = float(np.linalg.norm(query) * np.linalg.norm(vector))
        return float(query @ vector) / norm if norm else 0.0

    return score


def _hit(record: ChunkRecord, score: float) -> Hit:
    return Hit(
        id=record.id,
        document=record.document,
        title=record.title,
        ordinal=record.ordinal,
        text=record.text,
        location=record.location,
        score=score,
    )
