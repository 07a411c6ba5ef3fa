"""Makes the embedder of a source."""

from __future__ import annotations

import asyncio

from embedding.adapters.onnx import OnnxEmbedder
from embedding.adapters.openai import OpenAIEmbedder
from embedding.core.admission import Admission
from embedding.core.ports import Embedder, LocalSource, Source
from embedding.core.work import WorkQueue
from embedding.metrics import QUEUED


class Factory:
    """`OpenEmbedder` for all kinds of source.

    Args:
        threads: Batches of a local model at a time.
        max_queued_texts: Texts waiting or being embedded at a time, for each embedder.
    """

    def __init__(self, *, threads: int, max_queued_texts: int) -> None:
        self._threads = threads
        self._max_queued_texts = max_queued_texts

    async def __call__(self, source: Source) -> Embedder:
        """Loads a local model; a remote one is not called yet.

        Raises:
            ValueError: The folder of a local model is not what it should be.
        """
        provider = "onnx" if isinstance(source, LocalSource) else "openai"
        admission = Admission(max_texts=self._max_queued_texts, observe=QUEUED.labels(provider).inc)
        if isinstance(source, LocalSource):
            work = WorkQueue(threads=self._threads)
            return await asyncio.to_thread(OnnxEmbedder.load, source.folder, work=work, admission=admission)
        return OpenAIEmbedder(source, admission=admission)
