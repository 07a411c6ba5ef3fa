"""Traces and metrics. Names come from docs/telemetry.md."""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from prometheus_client import Histogram

# From a cache hit to a slow model call.
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)

STAGE_SECONDS = Histogram(
    "agentteams_stage_duration_seconds", "Wall time of one stage of a turn", ["stage"], buckets=_BUCKETS
)
RPC_SECONDS = Histogram(
    "agentteams_rpc_duration_seconds", "Wall time of a call, served", ["method", "code"], buckets=_BUCKETS
)

_provider: TracerProvider | None = None


def setup_tracing(*, service: str, otlp_endpoint: str | None) -> None:
    """Exports spans to the collector; without one, every span is a no-op."""
    global _provider  # noqa: PLW0603  # OpenTelemetry's own provider is process-wide
    if otlp_endpoint is None:
        return
    _provider = TracerProvider(resource=Resource.create({"service.name": f"agentteams-{service}"}))
    exporter = OTLPSpanExporter(endpoint=otlp_endpoint, insecure=otlp_endpoint.startswith("http://"))
    _provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(_provider)


def shutdown_tracing() -> None:
    """Sends what is still in memory, for five seconds at most."""
    if _provider is not None:
        _provider.force_flush(5_000)
        _provider.shutdown()


def tracing_enabled() -> bool:
    """Whether spans go anywhere; the hot path skips their cost otherwise."""
    return _provider is not None


def tracer() -> trace.Tracer:
    """The tracer of all our spans."""
    return trace.get_tracer("agentteams")


def inject(metadata: list[tuple[str, str]]) -> None:
    """Adds the current trace's headers to a call's metadata."""
    if _provider is not None:
        carrier: dict[str, str] = {}
        propagate.inject(carrier)
        metadata.extend(carrier.items())


def extract(metadata: dict[str, str]) -> Context:
    """The trace that a call's metadata names."""
    return propagate.extract(metadata)


def stage_span(stage: str) -> AbstractContextManager[object]:
    """A span named as the stage; free when traces go nowhere."""
    return _NO_SPAN if _provider is None else tracer().start_as_current_span(stage)


_NO_SPAN = nullcontext()


@contextmanager
def stage_seconds(stage: str) -> Iterator[None]:
    """Measures the block as one stage of a turn: histogram and span."""
    started = time.perf_counter()
    try:
        with stage_span(stage):
            yield
    finally:
        STAGE_SECONDS.labels(stage).observe(time.perf_counter() - started)
