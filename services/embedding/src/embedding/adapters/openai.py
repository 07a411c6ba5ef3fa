"""Any endpoint that speaks OpenAI's embeddings API."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import itertools
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import numpy as np
from openai import APIStatusError, AsyncOpenAI, OpenAIError, omit
from openai.types import CreateEmbeddingResponse

from embedding.adapters.endpoint import Endpoint
from embedding.adapters.openai_errors import failure, shorten, too_long
from embedding.core.admission import Admission
from embedding.core.flight import Flight
from embedding.core.ports import EmbedResult, ModelInfo, RemoteSource, TextKind, Vectors
from servicekit.errors import FailedPrecondition, ServiceError

_BATCH_TEXTS = 128
# OpenAI takes 300,000 tokens a request; ours are estimates.
_BATCH_BYTES = 600_000
_DEFAULT_MAX_TOKENS = 8191
# Bytes of text to one token: English 4.2, code 3, never less than 1.
_BYTES_PER_TOKEN = (4.0, 2.0, 1.0)
_SPECIAL_TOKENS = 2
_PROBE = "How many elements does a vector have?"


@dataclass(frozen=True, slots=True)
class _Part:
    vectors: Vectors
    cut: list[int]
    tokens: list[int]


class OpenAIEmbedder:
    """`Embedder` over an endpoint. The dimension is learnt from its first answer.

    Args:
        source: Where, what and with which key.
        admission: The bound on what waits.
        sleep: Waits that many seconds between attempts.
    """

    def __init__(
        self,
        source: RemoteSource,
        *,
        admission: Admission,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._source = source
        self._admission = admission
        self._endpoint = Endpoint(source, sleep=sleep)
        self._max_tokens = _DEFAULT_MAX_TOKENS
        self._dimension: int | None = None
        self._probe: Flight[EmbedResult] | None = None

    async def describe(self) -> ModelInfo:
        """What is known; embeds a probe if nothing has been embedded yet."""
        while self._dimension is None:
            # One probe, however many ask at once.
            mine = self._probe is None or self._probe.ended
            if self._probe is None or mine:
                self._probe = Flight(self.embed([_PROBE], TextKind.QUERY))
            probe = self._probe
            with probe.joined():
                try:
                    await probe.result()
                except ServiceError:
                    if mine or not probe.timed_out:
                        raise
        # The URL is part of it: two endpoints may serve different models under one name.
        identity = f"{self._source.url.rstrip('/')}\n{self._source.model}\n{self._dimension}"
        return ModelInfo(
            name=self._source.model,
            dimension=self._dimension,
            max_input_tokens=self._max_tokens,
            fingerprint=hashlib.sha256(identity.encode()).hexdigest()[:16],
            provider="openai",
        )

    async def embed(self, texts: Sequence[str], kind: TextKind) -> EmbedResult:
        """Embeds in requests of at most 128 texts, several at a time."""
        batches = _batches(texts)
        with self._admission.hold(len(texts)):
            if len(batches) == 1:
                parts = [await self._part(texts, kind)]
            else:
                try:
                    async with asyncio.TaskGroup() as group:
                        tasks = [group.create_task(self._part(texts[a:b], kind)) for a, b in batches]
                except ExceptionGroup as failed:
                    raise failed.exceptions[0] from failed
                parts = [task.result() for task in tasks]
        if len({part.vectors.shape[1] for part in parts}) > 1:
            raise self._endpoint.nonsense("its vectors differ in dimension")
        return EmbedResult(
            vectors=np.concatenate([part.vectors for part in parts]) if len(parts) > 1 else parts[0].vectors,
            truncated=[a + i for (a, _), part in zip(batches, parts, strict=True) for i in part.cut],
            tokens=[tokens for part in parts for tokens in part.tokens],
        )

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._endpoint.aclose()

    async def _part(self, texts: Sequence[str], kind: TextKind) -> _Part:
        """One request; again with shorter texts, if the endpoint finds one too long."""
        refused: APIStatusError | None = None
        densities = iter(_BYTES_PER_TOKEN)
        density = next(densities)
        while True:
            limit = max(1, int((self._max_tokens - _SPECIAL_TOKENS) * density))
            shown = [cut_bytes(text, limit) for text in texts]
            try:
                response = await self._request(shown, kind)
            except _TooLong as exc:
                refused = exc.error
                # What the endpoint says about its limit is worth more than what we assumed.
                if exc.limit is not None and exc.limit < self._max_tokens:
                    self._max_tokens = exc.limit
                elif (shorter := next(densities, None)) is not None:
                    density = shorter
                else:
                    raise failure(self._source, refused) from refused
                continue
            cut = [index for index, (a, b) in enumerate(zip(texts, shown, strict=True)) if a != b]
            return _Part(self._vectors(response, len(texts)), cut, _tokens(response, shown))

    async def _request(self, texts: list[str], kind: TextKind) -> CreateEmbeddingResponse:
        async def send(client: AsyncOpenAI, allowed_s: float) -> CreateEmbeddingResponse:
            return await client.embeddings.create(
                model=self._source.model,
                input=texts,
                encoding_format="base64",
                dimensions=self._source.dimensions or omit,
                timeout=allowed_s,
            )

        def own(exc: OpenAIError | TimeoutError) -> _TooLong | None:
            found = too_long(exc) if isinstance(exc, APIStatusError) else None
            return None if found is None else _TooLong(exc, found.limit)  # type: ignore[arg-type]

        response = await self._endpoint.call(send, urgent=kind is TextKind.QUERY, own=own)
        if not isinstance(response, CreateEmbeddingResponse):
            raise self._endpoint.nonsense(
                "its answer is no JSON; check that the URL ends in the API's path, as in /v1"
            )
        return response

    def _vectors(self, response: CreateEmbeddingResponse, count: int) -> Vectors:
        items = response.data if isinstance(response.data, list) else []
        if len(items) != count:
            raise self._endpoint.nonsense(f"it gave {len(items)} vectors for {count} texts")
        try:
            items = sorted(items, key=lambda item: item.index)
            rows = [_decode(item.embedding) for item in items]
            if [item.index for item in items] != list(range(count)):
                raise self._endpoint.nonsense("the indexes of its vectors are not those of the texts")
            vectors = np.stack(rows).astype(np.float32, copy=False)
        except (ValueError, TypeError, AttributeError, binascii.Error) as exc:
            raise self._endpoint.nonsense(f"its vectors cannot be read: {shorten(str(exc))}") from exc
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        if vectors.shape[1] == 0 or not np.all(np.isfinite(lengths)) or not np.all(lengths > 0):
            raise self._endpoint.nonsense("a vector of it has no direction (zero, or not a number)")
        wanted = self._source.dimensions
        if wanted is not None and vectors.shape[1] != wanted:
            raise FailedPrecondition(
                f"model {self._source.model} at {self._source.url}: embedding.dimensions {wanted}: "
                f"asked for that many elements it gave {vectors.shape[1]}; leave the field out",
                reason="MODEL_REJECTED",
                metadata={"model": self._source.model, "endpoint": self._source.url},
            )
        if self._dimension is None:
            self._dimension = vectors.shape[1]
        elif vectors.shape[1] != self._dimension:
            raise self._endpoint.nonsense(
                f"its vectors have {vectors.shape[1]} elements, earlier ones had {self._dimension}"
            )
        normal: Vectors = vectors / lengths
        return normal


class _TooLong(Exception):
    """The endpoint refused a text for its length; `limit` is what it says it takes."""

    def __init__(self, error: APIStatusError, limit: int | None) -> None:
        super().__init__(str(error))
        self.error, self.limit = error, limit


def cut_bytes(text: str, limit: int) -> str:
    """The longest beginning of the text that is at most `limit` bytes of UTF-8."""
    if len(text) * 4 <= limit:  # no character has more than four
        return text
    coded = text.encode()
    return text if len(coded) <= limit else coded[:limit].decode(errors="ignore")


def _batches(texts: Sequence[str]) -> list[tuple[int, int]]:
    batches, start, size = [], 0, 0
    for index, text in enumerate(texts):
        if index > start and (index - start == _BATCH_TEXTS or size + len(text) > _BATCH_BYTES):
            batches.append((start, index))
            start, size = index, 0
        size += len(text)
    return [*batches, (start, len(texts))]


def _tokens(response: CreateEmbeddingResponse, texts: Sequence[str]) -> list[int]:
    lengths = list(map(len, texts))
    # Some endpoints leave it out, against their own API.
    count = getattr(getattr(response, "usage", None), "prompt_tokens", None)
    total, size = count if isinstance(count, int) else sum(lengths) // 4, sum(lengths)
    # Shares by length whose sum is the total.
    ends = [total * end // size for end in itertools.accumulate(lengths)]
    return [end - start for start, end in itertools.pairwise([0, *ends])]


def _decode(embedding: object) -> Vectors:
    if isinstance(embedding, str):
        return np.frombuffer(base64.b64decode(embedding, validate=True), dtype="<f4")
    return np.asarray(embedding, dtype=np.float32)  # endpoints that know no base64
