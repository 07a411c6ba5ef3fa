"""Knowledge and vectors, by hand: searches find what a test says."""

import asyncio
from dataclasses import dataclass, field

import numpy as np

from orchestrator.core.model import Chunk, Embedding, SearchQuery, SearchResult


def chunk(name: str, text: str = "") -> Chunk:
    """A chunk."""
    text = text or f"text of {name}: the warranty"
    return Chunk(id=name, document=f"d/{name}", title=f"{name}.md", text=text, score=1.0)


def ok(*names: str) -> SearchResult:
    """A search that found these chunks."""
    return SearchResult(outcome="OK", chunks=tuple(chunk(name) for name in names), ready_documents=1)


@dataclass
class FakeKnowledge:
    """Results are taken one after the other; the last one again and again."""

    results: list[SearchResult | Exception] = field(default_factory=lambda: [ok("a", "b")])
    queries: list[SearchQuery] = field(default_factory=list)
    gate: asyncio.Event | None = None
    now: str = ""  # the revision

    async def search(self, query: SearchQuery) -> SearchResult:
        """See Knowledge."""
        self.queries.append(query)
        if self.gate is not None:
            await self.gate.wait()
        result = self.results.pop(0) if len(self.results) > 1 else self.results[0]
        if isinstance(result, Exception):
            raise result
        return result

    async def revision(self, knowledge_base: str) -> str:
        """See Knowledge."""
        return self.now


@dataclass
class FakeEmbedder:
    """Vectors that the test names; other texts are orthogonal to all."""

    angles: dict[str, float] = field(default_factory=dict)
    error: Exception | None = None
    texts: list[str] = field(default_factory=list)

    async def embed_query(self, model: str, text: str) -> Embedding:
        """See Embedder."""
        self.texts.append(text)
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        return self.vector(text)

    def vector(self, text: str) -> Embedding:
        """The text's."""
        out = np.zeros(3, dtype=np.float32)
        if text in self.angles:
            out[:2] = np.cos(self.angles[text]), np.sin(self.angles[text])
        else:
            out[2] = 1.0
        return Embedding(vector=out, model_fingerprint=f"fp-{len(out)}")
