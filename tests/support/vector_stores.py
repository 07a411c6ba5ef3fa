"""Chunks to put into vector stores, and short forms of the calls that tests make."""

from typing import Any

import numpy as np

from retrieval.core.model import ChunkRecord, Hit, Place, Scalar, StoredChunk, Vectors
from retrieval.core.ports import VectorStore

DIMENSION = 8
HOSTILE = [
    'a" or document != "',
    'x" || 1 == 1 || document == "x',
    "back\\slash",
    'both \\" of them',
    "quote ' and new\nline and\ttab",
    "{x} %s $1 \u2028 𝒳 é",
    "\\u0041",
]


def record(
    ordinal: int,
    *,
    document: str = "d1",
    version: str = "v1",
    text: str = "some text",
    id_: str = "",
    **metadata: Scalar,
) -> ChunkRecord:
    """A chunk."""
    return ChunkRecord(
        id=id_ or f"{document}-{ordinal}",
        document=document,
        title=f"{document}.md",
        version=version,
        ordinal=ordinal,
        text=text,
        location="Top > Sub",
        metadata=metadata,
    )


def axis(number: int, *, towards: int | None = None, by: float = 0.0) -> Vectors:
    """A vector of length 1."""
    vector = np.zeros(DIMENSION, dtype=np.float32)
    vector[number] = 1
    if towards is not None:
        vector[towards] = by
    normed: Vectors = (vector / np.linalg.norm(vector)).astype(np.float32)
    return normed


def rows(*vectors: Vectors) -> Vectors:
    """One a row."""
    return np.stack(vectors)


async def put(store: VectorStore, place: Place, records: list[ChunkRecord], *vectors: Vectors) -> None:
    """Stored, and found from now on. Without vectors, each has an axis of its own."""
    vectors = vectors or tuple(axis(number % DIMENSION) for number in range(len(records)))
    await store.upsert(place, records, rows(*vectors))
    await store.settle(place)


async def dense(store: VectorStore, place: Place, vector: Vectors, **options: Any) -> list[Hit]:
    """A search by one vector."""
    (hits,) = await store.search_dense(place, rows(vector), **options)
    return hits


async def sparse(store: VectorStore, place: Place, text: str, **options: Any) -> list[Hit]:
    """A search by one text."""
    (hits,) = await store.search_sparse(place, [text], **options)
    return hits


async def walked(store: VectorStore, place: Place, **options: Any) -> list[StoredChunk]:
    """All that a walk meets."""
    return [chunk async for chunks in store.iterate(place, **options) for chunk in chunks]
