"""Any endpoint that speaks OpenAI's embeddings API."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import itertools
import random
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import numpy as np
from openai import APIStatusError, AsyncOpenAI, DefaultAsyncHttpxClient, OpenAIError, omit
from openai.types import CreateEmbeddingResponse

from embedding.adapters.openai_errors import failure, is_retryable, shorten, too_long
from embedding.core.admission import Admission
from embedding.core.ports import EmbedResult, ModelInfo, RemoteSource, TextKind, Vectors
from embedding.core.slots import Slots
from servicekit.context import remaining_s
from servicekit.errors import FailedPrecondition, Internal, ServiceError

_BATCH_TEXTS = 128
# OpenAI takes 300,000 tokens a request; ours are estimates.
_BATCH_BYTES = 600_000
_DEFAULT_MAX_TOKENS = 8191
# Bytes of text to one token: English 4.2, code 3, never less than 1.
_BYTES_PER_TOKEN = (4.0, 2.0, 1.0)
_SPECIAL_TOKENS = 2
_CONNECT_S = 5.0
_BACKOFF_S, _BACKOFF_MAX_S = 0.25, 4.0
# A longer Retry-After is the caller's business: it is told at once.
_WAIT_MAX_S = 10.0
_PROBE = "How many elements does a vector have?"


@dataclass(frozen=True, slots=True)
class _Part:
    vectors: Vectors
    cut: list[int]
    tokens: list[int]


class OpenAIEmbedder:
    """`Embedder` over an endpoint. The dimension is learnt from its first answer.

    Retries are its own, not the client's: those sleep through a Retry-After
    that is longer than the caller's deadline, and the reason is lost.

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
        self._sleep = sleep
        self._slots = Slots(source.max_concurrent)
        self._max_tokens = _DEFAULT_MAX_TOKENS
        self._dimension: int | None = None
        self._client = AsyncOpenAI(
            base_url=source.url,
            # The client insists on a key; endpoints without one ignore it.
            api_key=source.api_key or "none",
            max_retries=0,
            default_headers=dict(source.headers),
            http_client=_trusting(source) if source.authorities else None,
        )

    async def describe(self) -> ModelInfo:
        """What is known; embeds a probe if nothing has been embedded yet."""
        if self._dimension is None:
            await self.embed([_PROBE], TextKind.QUERY)
        assert self._dimension is not None
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
            raise self._nonsense("its vectors differ in dimension")
        return EmbedResult(
            vectors=np.concatenate([part.vectors for part in parts]) if len(parts) > 1 else parts[0].vectors,
            truncated=[a + i for (a, _), part in zip(batches, parts, strict=True) for i in part.cut],
            tokens=[tokens for part in parts for tokens in part.tokens],
        )

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._client.close()

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
        for attempt in itertools.count():
            try:
                return await self._attempt(texts, kind)
            except (OpenAIError, TimeoutError) as exc:
                if isinstance(exc, APIStatusError) and (found := too_long(exc)) is not None:
                    raise _TooLong(exc, found.limit) from exc
                error = failure(self._source, exc)
                if attempt >= self._source.max_retries or not is_retryable(exc):
                    raise error from exc
                wait = self._wait_s(attempt, error)
                if wait is None:
                    raise error from exc
                await self._sleep(wait)
        raise AssertionError("the loop ends by return or raise")

    async def _attempt(self, texts: list[str], kind: TextKind) -> CreateEmbeddingResponse:
        async with self._slots.hold(urgent=kind is TextKind.QUERY):
            left = remaining_s()
            allowed = self._source.timeout.total_seconds()
            allowed = allowed if left is None else max(0.001, min(allowed, left))
            try:
                # The client's own time-outs are for each read; this is for the whole.
                async with asyncio.timeout(allowed):
                    response = await self._client.embeddings.create(
                        model=self._source.model,
                        input=texts,
                        encoding_format="base64",
                        dimensions=self._source.dimensions or omit,
                        timeout=allowed,
                    )
            except ValueError as exc:
                raise self._nonsense(f"its answer is no JSON: {exc}") from exc
        if not isinstance(response, CreateEmbeddingResponse):
            raise self._nonsense(
                "its answer is no JSON; check that the URL ends in the API's path, as in /v1"
            )
        return response

    def _wait_s(self, attempt: int, error: ServiceError) -> float | None:
        """How long to wait before the next attempt; None: the caller's time is too short."""
        if error.retry_after is not None:
            wait = error.retry_after.total_seconds()
        else:
            wait = min(_BACKOFF_S * 2**attempt, _BACKOFF_MAX_S) * random.uniform(0.75, 1.0)
        left = remaining_s()
        if wait > _WAIT_MAX_S or (left is not None and wait >= left):
            return None
        return wait

    def _vectors(self, response: CreateEmbeddingResponse, count: int) -> Vectors:
        items = response.data if isinstance(response.data, list) else []
        if len(items) != count:
            raise self._nonsense(f"it gave {len(items)} vectors for {count} texts")
        try:
            items = sorted(items, key=lambda item: item.index)
            rows = [_decode(item.embedding) for item in items]
            if [item.index for item in items] != list(range(count)):
                raise self._nonsense("the indexes of its vectors are not those of the texts")
            vectors = np.stack(rows).astype(np.float32, copy=False)
        except (ValueError, TypeError, AttributeError, binascii.Error) as exc:
            raise self._nonsense(f"its vectors cannot be read: {shorten(str(exc))}") from exc
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        if vectors.shape[1] == 0 or not np.all(np.isfinite(lengths)) or not np.all(lengths > 0):
            raise self._nonsense("a vector of it has no direction (zero, or not a number)")
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
            raise self._nonsense(
                f"its vectors have {vectors.shape[1]} elements, earlier ones had {self._dimension}"
            )
        normal: Vectors = vectors / lengths
        return normal

    def _nonsense(self, what: str) -> Internal:
        return Internal(
            f"model {self._source.model} at {self._source.url}: {what}",
            reason="MODEL_BAD_RESPONSE",
            metadata={"model": self._source.model, "endpoint": self._source.url},
        )


class _TooLong(Exception):
    """The endpoint refused a text for its length; `limit` is what it says it takes."""

    def __init__(self, error: APIStatusError, limit: int | None) -> None:
        super().__init__(str(error))
        self.error, self.limit = error, limit


def _trusting(source: RemoteSource) -> DefaultAsyncHttpxClient:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cadata=source.authorities)
    except ssl.SSLError as exc:
        raise FailedPrecondition(
            f"model {source.model} at {source.url}: tls.caSecretKeyRef holds no certificates (PEM)",
            reason="MODEL_REJECTED",
            metadata={"model": source.model, "endpoint": source.url},
        ) from exc
    return DefaultAsyncHttpxClient(verify=context)


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
