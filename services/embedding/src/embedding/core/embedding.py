"""The service's two calls, without gRPC."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from embedding.core.checks import check_texts, model_name
from embedding.core.memory import Memory
from embedding.core.models import Models
from embedding.core.ports import EmbedResult, ModelInfo, TextKind
from embedding.metrics import CACHE_BYTES, REMEMBERED, SECONDS, TEXTS, TOKENS, TRUNCATED


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedded:
    """Vectors and the model that made them."""

    info: ModelInfo
    result: EmbedResult


class Embedding:
    """Checks requests, finds the model, measures.

    Args:
        models: Where the models are.
        cache_bytes: Of vectors that are remembered; 0: none are.
    """

    def __init__(self, *, models: Models, cache_bytes: int = 0) -> None:
        self._models = models
        self._memory = Memory(max_bytes=cache_bytes, observe=CACHE_BYTES.inc)

    async def embed(self, namespace: str, model: str, texts: Sequence[str], kind: TextKind) -> Embedded:
        """Embeds texts with `models/{model}` of the namespace.

        Raises:
            InvalidArgument: A field is wrong; its violations name it.
            NotFound: MODEL_NOT_FOUND.
            ServiceError: As `Embedder.embed`.
        """
        name = model_name("model", model)
        check_texts(texts, "texts")
        started = time.perf_counter()
        async with self._models.lease(namespace, name) as embedder:
            done = await self._memory.embed(namespace, embedder, texts, kind)
            info = await embedder.describe()
        result = done.result
        labels = (info.provider, kind.value)
        SECONDS.labels(*labels).observe(time.perf_counter() - started)
        TEXTS.labels(*labels).inc(len(texts))
        TOKENS.labels(*labels).inc(done.tokens_read)
        for outcome, count in (
            ("hit", done.hits),
            ("shared", done.shared),
            ("miss", len(texts) - done.hits - done.shared),
        ):
            if count:
                REMEMBERED.labels(kind.value, outcome).inc(count)
        if result.truncated:
            TRUNCATED.labels(*labels).inc(len(result.truncated))
        return Embedded(info=info, result=result)

    async def describe(self, namespace: str, name: str) -> ModelInfo:
        """What `models/{model}` of the namespace is.

        Raises:
            InvalidArgument: The name is malformed.
            NotFound: MODEL_NOT_FOUND.
            ServiceError: As `Embedder.describe`.
        """
        async with self._models.lease(namespace, model_name("name", name)) as embedder:
            return await embedder.describe()
