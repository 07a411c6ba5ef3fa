"""Measures how well a knowledge base is searched: every query of its golden set, in each mode."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from statistics import fmean
from typing import Protocol

from retrieval.core.errors import knowledge_base_not_found
from retrieval.core.golden import Evaluation, GoldenQuery, GoldenSet, GoldenSets
from retrieval.core.model import Outcome, ReasonCode, SearchMode, Snapshot
from retrieval.core.names import document_id
from retrieval.core.ports import Catalogue
from retrieval.core.quality import Quality, QualityStore, quality_of
from retrieval.core.scores import ndcg, recall, reciprocal_rank
from retrieval.core.search_model import SearchQuery, SearchResult
from servicekit.clock import Clock
from servicekit.context import current_caller
from servicekit.errors import DeadlineExceeded, FailedPrecondition, NotFound, Unavailable

_DEPTH = 100
_AT_A_TIME = 4  # searches: users' own searches go on meanwhile
_NAMED_PATHS = 20


class Searcher(Protocol):
    """Searches as users do."""

    async def run(self, query: SearchQuery) -> SearchResult:
        """As `Search.run`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far an evaluation is.

    Attributes:
        missing: Paths that should be found and are not in the knowledge base, or not READY.
        evaluations: At the end, one for each mode.
    """

    done: int
    total: int
    missing: tuple[str, ...]
    evaluations: tuple[Evaluation, ...] = ()


@dataclass(frozen=True, slots=True)
class _Searched:
    query: GoldenQuery
    result: SearchResult

    @property
    def ranked(self) -> list[str]:
        """Paths; of each document the search gives its best chunk."""
        return [hit.title for hit in self.result.hits]


class Evaluations:
    """Golden sets and what was measured with them, as the current caller."""

    def __init__(
        self,
        *,
        catalogue: Catalogue,
        golden_sets: GoldenSets,
        quality: QualityStore,
        search: Searcher,
        clock: Clock,
    ) -> None:
        self._catalogue = catalogue
        self._golden_sets = golden_sets
        self._quality = quality
        self._search = search
        self._clock = clock

    async def put_golden_set(self, knowledge_base: str, golden_set: GoldenSet | None) -> None:
        """Sets it, or takes it away.

        Raises:
            NotFound: The knowledge base is not there.
        """
        await self._snapshot(knowledge_base)
        await self._golden_sets.put_golden_set(
            current_caller().tenant, knowledge_base, golden_set, now=self._clock.now()
        )

    async def golden_set(self, knowledge_base: str) -> GoldenSet:
        """As it was set.

        Raises:
            NotFound: There is none, or no knowledge base.
        """
        await self._snapshot(knowledge_base)
        found = await self._golden_sets.golden_set(current_caller().tenant, knowledge_base)
        if found is None:
            name = f"knowledgeBases/{knowledge_base}"
            raise NotFound(
                f"{name} has no golden set; set one with SetGoldenSet",
                reason="GOLDEN_SET_NOT_FOUND",
                metadata={"knowledge_base": name},
            )
        return found

    async def newest(self, knowledge_base: str, *, before: str, limit: int) -> list[tuple[str, Evaluation]]:
        """Newest first, each with its cursor.

        Raises:
            NotFound: The knowledge base is not there.
        """
        await self._snapshot(knowledge_base)
        return await self._golden_sets.evaluations(
            current_caller().tenant, knowledge_base, before=before, limit=limit
        )

    async def qualities(self, knowledge_bases: Sequence[str]) -> dict[str, Quality]:
        """Of those that are watched, by id."""
        found = await self._quality.of(current_caller().tenant, knowledge_bases)
        now = self._clock.now()
        return {id_: quality_of(watched, now=now) for id_, watched in found.items()}

    async def run(self, knowledge_base: str, modes: Sequence[SearchMode]) -> AsyncIterator[Progress]:
        """Searches and stores the scores; whoever stops listening stops it, and nothing is stored.

        Args:
            modes: Empty: the knowledge base's own.

        Raises:
            NotFound: There is no golden set, or no knowledge base.
            FailedPrecondition: None of its documents can be found.
            Unavailable: A search could not look; retry.
            DeadlineExceeded: The time ran out.
        """
        async with aclosing(self.measure(knowledge_base, modes, strict=True)) as steps:  # type: ignore[type-var]
            async for progress in steps:
                if progress.evaluations:
                    await self._golden_sets.add_evaluations(
                        current_caller().tenant, knowledge_base, progress.evaluations
                    )
                yield progress

    async def measure(
        self, knowledge_base: str, modes: Sequence[SearchMode] = (), *, strict: bool = False
    ) -> AsyncIterator[Progress]:
        """Searches; the last progress has the scores.

        Args:
            modes: Empty: the knowledge base's own.
            strict: Refuse a golden set none of whose documents is there: its paths may be written wrongly.
                Otherwise nothing is found.

        Raises:
            NotFound: There is no golden set, or no knowledge base.
            FailedPrecondition: See `strict`.
            Unavailable: A search could not look; retry.
            DeadlineExceeded: The time ran out.
        """
        snapshot = await self._snapshot(knowledge_base)
        golden_set = await self.golden_set(knowledge_base)
        missing = await self._missing(knowledge_base, golden_set, strict=strict)
        modes = modes or [snapshot.knowledge_base.spec.search_mode]
        total = len(modes) * len(golden_set.queries)
        yield Progress(done=0, total=total, missing=missing)
        evaluations, done = [], 0
        for mode in modes:
            searched: list[_Searched] = []
            for start in range(0, len(golden_set.queries), _AT_A_TIME):
                queries = golden_set.queries[start : start + _AT_A_TIME]
                searched += await self._some(knowledge_base, queries, mode)
                done += len(queries)
                if done < total:
                    yield Progress(done=done, total=total, missing=missing)
            evaluations.append(self._evaluation(golden_set, mode, searched, len(missing)))
        yield Progress(done=done, total=total, missing=missing, evaluations=tuple(evaluations))

    async def _snapshot(self, knowledge_base: str) -> Snapshot:
        snapshot = await self._catalogue.snapshot(current_caller().tenant, knowledge_base)
        if snapshot is None:
            raise knowledge_base_not_found(knowledge_base)
        return snapshot

    async def _missing(self, knowledge_base: str, golden_set: GoldenSet, *, strict: bool) -> tuple[str, ...]:
        ids = {path: document_id(path) for path in golden_set.paths}
        ready = await self._golden_sets.ready(current_caller().tenant, knowledge_base, ids.values())
        missing = sorted(path for path, id_ in ids.items() if id_ not in ready)
        if strict and len(missing) == len(ids):
            more = f" and {len(missing) - _NAMED_PATHS} more" if len(missing) > _NAMED_PATHS else ""
            shown = ", ".join(missing[:_NAMED_PATHS])
            raise FailedPrecondition(
                f"knowledgeBases/{knowledge_base} has none of the documents that its golden set wants found "
                f"({shown}{more}); paths must be as ListDocuments shows them, the documents READY",
                reason="DOCUMENT_NOT_FOUND",
                metadata={"knowledge_base": f"knowledgeBases/{knowledge_base}", "paths": shown},
            )
        return tuple(missing)

    async def _some(
        self, knowledge_base: str, queries: Sequence[GoldenQuery], mode: SearchMode
    ) -> list[_Searched]:
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._one(knowledge_base, query, mode)) for query in queries]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from errors  # those of the others say the same
        return [task.result() for task in tasks]

    async def _one(self, knowledge_base: str, golden: GoldenQuery, mode: SearchMode) -> _Searched:
        result = await self._search.run(
            SearchQuery(
                knowledge_base=knowledge_base,
                text=golden.query,
                mode=mode,
                top_k=_DEPTH,
                max_per_document=1,
            )
        )
        if result.outcome == Outcome.FAILED:
            said = "; ".join(reason.message for reason in result.reasons)
            message = f"query {golden.id!r} could not be searched: {said}. Nothing was stored."
            if any(reason.code == ReasonCode.DEADLINE for reason in result.reasons):
                raise DeadlineExceeded(message, reason="DEADLINE_TOO_SHORT")
            raise Unavailable(message, reason="DEPENDENCY_UNAVAILABLE")
        return _Searched(golden, result)

    def _evaluation(
        self, golden_set: GoldenSet, mode: SearchMode, searched: Sequence[_Searched], missing: int
    ) -> Evaluation:
        lists = [(one.ranked, one.query.relevant) for one in searched]
        return Evaluation(
            finish_time=self._clock.now(),
            mode=mode,
            reranked=any("rerank" in one.result.stages for one in searched),
            ndcg_at_10=fmean(ndcg(ranked, relevant, depth=10) for ranked, relevant in lists),
            recall_at_10=fmean(recall(ranked, relevant, depth=10) for ranked, relevant in lists),
            recall_at_100=fmean(recall(ranked, relevant, depth=_DEPTH) for ranked, relevant in lists),
            mrr_at_10=fmean(reciprocal_rank(ranked, relevant, depth=10) for ranked, relevant in lists),
            queries=len(searched),
            golden_set_sha256=golden_set.sha256,
            revision=searched[0].result.revision,
            degraded=sum(one.result.outcome == Outcome.DEGRADED for one in searched),
            missing_documents=missing,
        )
