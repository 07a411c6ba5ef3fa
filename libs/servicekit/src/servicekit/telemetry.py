"""Traces and metrics that every service has. docs/telemetry.yaml has all names."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import Histogram

from servicekit import spans
from servicekit.config import TraceSettings
from servicekit.spans import NoSpan, Observer, Span

# From a cache hit to a slow model call.
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)

STAGE_SECONDS = Histogram(
    "agentteams_stage_duration_seconds", "Wall time of one stage of a turn", ["stage"], buckets=_BUCKETS
)
RPC_SECONDS = Histogram(
    "agentteams_rpc_duration_seconds", "Wall time of a call, served", ["method", "code"], buckets=_BUCKETS
)

STAGE = "agentteams.stage"


def setup_tracing(*, service: str, settings: TraceSettings) -> None:
    """Begins to record spans, and to export those that are kept; without a collector there are none."""
    if settings.otlp_endpoint is None:
        return
    from servicekit.otlp import OtlpSink, otlp_exporter  # noqa: PLC0415  # 0.3 s, where nobody wants it

    spans.use_sink(
        OtlpSink(
            service=service,
            ratio=settings.trace_ratio,
            slow_s=settings.trace_slow_s,
            content=settings.trace_content,
            exporter=otlp_exporter(settings.otlp_endpoint),
        )
    )


def shutdown_tracing() -> None:
    """Sends what is still in memory, for five seconds at most."""
    sink = spans.use_sink(None)
    close = getattr(sink, "close", None)
    if close is not None:
        close()


def stage_span(stage: str) -> Span | NoSpan:
    """A span named as the stage."""
    return spans.span(stage, _stage(stage).attributes)


def observe_stage(stage: str, seconds: float) -> None:
    """Adds the time of a stage to its histogram."""
    spans.observe(_stage(stage).histogram, seconds)


@contextmanager
def observed(histogram: Observer) -> Iterator[None]:
    """Measures the block; unlike `Histogram.time()` with the trace as its exemplar."""
    started = time.perf_counter()
    try:
        yield
    finally:
        spans.observe(histogram, time.perf_counter() - started)


@contextmanager
def stage_seconds(stage: str) -> Iterator[None]:
    """Measures the block as one stage of a turn: histogram and span."""
    started = time.perf_counter()
    try:
        with stage_span(stage):
            yield
    finally:
        observe_stage(stage, time.perf_counter() - started)


class _Stage:
    """What is the same for all times of a stage; stages are few."""

    def __init__(self, name: str) -> None:
        self.attributes = {STAGE: name}
        self.histogram = STAGE_SECONDS.labels(name)


_stages: dict[str, _Stage] = {}


def _stage(name: str) -> _Stage:
    found = _stages.get(name)
    if found is None:
        found = _stages[name] = _Stage(name)
    return found
