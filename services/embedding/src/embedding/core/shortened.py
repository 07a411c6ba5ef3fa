"""Vectors cut to fewer elements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from embedding.core.ports import Embedder, EmbedResult, ModelInfo, TextKind, Vectors
from servicekit.errors import FailedPrecondition


class Shortened:
    """`Embedder` that keeps the first elements of another's vectors, at length 1.

    Args:
        embedder: The other; its owner closes it.
        dimensions: Elements that are kept.
    """

    def __init__(self, embedder: Embedder, dimensions: int) -> None:
        self._embedder = embedder
        self._dimensions = dimensions

    async def describe(self) -> ModelInfo:
        """Another model than the whole one: their vectors do not compare.

        Raises:
            FailedPrecondition: MODEL_REJECTED; the model does not allow it.
        """
        info = await self._embedder.describe()
        if self._dimensions == info.dimension:
            return info
        if self._dimensions not in info.shorter:
            allowed = ", ".join(map(str, (*info.shorter, info.dimension)))
            raise FailedPrecondition(
                f"embedding.dimensions {self._dimensions}: model {info.name} gives vectors of {allowed} "
                "elements; name one of these, or leave the field out",
                reason="MODEL_REJECTED",
                metadata={"model": info.name, "dimensions": str(self._dimensions), "allowed": allowed},
            )
        fingerprint = f"{info.fingerprint}-{self._dimensions}"
        return replace(info, dimension=self._dimensions, fingerprint=fingerprint, shorter=())

    async def embed(self, texts: Sequence[str], kind: TextKind) -> EmbedResult:
        """See Embedder."""
        await self.describe()
        result = await self._embedder.embed(texts, kind)
        cut: Vectors = result.vectors[:, : self._dimensions]
        lengths = np.linalg.norm(cut, axis=1, keepdims=True)
        if not np.all(lengths > 0):
            raise ArithmeticError(f"a vector cut to {self._dimensions} elements has no direction")
        return replace(result, vectors=cut / lengths)

    async def aclose(self) -> None:
        """Nothing: the other's owner closes it."""
