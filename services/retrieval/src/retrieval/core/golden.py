"""Golden sets: queries with what they should find, and the scores of searching for it."""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from retrieval.core.model import SearchMode


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenQuery:
    """One query.

    Attributes:
        id: Unique in its golden set.
        relevant: How relevant each document is, 1 to 10, by its path.
    """

    id: str
    query: str
    relevant: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenSet:
    """The queries of one knowledge base.

    Attributes:
        sha256: Of the queries in any order.
        name: What people call it, such as the file that it came from.
    """

    queries: tuple[GoldenQuery, ...]
    sha256: str
    name: str = ""

    @property
    def paths(self) -> set[str]:
        """Every document that some query should find."""
        return {path for query in self.queries for path in query.relevant}


def golden_set(queries: Sequence[GoldenQuery], *, name: str = "") -> GoldenSet:
    """With its hash."""
    listed = sorted((query.id, query.query, sorted(query.relevant.items())) for query in queries)
    digest = hashlib.sha256(json.dumps(listed, ensure_ascii=False).encode()).hexdigest()
    return GoldenSet(queries=tuple(queries), sha256=digest, name=name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Scores of one golden set in one search mode, each the mean over its queries.

    Attributes:
        queries: How many there are.
        revision: The knowledge base's.
        degraded: Searches that ended DEGRADED.
        missing_documents: Judged documents that no search could find.
    """

    finish_time: datetime
    mode: SearchMode
    reranked: bool
    ndcg_at_10: float
    recall_at_10: float
    recall_at_100: float
    mrr_at_10: float
    queries: int
    golden_set_sha256: str
    revision: int
    degraded: int
    missing_documents: int


class GoldenSets(Protocol):
    """Golden sets and evaluations of knowledge bases; they go when it goes. Raises Unavailable."""

    async def put_golden_set(
        self, tenant: str, knowledge_base: str, golden_set: GoldenSet | None, *, now: datetime
    ) -> None:
        """Sets it, or takes it away.

        Raises:
            NotFound: The knowledge base is not there.
        """
        ...

    async def golden_set(self, tenant: str, knowledge_base: str) -> GoldenSet | None:
        """None if it has none."""
        ...

    async def ready(self, tenant: str, knowledge_base: str, documents: Collection[str]) -> set[str]:
        """Those of the documents (ids) that can be found."""
        ...

    async def add_evaluations(
        self, tenant: str, knowledge_base: str, evaluations: Sequence[Evaluation]
    ) -> None:
        """Keeps them, and of former ones the newest 1,000.

        Raises:
            NotFound: The knowledge base is not there.
        """
        ...

    async def evaluations(
        self, tenant: str, knowledge_base: str, *, before: str, limit: int
    ) -> list[tuple[str, Evaluation]]:
        """Each with its cursor, newest first, those behind the cursor `before`; empty: from the newest."""
        ...
