"""Rows of Milvus to chunks and back, and the expressions that pick rows.

Metadata is one JSON column, not a column for each field: 2.3 knows neither
nullable fields nor adding one to a collection, so "the document lacks the
field" has no other portable form; a path that is not there matches no
comparison, and a new field needs no change of the collection.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from retrieval.core.model import ChunkRecord, Hit, Place, StoredChunk, Vectors
from retrieval.core.words import words

VECTOR = "vector"
WORDS = "words"
SPARSE = "sparse"
SCOPE = "scope"
METADATA = "metadata"
LOOSE = "$meta"  # as Milvus calls fields that are in the rows and not in the schema
# Always given: Lite returns every field, vectors too, when they are not.
HIT_FIELDS = ["document", "title", "ordinal", "text", "location", METADATA]
RECORD_FIELDS = ["id", "version", *HIT_FIELDS]

TEXT_MAX_BYTES = 65_535  # Milvus' own bound of a VARCHAR
_SCOPE_DIGITS = 32  # 128 bits


def literal(value: str) -> str:
    """The value as a string of Milvus' expression language. Neither Lite nor 2.3 has templates."""
    return json.dumps(value, ensure_ascii=False)


def within(place: Place, *conditions: str) -> str:
    """All conditions and, first of all, that the row is the place's. Empty: every row."""
    bound = [f"{SCOPE} == {literal(place.scope)}"] if place.scope else []
    return " and ".join(bound + [f"({condition})" for condition in conditions if condition])


def one_of(field: str, values: Iterable[str]) -> str:
    """`field in [...]`."""
    return f"{field} in [{', '.join(map(literal, values))}]"


def key(place: Place, id_: str) -> str:
    """The row's primary key: ids of different scopes must not meet in a shared collection."""
    return key_prefix(place) + id_


def key_prefix(place: Place) -> str:
    """What keys of the place's scope begin with."""
    if not place.scope:
        return ""
    return hashlib.sha256(place.scope.encode()).hexdigest()[:_SCOPE_DIGITS] + "-"


def loose_name(field: str) -> str:
    """Of a metadata field; never that of a column."""
    return f"m_{field}"


def to_rows(
    place: Place, records: Sequence[ChunkRecord], vectors: Vectors, *, sparse: bool, loose: bool
) -> list[dict[str, Any]]:
    """As Milvus stores them; `sparse`: with their words; `loose`: with metadata as loose fields too."""
    scope = {SCOPE: place.scope} if place.scope else {}
    return [
        {
            "id": key(place, record.id),
            "document": record.document,
            "title": record.title,
            "version": record.version,
            "ordinal": record.ordinal,
            "text": record.text,
            "location": record.location,
            METADATA: dict(record.metadata),
            VECTOR: vector,
            **({WORDS: _words(record)} if sparse else {}),
            **({loose_name(name): value for name, value in record.metadata.items()} if loose else {}),
            **scope,
        }
        for record, vector in zip(records, np.asarray(vectors, dtype=np.float32), strict=True)
    ]


def to_hit(place: Place, id_: str, entity: Mapping[str, Any], score: float) -> Hit:
    """From a row of a query."""
    return Hit(
        id=id_.removeprefix(key_prefix(place)),
        document=entity["document"],
        title=entity["title"],
        ordinal=entity["ordinal"],
        text=entity["text"],
        location=entity["location"],
        score=score,
        metadata=entity.get(METADATA, {}),
        vector=_vector(entity),
    )


def to_stored(place: Place, row: Mapping[str, Any]) -> StoredChunk:
    """From a row of a walk."""
    record = ChunkRecord(
        id=str(row["id"]).removeprefix(key_prefix(place)),
        document=row["document"],
        title=row["title"],
        version=row["version"],
        ordinal=row["ordinal"],
        text=row["text"],
        location=row["location"],
        metadata=row.get(METADATA, {}),
    )
    return StoredChunk(record=record, vector=_vector(row))


def _words(record: ChunkRecord) -> str:
    """Parted by spaces; what does not fit is of no use in a text so long."""
    joined = " ".join(words(record.searched_text))
    if len(joined.encode()) > TEXT_MAX_BYTES:
        joined = joined.encode()[:TEXT_MAX_BYTES].decode(errors="ignore").rpartition(" ")[0]
    return joined


def _vector(row: Mapping[str, Any]) -> Vectors | None:
    return np.asarray(row[VECTOR], dtype=np.float32) if VECTOR in row else None
