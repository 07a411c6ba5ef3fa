"""What a worker does with one document while it holds the claim: parse, embed, write."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

import numpy as np

from retrieval import metrics
from retrieval.core.filters import DOCUMENT, Compare, Operator
from retrieval.core.ingest_limits import IngestLimits
from retrieval.core.model import (
    ChunkDraft,
    ChunkRecord,
    Claim,
    DocumentError,
    Embedded,
    KnowledgeBase,
    ParsedDocument,
    Place,
    Vectors,
)
from retrieval.core.names import chunk_id
from retrieval.core.ports import BlobStore, DocumentUnreadable, Embedder, Parser, VectorStore
from retrieval.core.tokens import EstimatedTokens
from servicekit.clock import Clock
from servicekit.errors import NotFound, ResourceExhausted, Unavailable

# On Lite a search pays 0.07 ms a row for vectors and 0.18 ms for words until they are flushed; a flush
# takes 30 ms however few they are, and many segments cost a search nothing (measured to 20,000 rows in
# 100 of them). Beside 20 rows a second, searches took half as long with 64 as with 200.
_FLUSH_ROWS = 64
_MAX_NAP = timedelta(seconds=10)
_MAX_REST_S = 0.5
_TOKENS = EstimatedTokens()

StillOurs = Callable[[], Awaitable[None]]


class Saturated(Exception):
    """The model has had no room for long: another worker may take the document when it has."""

    def __init__(self, retry_after: timedelta) -> None:
        super().__init__("the embedding service has no room")
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True, kw_only=True)
class Indexed:
    """What was written."""

    chunk_count: int
    warnings: tuple[str, ...]


class Indexer:
    """Writes the chunks of documents, each row marked with the claim's token."""

    def __init__(
        self,
        *,
        store: VectorStore,
        embedder: Embedder,
        blobs: BlobStore,
        parser: Parser,
        clock: Clock,
        limits: IngestLimits,
    ) -> None:
        self._store = store
        self._embedder = embedder
        self._blobs = blobs
        self._parser = parser
        self._clock = clock
        self._limits = limits
        self._unflushed: dict[Place, int] = {}
        self._writing = asyncio.Lock()

    async def index(self, claim: Claim, knowledge_base: KnowledgeBase, still_ours: StillOurs) -> Indexed:
        """Writes all chunks, then removes those that other claims wrote.

        Args:
            still_ours: Called before each write; raises if the claim is lost.

        Raises:
            DocumentUnreadable: The document is at fault.
            Saturated: Put it back into the queue; nothing is wrong.
        """
        copied = await self._copy(claim, knowledge_base, still_ours)
        if copied is not None:
            return copied
        parsed = await self._parse(claim, knowledge_base, still_ours)
        truncated = await self._store_chunks(claim, knowledge_base, parsed.chunks, still_ours)
        await self._complete(claim, knowledge_base, len(parsed.chunks), still_ours)
        warnings = parsed.warnings
        if truncated:
            warnings += (
                f"{truncated} of {len(parsed.chunks)} chunks are longer than the model reads; their vectors "
                "stand for their beginnings only",
            )
        return Indexed(chunk_count=len(parsed.chunks), warnings=warnings)

    async def flush_all(self) -> None:
        """The queue is empty for now."""
        while self._unflushed:
            place, _ = self._unflushed.popitem()
            await self._gently(lambda: self._flush_now(place))  # noqa: B023  # awaited at once

    async def _complete(
        self, claim: Claim, knowledge_base: KnowledgeBase, rows: int, still_ours: StillOurs
    ) -> None:
        """All is written: what other claims wrote goes."""
        await still_ours()
        with metrics.ingest_stage("insert"):
            if not claim.first:  # on Lite a deletion looks at every row, and searches wait for it
                await self._gently(
                    lambda: self._store.delete_document(
                        knowledge_base.place, claim.document.id, keep_version=claim.token
                    )
                )
            await self._store.settle(knowledge_base.place)  # READY means found
        await self._flush(knowledge_base.place, rows=rows)

    async def _copy(
        self, claim: Claim, knowledge_base: KnowledgeBase, still_ours: StillOurs
    ) -> Indexed | None:
        """Of a document that has moved, or has other metadata and so moves to itself: its chunks with their
        vectors; None if they are not all there.
        """
        document = claim.document
        if not document.moved_from:
            return None
        place = knowledge_base.place
        former = Compare(DOCUMENT, Operator.EQUAL, document.moved_from)
        ordinals: set[int] = set()
        try:
            async for batch in self._store.iterate(place, filter=former, with_vectors=True):
                chunks = [
                    (_moved(chunk.record, claim), chunk.vector)
                    for chunk in batch
                    if chunk.record.version == document.version and chunk.vector is not None
                ]
                if not chunks:
                    continue
                ordinals.update(record.ordinal for record, _ in chunks)
                await still_ours()
                with metrics.ingest_stage("insert"):
                    await self._write(
                        knowledge_base,
                        [record for record, _ in chunks],
                        np.stack([vector for _, vector in chunks]),
                    )
            if len(ordinals) != document.chunk_count:
                await still_ours()
                if document.moved_from != document.id:  # else they can still be found meanwhile
                    await self._store.delete_document(place, document.id)
                return None
        except NotFound:
            return None
        await self._complete(claim, knowledge_base, len(ordinals), still_ours)
        return Indexed(chunk_count=len(ordinals), warnings=document.warnings)

    async def _parse(
        self, claim: Claim, knowledge_base: KnowledgeBase, still_ours: StillOurs
    ) -> ParsedDocument:
        document = claim.document
        try:
            async with self._blobs.local_path(document.blob) as file:
                with metrics.ingest_stage("parse"):
                    return await self._parser.parse(
                        file,
                        path=document.path,
                        media_type=document.media_type,
                        chunking=knowledge_base.spec.chunking,
                    )
        except NotFound as error:
            await still_ours()  # replaced meanwhile: its original is gone, rightly
            raise DocumentUnreadable(
                DocumentError(
                    reason="DOCUMENT_NOT_FOUND",
                    message="the stored original is missing; upload the document again",
                )
            ) from error

    async def _store_chunks(
        self,
        claim: Claim,
        knowledge_base: KnowledgeBase,
        drafts: Sequence[ChunkDraft],
        still_ours: StillOurs,
    ) -> int:
        """Embeds and writes batch by batch; returns how many texts the model has cut."""
        truncated = 0
        for start, batch in batches(drafts, chunks=self._limits.batch, tokens=self._limits.batch_tokens):
            embedded = await self._embed(knowledge_base, [draft.embedded_text for draft in batch])
            truncated += len(embedded.truncated)
            await still_ours()
            records = [_record(claim, ordinal, draft) for ordinal, draft in enumerate(batch, start=start)]
            with metrics.ingest_stage("insert"):
                await self._write(knowledge_base, records, embedded.vectors)
        return truncated

    async def _embed(self, knowledge_base: KnowledgeBase, texts: Sequence[str]) -> Embedded:
        embedded = await self._embed_when_there_is_room(knowledge_base.spec.embedding_model, texts)
        if embedded.fingerprint != knowledge_base.model_fingerprint:
            raise Unavailable(
                f"{knowledge_base.spec.embedding_model} makes other vectors than when "
                f"{knowledge_base.name} was created; create it again "
                "with the same fields to index its documents anew",
                reason="MODEL_UNAVAILABLE",
            )
        return embedded

    async def _embed_when_there_is_room(self, model: str, texts: Sequence[str]) -> Embedded:
        """Waits as long as the service says that it has no room: that is how it slows us down."""
        began = self._clock.monotonic()
        while True:
            try:
                with metrics.ingest_stage("embed"):
                    return await self._embedder.embed_passages(model, texts)
            except ResourceExhausted as error:
                if error.retry_after is None:
                    raise
                if self._clock.monotonic() - began >= self._limits.back_pressure.total_seconds():
                    raise Saturated(error.retry_after) from error
                nap = min(error.retry_after, _MAX_NAP)
            # Workers that were refused together must not come back together.
            await asyncio.sleep(nap.total_seconds() * random.uniform(1, 1.5))

    async def _write(
        self, knowledge_base: KnowledgeBase, records: Sequence[ChunkRecord], vectors: Vectors
    ) -> None:
        try:
            await self._gently(lambda: self._to_its_end(knowledge_base.place, records, vectors))
        except NotFound as error:
            raise Unavailable(
                f"the collection of {knowledge_base.name} is missing in Milvus; create the knowledge base "
                "again with the same fields",
                reason="DEPENDENCY_UNAVAILABLE",
                metadata={"dependency": "milvus"},  # so that the next comparison, which makes it, comes soon
            ) from error

    async def _to_its_end(self, place: Place, records: Sequence[ChunkRecord], vectors: Vectors) -> None:
        """A write that has begun is ended even if the worker stops: afterwards nothing of it may come."""
        write = asyncio.ensure_future(self._store.upsert(place, records, vectors))
        try:
            await asyncio.shield(write)
        except asyncio.CancelledError:
            await asyncio.wait([write])
            write.result()  # a failure says that the store may still do it: the lease must run out
            raise

    async def _flush(self, place: Place, *, rows: int) -> None:
        """Lite only, and not after each small document: every flush makes a segment."""
        if not (await self._store.capabilities()).flush_after_ingest:
            return
        waiting = self._unflushed.get(place, 0) + rows
        self._unflushed[place] = waiting
        if waiting >= _FLUSH_ROWS:
            del self._unflushed[place]
            await self._gently(lambda: self._flush_now(place))

    async def _flush_now(self, place: Place) -> None:
        with metrics.ingest_stage("flush"):
            await self._store.flush(place)

    async def _gently(self, write: Callable[[], Awaitable[None]]) -> None:
        """On Lite, which does one call at a time: one write of ours, then as long for what else is asked."""
        if not (await self._store.capabilities()).flush_after_ingest:
            await write()
            return
        async with self._writing:
            began = self._clock.monotonic()
            await write()
            await asyncio.sleep(min(self._clock.monotonic() - began, _MAX_REST_S))


def batches(
    drafts: Sequence[ChunkDraft], *, chunks: int, tokens: int
) -> Iterator[tuple[int, Sequence[ChunkDraft]]]:
    """Pieces of at most so many chunks and about so many tokens, each with the place of its first chunk.

    The bound of tokens makes a batch of long chunks take no longer than one of short ones.
    """
    start = filled = 0
    for place, draft in enumerate(drafts):
        size = _TOKENS.count(draft.embedded_text)
        if place > start and (place - start == chunks or filled + size > tokens):
            yield start, drafts[start:place]
            start, filled = place, 0
        filled += size
    if start < len(drafts):
        yield start, drafts[start:]


def _moved(record: ChunkRecord, claim: Claim) -> ChunkRecord:
    document = claim.document
    return replace(
        record,
        id=document.id + record.id.removeprefix(document.moved_from),
        document=document.id,
        title=document.path,
        version=claim.token,
        metadata=document.metadata,
    )


def _record(claim: Claim, ordinal: int, draft: ChunkDraft) -> ChunkRecord:
    return ChunkRecord(
        id=chunk_id(claim.document.id, ordinal, draft.text),
        document=claim.document.id,
        title=claim.document.path,
        version=claim.token,
        ordinal=ordinal,
        text=draft.text,
        location=draft.location,
        metadata=claim.document.metadata,
    )
