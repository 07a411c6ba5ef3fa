"""Prometheus metrics of this service."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Literal

import structlog
from prometheus_client import Counter, Gauge, Histogram

from retrieval.core.ingest_model import Reconciled
from retrieval.core.ingest_ports import IngestQueue
from retrieval.core.model import DocumentState, Outcome, ReasonCode
from retrieval.core.quality import METRICS, QualityState, Watched, quality_of
from retrieval.core.search_model import SearchResult
from servicekit.clock import Clock
from servicekit.counters import from_zero
from servicekit.errors import ServiceError

log = structlog.get_logger()

_QUEUE_PERIOD_S = 5.0

SEARCHES = Counter("agentteams_retrieval_searches_total", "Searches by outcome", ["outcome"])
from_zero(SEARCHES, outcome=[outcome.name for outcome in Outcome])
SEARCH_REASONS = Counter(
    "agentteams_retrieval_search_reasons_total", "What searches gave up or failed of", ["reason"]
)
from_zero(SEARCH_REASONS, reason=[code.name for code in ReasonCode])
SEARCH_SECONDS = Histogram(
    "agentteams_retrieval_search_seconds",
    "Wall time of a search, embedding included",
    buckets=(0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
TOP_SIMILARITY = Histogram(
    "agentteams_retrieval_top_similarity",
    "Cosine of the best chunk of a search to its query, where vectors were compared",
    buckets=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
)
FOUND_CHUNKS = Histogram(
    "agentteams_retrieval_found_chunks", "Chunks that a search gave back", buckets=(0, 1, 2, 4, 8, 16, 32, 64)
)
SEARCHING = Gauge("agentteams_retrieval_searches_in_flight", "Searches that are being made")
INGESTED = Counter(
    "agentteams_retrieval_ingested_documents_total", "Documents that ended as READY or FAILED", ["state"]
)
from_zero(INGESTED, state=("READY", "FAILED"))
QUEUE = Gauge(
    "agentteams_retrieval_queue_documents",
    "Documents that wait, are being indexed, or have failed",
    ["state"],
)


OLDEST = Gauge(
    "agentteams_retrieval_queue_oldest_seconds", "How long the document that waits longest has waited"
)
INGEST_STAGES = Histogram(
    "agentteams_retrieval_ingest_stage_seconds",
    "Wall time of one step of indexing",
    ["stage"],
    buckets=(0.001, 0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)

RECONCILED = Counter(
    "agentteams_retrieval_reconciled_total", "What comparisons of catalogue and store have mended", ["what"]
)
from_zero(RECONCILED, what=("stray_chunks_removed", "documents_requeued"))

# Of one process; knowledge bases beyond it are in the counts by state only.
MAX_WATCHED = 200
QUALITY = Gauge(
    "agentteams_retrieval_quality_score",
    "Newest scores of knowledge bases whose quality is watched, degraded ones first",
    ["knowledge_base", "metric"],
)
QUALITY_STATES = Gauge(
    "agentteams_retrieval_quality_knowledge_bases", "Knowledge bases that are watched", ["state"]
)
EVALUATIONS = Counter(
    "agentteams_retrieval_evaluations_total", "Evaluations by schedule that ended", ["outcome"]
)
from_zero(EVALUATIONS, outcome=("done", "failed"))

IngestStage = Literal["parse", "embed", "insert", "flush", "catalogue"]


@contextmanager
def ingest_stage(stage: IngestStage) -> Iterator[None]:
    """Times one step of indexing."""
    with INGEST_STAGES.labels(stage).time():
        yield


def reconciled(outcome: Reconciled) -> None:
    """What one comparison has mended."""
    RECONCILED.labels("stray_chunks_removed").inc(outcome.stray_chunks_removed)
    RECONCILED.labels("documents_requeued").inc(outcome.documents_requeued)


def searched(result: SearchResult) -> None:
    """One search more has ended so."""
    SEARCHES.labels(result.outcome.name).inc()
    FOUND_CHUNKS.observe(len(result.hits))
    similarities = [hit.similarity for hit in result.hits if hit.similarity is not None]
    if similarities:
        TOP_SIMILARITY.observe(max(similarities))
    for reason in result.reasons:
        SEARCH_REASONS.labels(reason.code.name).inc()


def ingested(state: DocumentState) -> None:
    """One document more has ended so."""
    INGESTED.labels(state.name).inc()


class QualityGauges:
    """What is watched, as of the last look. Those that are not watched any more go."""

    def __init__(self) -> None:
        self._shown: set[tuple[str, str]] = set()

    def seen(self, everything: Sequence[Watched], now: datetime) -> None:
        """All that are watched."""
        found = [(one, quality_of(one, now=now)) for one in everything]
        for state in QualityState:
            QUALITY_STATES.labels(state.name).set(sum(quality.state == state for _, quality in found))
        found.sort(key=lambda each: each[1].state != QualityState.DEGRADED)
        shown = set()
        for one, quality in found[:MAX_WATCHED]:
            name = f"{one.tenant}/{one.knowledge_base}"
            for metric in METRICS if quality.newest is not None else ():
                QUALITY.labels(name, metric).set(getattr(quality.newest, metric))
                shown.add((name, metric))
        for labels in self._shown - shown:
            QUALITY.remove(*labels)
        self._shown = shown


async def watch_queue(queue: IngestQueue, clock: Clock) -> None:
    """Keeps the gauges current, for autoscalers of the worker."""
    while True:
        try:
            counts, oldest = await queue.queue_depth(), await queue.oldest_pending()
        except ServiceError as error:
            log.warning("queue_depth_unknown", reason=error.reason)
        else:
            QUEUE.labels("PENDING").set(counts.pending)
            QUEUE.labels("INDEXING").set(counts.indexing)
            QUEUE.labels("FAILED").set(counts.failed)
            OLDEST.set(0 if oldest is None else max(0.0, (clock.now() - oldest).total_seconds()))
        await asyncio.sleep(_QUEUE_PERIOD_S)
