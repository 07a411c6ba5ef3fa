"""Fakes of the ports of the embedding core."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from embedding.core.ports import EmbedResult, ModelInfo, ModelSpec, SecretRef, Source, TextKind


class FakeEmbedder:
    """Vectors that point in one direction; remembers what it was asked."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.closed = False
        self.calls: list[tuple[list[str], TextKind]] = []

    async def describe(self) -> ModelInfo:
        return ModelInfo(name="fake", dimension=2, max_input_tokens=8, fingerprint="f", provider="onnx")

    async def embed(self, texts: Sequence[str], kind: TextKind) -> EmbedResult:
        self.calls.append((list(texts), kind))
        vectors = np.tile(np.array([1, 0], np.float32), (len(texts), 1))
        cut = [i for i, text in enumerate(texts) if len(text) > 8]
        return EmbedResult(vectors=vectors, truncated=cut, tokens=[1] * len(texts))

    async def aclose(self) -> None:
        assert not self.closed
        self.closed = True


class FakeOpen:
    """`OpenEmbedder` that makes fakes and keeps them."""

    def __init__(self) -> None:
        self.opened: list[FakeEmbedder] = []

    async def __call__(self, source: Source) -> FakeEmbedder:
        self.opened.append(FakeEmbedder(source))
        return self.opened[-1]


class FakeSpecs:
    """`ModelSpecs` in a dict."""

    def __init__(self, specs: Mapping[tuple[str, str], ModelSpec]) -> None:
        self.specs = dict(specs)

    def find(self, namespace: str, name: str) -> ModelSpec | None:
        return self.specs.get((namespace, name))


class FakeSecrets:
    """`Secrets` with one value that a test may change."""

    def __init__(self, value: str = "secret") -> None:
        self.value = value

    async def read(self, namespace: str, ref: SecretRef, *, lines: bool = False) -> str:
        return f"{namespace}/{ref.name}/{ref.key}={self.value}"
