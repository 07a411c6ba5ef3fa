"""Queries to measure with: what was asked, and where that is too little, what could be."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import numpy as np

from retrieval.core.model import StoredChunk, Vectors
from retrieval.core.tuning.truth import unit

# Cosine of about 0.8 to the chunk that it was made of, as questions have to their best chunk.
_OTHER = 0.35
_BLUR = 0.6
_LOOKED_THROUGH = 20_000  # chunks at most; ids are hashes, so the first ones are any ones


@dataclass(frozen=True, slots=True)
class Queries:
    """Vectors of length 1; real and made ones alternate as evenly as can be."""

    vectors: Vectors
    real: int


def mix(real: Vectors, made: Vectors, *, rng: np.random.Generator) -> Queries:
    """Shuffled, so that every part of them has its share of both."""
    both = np.concatenate([real, made]) if len(real) and len(made) else (real if len(real) else made)
    # Real ones first: dealing gives both parts their share of them.
    order = np.concatenate([rng.permutation(len(real)), len(real) + rng.permutation(len(made))])
    return Queries(unit(both[order.astype(int)]), len(real))


def blurred(chunks: Vectors, count: int, *, rng: np.random.Generator) -> Vectors:
    """Like questions about the chunks: near one of them, drawn towards another, and a little beside."""
    if not len(chunks) or count <= 0:
        return np.empty((0, chunks.shape[1] if chunks.ndim == 2 else 0), dtype=np.float32)
    chunks = unit(chunks)
    one = chunks[rng.integers(len(chunks), size=count)]
    other = chunks[rng.integers(len(chunks), size=count)]
    noise = unit(rng.standard_normal(one.shape).astype(np.float32))
    return unit(one + _OTHER * other + _BLUR * noise)


async def some_vectors(
    chunks: AsyncIterator[list[StoredChunk]], count: int, *, rng: np.random.Generator
) -> Vectors:
    """A random choice from the first chunks."""
    kept: list[Vectors] = []
    seen = 0
    async for batch in chunks:
        for chunk in batch:
            if chunk.vector is None:
                continue
            seen += 1
            if len(kept) < count:
                kept.append(chunk.vector)
            elif (place := int(rng.integers(seen))) < count:
                kept[place] = chunk.vector
        if seen >= _LOOKED_THROUGH:
            break
    return np.asarray(kept, dtype=np.float32)
