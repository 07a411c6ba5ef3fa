"""The evidence ledger: what a run has found, so that no member searches for it again."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from manifests import AgentTeam
from orchestrator.core.model import (
    Chunk,
    Embedding,
    Evidence,
    SearchQuery,
    SearchResult,
    Source,
    StoredEvent,
)
from servicekit.spans import Ref, current_ref

EarlierLogs = Callable[[], Awaitable[Sequence[Sequence[StoredEvent]]]]

UNKNOWN_REVISION = "unknown"  # no knowledge base has that one
_MAX_ENTRIES = (
    256  # a run makes at most limits.maxToolCalls searches; this bounds its memory whatever they say
)
_MAX_EARLIER = 64  # searches of earlier runs
_MAX_EMBEDDED = 16  # of a log, whose vectors are made again to compare them


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A search's result, numbered, and who answered it."""

    result: SearchResult
    evidence: tuple[Evidence, ...]
    source: Source
    similarity: float = 0.0
    reused_query: str = ""
    reused_sequence: int = 0
    origin: Ref | None = None  # span of the search whose result it is


@dataclass(slots=True, kw_only=True)
class _Entry:
    query: SearchQuery
    result: asyncio.Future[SearchResult | None]  # None: given up, search by yourself
    embedding: Embedding | None = None  # set when the search begins: who has one waits for nobody
    sequence: int = 0  # of the event that reported it
    restored: bool = False  # from a log, which holds no vectors, and perhaps long ago
    earlier: bool = False  # of an earlier run of the session
    origin: Ref | None = None


@dataclass(slots=True, kw_only=True)
class Ledger:
    """One run's evidence.

    Attributes:
        policy: Never, Exact or Semantic.
        min_similarity: Least cosine similarity of two queries that count as the same.
        earlier: The logs of earlier runs whose evidence may be used again; None: there are none to be used.
        by_step: What each search came to, by its step.
    """

    policy: str
    min_similarity: float
    earlier: EarlierLogs | None = None
    by_step: dict[str, tuple[Evidence, ...]] = field(default_factory=dict)
    _entries: list[_Entry] = field(default_factory=list)
    _numbers: dict[tuple[str, str], Evidence] = field(default_factory=dict)
    _found_at: dict[int, int] = field(default_factory=dict)  # sequence of the event, by number
    _weak: set[int] = field(default_factory=set)  # numbers of chunks that fitted no query yet
    _fitting: set[int] = field(default_factory=set)
    _recalled: asyncio.Lock = field(default_factory=asyncio.Lock)

    @classmethod
    def of(cls, team: AgentTeam, *, earlier: EarlierLogs) -> "Ledger":
        """The ledger of a team's run."""
        reuse = team.spec.sharing.evidence_reuse
        whole_session = reuse.scope == "Session" and reuse.policy != "Never"
        return cls(
            policy=reuse.policy,
            min_similarity=float(reuse.min_similarity),
            earlier=earlier if whole_session else None,
        )

    @property
    def evidence(self) -> list[Evidence]:
        """All that was found, by number."""
        return list(self._numbers.values())

    def evidence_before(self, sequence: int) -> list[Evidence]:
        """What was found by the events before that one and fits what was asked, by number."""
        return [
            e
            for e in self._numbers.values()
            if self._found_at.get(e.number, sequence) < sequence and e.number not in self._weak
        ]

    async def recall(
        self, entries: Callable[[Sequence[StoredEvent]], Iterable[tuple[SearchQuery, Found]]]
    ) -> None:
        """Takes in what earlier runs of the session have found, once; `entries` reads one run's log.

        Raises:
            ServiceError: They could not be read. The next call tries again.
        """
        async with self._recalled:
            if self.earlier is None:
                return
            newest_first = [entry for events in await self.earlier() for entry in entries(events)]
            self.earlier = None
            for query, found in reversed(newest_first[:_MAX_EARLIER]):
                self._enter_restored(query, found).earlier = True

    def restore(self, query: SearchQuery | None, found: Found, knowledge_base: str, sequence: int) -> None:
        """Takes in what an earlier attempt of the run found; without a query only the chunks' numbers."""
        for evidence in found.evidence:
            self._numbers.setdefault((knowledge_base, evidence.chunk.id), evidence)
            self._found_at.setdefault(evidence.number, sequence)
        self._mark(found)
        if query is not None and found.source == "SEARCH" and _is_shared(found.result):
            self._enter_restored(query, found).sequence = sequence

    async def find(
        self,
        query: SearchQuery,
        *,
        embed: Callable[[str], Awaitable[Embedding | None]],
        search: Callable[[SearchQuery], Awaitable[SearchResult]],
        revision: Callable[[], Awaitable[str]],
    ) -> Found:
        """Answers a query from what was found before, else searches and remembers.

        A query that is being searched for is waited for. Only searches that
        found something that fits are used again; after any other end the next
        one tries anew, and so does one for which the knowledge base does not have
        the `revision` of then any more. `embed` is called only with policy
        Semantic, and may say None (no vector to be had): the service then embeds
        by itself.
        """
        # A search that comes to nothing leaves the ledger before those who wait for it go on.
        while (same := self._same(query)) is not None:
            reused = await self._reuse(same, "LEDGER_EXACT", 1.0, revision)
            if reused is not None:
                return reused
        # Entered before the vector is there, so that the same words asked side by side wait for us.
        entry = self._enter(query)
        entry.origin = current_ref()
        try:
            if self.policy == "Semantic":
                embedding = await embed(query.text)
                await self._embed_restored(query, embed)
                while (closest := self._closest(query, embedding)) is not None:
                    reused = await self._reuse(*closest, revision)
                    if reused is not None:
                        self._abandon(entry)
                        return reused
                if embedding is not None:
                    entry.embedding, query = embedding, _with_vector(query, embedding)
            result = await search(query)
        except BaseException:
            self._abandon(entry)
            raise
        entry.result.set_result(result)
        if not _is_shared(result):
            self._remove(entry)
        return Found(
            result=result, evidence=self.number(result.chunks, query.knowledge_base), source="SEARCH"
        )

    def reported(self, found: Found, query: SearchQuery, sequence: int) -> None:
        """Remembers which event told of a search, for those that use it again."""
        for evidence in found.evidence:
            self._found_at.setdefault(evidence.number, sequence)
        self._mark(found)
        if found.source == "SEARCH":
            for entry in self._entries:
                if entry.query is query:
                    entry.sequence = sequence

    def _mark(self, found: Found) -> None:
        numbers = {evidence.number for evidence in found.evidence}
        if found.result.grade == "WEAK":
            self._weak |= numbers - self._fitting
        else:
            self._fitting |= numbers
            self._weak -= numbers

    def number(self, chunks: tuple[Chunk, ...], knowledge_base: str) -> tuple[Evidence, ...]:
        """Gives chunks their numbers; a chunk seen before keeps its own.

        With other neighbours it has another text; of all its texts the longest is kept.
        """
        numbered = []
        for chunk in chunks:
            key = (knowledge_base, chunk.id)
            known = self._numbers.get(key)
            if known is None or known.chunk.text != chunk.text:
                number = self._next_number() if known is None else known.number
                now = Evidence(number=number, chunk=chunk)
                if known is None or len(known.chunk.text) < len(chunk.text):
                    self._numbers[key] = now
                known = now
            numbered.append(known)
        return tuple(numbered)

    def _next_number(self) -> int:
        return max((e.number for e in self._numbers.values()), default=0) + 1

    async def _embed_restored(
        self, query: SearchQuery, embed: Callable[[str], Awaitable[Embedding | None]]
    ) -> None:
        # The newest are last.
        lacking = [e for e in self._entries if e.restored and e.embedding is None]
        for entry in [e for e in lacking if _same_scope(e.query, query)][-_MAX_EMBEDDED:]:
            if entry.embedding is None:
                entry.embedding = await embed(entry.query.text)

    def _same(self, query: SearchQuery) -> _Entry | None:
        if self.policy == "Never":
            return None
        words = _normal(query.text)
        for entry in self._entries:
            if _same_scope(entry.query, query) and _normal(entry.query.text) == words:
                return entry
        return None

    def _enter(self, query: SearchQuery) -> _Entry:
        entry = _Entry(query=query, result=asyncio.get_running_loop().create_future())
        self._entries.append(entry)
        if len(self._entries) > _MAX_ENTRIES:
            self._entries.pop(0)
        return entry

    def _enter_restored(self, query: SearchQuery, found: Found) -> _Entry:
        entry = self._enter(query)
        entry.result.set_result(found.result)
        entry.restored, entry.origin = True, found.origin
        return entry

    def _abandon(self, entry: _Entry) -> None:
        self._remove(entry)
        # Not cancelled: a waiter could not tell that from being cancelled itself.
        entry.result.set_result(None)

    def _remove(self, entry: _Entry) -> None:
        # By identity; it may have been dropped for a newer one.
        self._entries = [other for other in self._entries if other is not entry]

    def _closest(
        self, query: SearchQuery, embedding: Embedding | None
    ) -> tuple[_Entry, Source, float] | None:
        if embedding is None:
            return None
        best: tuple[_Entry, Source, float] | None = None
        for other in self._entries:
            if (
                other.embedding is None
                or other.embedding.model_fingerprint != embedding.model_fingerprint
                or not _same_scope(other.query, query)
            ):
                continue
            similarity = float(np.dot(other.embedding.vector, embedding.vector))
            if similarity >= max(self.min_similarity, best[2] if best else -1.0):
                best = (other, "LEDGER_SEMANTIC", similarity)
        return best

    @staticmethod
    def _holds(entry: _Entry, result: SearchResult, revision: str) -> bool:
        """Whether the knowledge base is still as it was searched.

        Where nobody can tell, what this process has found in this run does: the
        search that would replace it could not be made either.
        """
        return revision == result.revision or (revision == UNKNOWN_REVISION and not entry.restored)

    async def _reuse(
        self, entry: _Entry, source: Source, similarity: float, revision: Callable[[], Awaitable[str]]
    ) -> Found | None:
        was_there = entry.result.done()  # else it is as new as a search of one's own
        # Shielded: a waiter that is cancelled must not cancel the search of another.
        result = await asyncio.shield(entry.result)
        if result is None or not _is_shared(result):
            return None
        if was_there and not self._holds(entry, result, await revision()):
            self._remove(entry)
            return None
        return Found(
            result=result,
            evidence=self.number(result.chunks, entry.query.knowledge_base),
            source="LEDGER_SESSION" if entry.earlier else source,
            similarity=similarity,
            reused_query=entry.query.text,
            reused_sequence=entry.sequence,
            origin=entry.origin,
        )


def _is_shared(result: SearchResult) -> bool:
    """Whether others may use it: it found something, perhaps with less than was asked for, and it fits."""
    return result.outcome in ("OK", "DEGRADED") and bool(result.chunks) and result.grade != "WEAK"


def _same_scope(one: SearchQuery, other: SearchQuery) -> bool:
    """Whether they look in the same place in the same way, whatever for."""
    return _scope(one) == _scope(other)


def _scope(query: SearchQuery) -> SearchQuery:
    return replace(query, text="", vector=None, model_fingerprint="")


def _normal(text: str) -> str:
    return " ".join(text.casefold().split())


def _with_vector(query: SearchQuery, embedding: Embedding) -> SearchQuery:
    return replace(query, vector=embedding.vector, model_fingerprint=embedding.model_fingerprint)
