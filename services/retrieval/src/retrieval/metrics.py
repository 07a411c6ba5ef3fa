"""Prometheus metrics of this service."""

import asyncio

import structlog
from prometheus_client import Counter, Gauge, Histogram

from retrieval.core.model import DocumentState
from retrieval.core.ports import Catalogue
from servicekit.errors import ServiceError

log = structlog.get_logger()

_QUEUE_PERIOD_S = 5.0

SEARCHES = Counter("agentteams_retrieval_searches_total", "Searches by outcome", ["outcome"])
SEARCH_SECONDS = Histogram(
    "agentteams_retrieval_search_seconds",
    "Wall time of a search, embedding included",
    buckets=(0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
INGESTED = Counter(
    "agentteams_retrieval_ingested_documents_total", "Documents that ended as READY or FAILED", ["state"]
)
QUEUE = Gauge("agentteams_retrieval_queue_documents", "Documents that wait or are being indexed", ["state"])


def ingested(state: DocumentState) -> None:
    """One document more has ended so."""
    INGESTED.labels(state.name).inc()


async def watch_queue(catalogue: Catalogue) -> None:
    """Keeps the gauge current, for autoscalers of the worker."""
    while True:
        try:
            counts = await catalogue.queue_depth()
        except ServiceError as error:
            log.warning("queue_depth_unknown", reason=error.reason)
        else:
            QUEUE.labels("PENDING").set(counts.pending)
            QUEUE.labels("INDEXING").set(counts.indexing)
        await asyncio.sleep(_QUEUE_PERIOD_S)
