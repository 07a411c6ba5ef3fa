"""Vectors that need not be made again: of texts in flight, and of texts that were embedded lately."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from embedding.core.flight import Flight
from embedding.core.ports import Embedder, EmbedResult, TextKind, Vectors
from servicekit.errors import ServiceError

# What an entry takes beside its vector: key, array, and its place in the dict.
_ENTRY_BYTES = 400


@dataclass(frozen=True, slots=True)
class _Known:
    vector: Vectors
    truncated: bool
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """A result, and how its texts were come by.

    Attributes:
        hits: Texts whose vectors were known.
        shared: Texts that were in flight for another call, or that the call holds twice.
        tokens_read: Tokens that the model read for this call; `result.tokens` are those of all texts.
    """

    result: EmbedResult
    hits: int
    shared: int
    tokens_read: int


class Memory:
    """Embeds each text once for each tenant.

    One tenant never gets what another asked for: the time of an answer would
    tell it that somebody had asked.

    Args:
        max_bytes: Of all vectors that are kept; 0: none is. Questions and passages have half each, so
            that an ingest does not push out the questions.
        observe: Told by how many bytes the memory changes.
    """

    def __init__(self, *, max_bytes: int, observe: Callable[[int], None] = lambda _: None) -> None:
        self._kept = {kind: _Lru(max_bytes // 2, observe) for kind in TextKind}
        self._flights: dict[bytes, tuple[Flight[EmbedResult], int]] = {}

    async def embed(
        self, tenant: str, embedder: Embedder, texts: Sequence[str], kind: TextKind
    ) -> Remembered:
        """As `Embedder.embed`."""
        info = await embedder.describe()
        scope = f"{tenant}\0{info.fingerprint}\0{info.dimension}\0{kind.value}\0".encode()
        keys = [blake2b(scope + text.encode(), digest_size=16).digest() for text in texts]
        kept = self._kept[kind]
        known = {key: found for key in dict.fromkeys(keys) if (found := kept.get(key)) is not None}
        hits = sum(key in known for key in keys)
        # Joined in one go, without a wait in between: what is missing now is begun now.
        joined = {
            key: flown
            for key in set(keys) - known.keys()
            if (flown := self._flights.get(key)) is not None and not flown[0].ended
        }
        fresh = {
            key: text for key, text in zip(keys, texts, strict=True) if key not in known and key not in joined
        }
        tokens_read = 0
        with ExitStack() as holds:
            for flight in {flight for flight, _ in joined.values()}:
                holds.enter_context(flight.joined())
            if fresh:
                tokens_read = await self._fetch(embedder, fresh, kind, known)
            again: dict[bytes, str] = {}
            for key, (flight, index) in joined.items():
                try:
                    known[key] = _split(await flight.result())[index]
                except ServiceError:
                    if not flight.timed_out:
                        raise
                    again[key] = texts[keys.index(key)]
            if again:
                tokens_read += await self._fetch(embedder, again, kind, known)
        return Remembered(
            result=_join([known[key] for key in keys]),
            hits=hits,
            shared=len(texts) - hits - len(fresh) - len(again),
            tokens_read=tokens_read,
        )

    async def _fetch(
        self, embedder: Embedder, fresh: dict[bytes, str], kind: TextKind, into: dict[bytes, _Known]
    ) -> int:
        flight = self._begin(embedder, fresh, kind)
        with flight.joined():
            result = await flight.result()
        into.update(zip(fresh, _split(result), strict=True))
        return result.input_tokens

    def _begin(self, embedder: Embedder, fresh: dict[bytes, str], kind: TextKind) -> Flight[EmbedResult]:
        async def work() -> EmbedResult:
            try:
                result = await embedder.embed(list(fresh.values()), kind)
            finally:
                for key in fresh:
                    if (found := self._flights.get(key)) is not None and found[0] is flight:
                        del self._flights[key]
            kept = self._kept[kind]
            for key, one in zip(fresh, _split(result), strict=True):
                kept.put(key, one)
            return result

        flight = Flight(work())
        self._flights |= {key: (flight, index) for index, key in enumerate(fresh)}
        return flight


class _Lru:
    def __init__(self, max_bytes: int, observe: Callable[[int], None]) -> None:
        self._max = max_bytes
        self._observe = observe
        self._held = 0
        self._entries: OrderedDict[bytes, _Known] = OrderedDict()

    def get(self, key: bytes) -> _Known | None:
        found = self._entries.get(key)
        if found is not None:
            self._entries.move_to_end(key)
        return found

    def put(self, key: bytes, known: _Known) -> None:
        size = _ENTRY_BYTES + known.vector.nbytes
        if size > self._max or key in self._entries:
            return
        # A row of a matrix would keep the whole matrix.
        self._entries[key] = _Known(known.vector.copy(), known.truncated, known.tokens)
        change = size
        while self._held + change > self._max:
            _, oldest = self._entries.popitem(last=False)
            change -= _ENTRY_BYTES + oldest.vector.nbytes
        self._held += change
        self._observe(change)


def _split(result: EmbedResult) -> list[_Known]:
    cut = set(result.truncated)
    return [
        _Known(vector, index in cut, tokens)
        for index, (vector, tokens) in enumerate(zip(result.vectors, result.tokens, strict=True))
    ]


def _join(rows: Sequence[_Known]) -> EmbedResult:
    return EmbedResult(
        vectors=np.stack([row.vector for row in rows]),
        truncated=[index for index, row in enumerate(rows) if row.truncated],
        tokens=[row.tokens for row in rows],
    )
