"""Makes the model of a source."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from embedding.adapters.onnx import SMALL_CHARS, SMALL_TEXTS, OnnxEmbedder
from embedding.adapters.openai import OpenAIEmbedder
from embedding.adapters.rerank_endpoint import RerankEndpoint
from embedding.adapters.rerank_onnx import OnnxReranker
from embedding.core.admission import Admission
from embedding.core.batching import Batching, Bounds
from embedding.core.ports import Embedder, LocalSource, Reranker, Source
from embedding.core.work import WorkQueue
from embedding.metrics import BATCH_TEXTS, QUEUED, provider_known

# Of several callers in one request.
_REQUEST_TEXTS = 64
_REQUEST_CHARS = 32_000


class Factory:
    """`OpenEmbedder` for all kinds of source.

    Args:
        threads: Batches of a local model at a time.
        max_queued_texts: Texts waiting or being embedded at a time, for each embedder.
        gather: How long a text waits for others to share a request to an endpoint, while another is on
            its way.
    """

    def __init__(
        self, *, threads: int, max_queued_texts: int, gather: timedelta = timedelta(milliseconds=10)
    ) -> None:
        self._threads = threads
        self._max_queued_texts = max_queued_texts
        self._gather = gather

    async def __call__(self, source: Source) -> Embedder:
        """Loads a local model; a remote one is not called yet.

        Raises:
            ValueError: The folder of a local model is not what it should be.
        """
        provider = "onnx" if isinstance(source, LocalSource) else "openai"
        admission = Admission(max_texts=self._max_queued_texts, observe=QUEUED.labels(provider).inc)
        provider_known(provider)
        observe = BATCH_TEXTS.labels(provider).observe
        if isinstance(source, LocalSource):
            work = WorkQueue(threads=self._threads)
            local = await asyncio.to_thread(OnnxEmbedder.load, source.folder, work=work, admission=admission)
            # No wait: a free thread that waits is lost. What comes while all work is the next batch.
            bounds = Bounds(texts=SMALL_TEXTS, chars=SMALL_CHARS, lanes=self._threads)
            return Batching(local, bounds=bounds, admission=admission, observe=observe)
        bounds = Bounds(
            texts=_REQUEST_TEXTS, chars=_REQUEST_CHARS, lanes=source.max_concurrent, wait=self._gather
        )
        remote = OpenAIEmbedder(source, admission=admission)
        return Batching(remote, bounds=bounds, admission=admission, observe=observe)


class RerankFactory:
    """`Open[Reranker]` for all kinds of source.

    Args:
        threads: Pairs that a local model reads at a time.
        max_queued_texts: Passages waiting or being read at a time, for each model.
    """

    def __init__(self, *, threads: int, max_queued_texts: int) -> None:
        self._threads = threads
        self._max_queued_texts = max_queued_texts

    async def __call__(self, source: Source) -> Reranker:
        """Loads a local model; a remote one is not called yet.

        Raises:
            ValueError: The folder of a local model is not what it should be.
        """
        admission = Admission(max_texts=self._max_queued_texts, observe=QUEUED.labels("rerank").inc)
        if isinstance(source, LocalSource):
            work = WorkQueue(threads=self._threads)
            return await asyncio.to_thread(OnnxReranker.load, source.folder, work=work, admission=admission)
        return RerankEndpoint(source, admission=admission)
