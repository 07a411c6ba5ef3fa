"""Fakes of the ports of the embedding core."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from embedding.core.ports import EmbedResult, ModelInfo, Source, TextKind
from manifests import ModelConfig, Objects, SecretKeyRef


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


class FakeConfigs(Objects):
    """ModelConfigs in a dict, by namespace and name.

    Args:
        allowed: Which tenants may use them besides their own.
    """

    def __init__(
        self,
        specs: Mapping[tuple[str, str], Mapping[str, Any]],
        allowed: Mapping[tuple[str, str], tuple[str, ...]] | None = None,
    ) -> None:
        super().__init__()
        self.allowed = dict(allowed or {})
        self.configs = {
            (namespace, name): ModelConfig.model_validate_json(
                json.dumps({"metadata": {"namespace": namespace, "name": name}, "spec": spec})
            )
            for (namespace, name), spec in specs.items()
        }

    def model(self, namespace: str, name: str) -> ModelConfig | None:
        return self.configs.get((namespace, name))

    def model_tenants(self, namespace: str, name: str) -> tuple[str, ...]:
        return self.allowed.get((namespace, name), ())


class FakeSecrets:
    """`Secrets` with one value that a test may change."""

    def __init__(self, value: str = "secret") -> None:
        self.value = value

    def read(self, namespace: str, ref: SecretKeyRef, *, lines: bool = False) -> str:
        return f"{namespace}/{ref.name}/{ref.key}={self.value}"
