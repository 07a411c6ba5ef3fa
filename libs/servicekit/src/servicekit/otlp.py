"""Sends kept spans to an OpenTelemetry collector, with OpenTelemetry's own exporter."""

from collections.abc import Sequence
from types import MappingProxyType

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from servicekit.span_wire import from_wire, read_part
from servicekit.spans import Recording, Ref, Span

_QUEUE_SPANS = 8_192
_BATCH_SPANS = 512
_DELAY_MS = 1_000  # what a killed process has not sent is lost
_FLUSH_MS = 5_000
_MAX_SERVICES = 64
_KINDS = (trace.SpanKind.INTERNAL, trace.SpanKind.SERVER, trace.SpanKind.CLIENT)
_SAMPLED = trace.TraceFlags(trace.TraceFlags.SAMPLED)
_SCOPE = InstrumentationScope("agentteams")
_OK = trace.Status(trace.StatusCode.UNSET)


class OtlpSink:
    """See Sink.

    Args:
        service: Name of this service.
        ratio: Share of traces that are kept whatever becomes of them.
        slow_s: Runs that take longer are kept.
        content: Whether prompts and answers may be part of spans.
        exporter: Where to.
    """

    def __init__(
        self, *, service: str, ratio: float, slow_s: float, content: bool, exporter: SpanExporter
    ) -> None:
        self.ratio = ratio
        self.slow_ns = int(slow_s * 1e9)
        self.content = content
        self._resources: dict[str, Resource] = {}
        self._own = self._resource(service)
        self._processor = BatchSpanProcessor(
            exporter,
            max_queue_size=_QUEUE_SPANS,
            max_export_batch_size=_BATCH_SPANS,
            schedule_delay_millis=_DELAY_MS,
        )

    def take(self, recording: Recording, span: Span) -> None:
        """See Sink."""
        self._processor.on_end(_readable(recording, span, self._own))

    def take_part(self, recording: Recording, part: bytes) -> None:
        """See Sink."""
        read = read_part(part)
        if read is None:
            return
        resource = self._resource(read.service)
        for wire in read.spans:
            self._processor.on_end(_readable(recording, from_wire(recording, wire), resource))

    def close(self) -> None:
        """Sends what is still in memory, for five seconds at most."""
        self._processor.force_flush(_FLUSH_MS)
        self._processor.shutdown()  # type: ignore[no-untyped-call]

    def _resource(self, service: str) -> Resource:
        found = self._resources.get(service)
        if found is None:
            found = Resource.create({"service.name": f"agentteams-{service}"})
            if len(self._resources) < _MAX_SERVICES:
                self._resources[service] = found
        return found


def otlp_exporter(endpoint: str) -> SpanExporter:
    """Over gRPC; plain text unless the address begins with https://."""
    return OTLPSpanExporter(endpoint=endpoint, insecure=not endpoint.startswith("https://"))


def _context(ref: Ref) -> trace.SpanContext:
    return trace.SpanContext(ref.trace_id, ref.span_id, is_remote=False, trace_flags=_SAMPLED)


def _readable(recording: Recording, span: Span, resource: Resource) -> ReadableSpan:
    attributes = {**recording.common, **(span.attributes or {})}
    if span.error:
        attributes["error.type"] = span.error
    return ReadableSpan(
        span.name,
        context=_context(Ref(recording.trace_id, span.span_id)),
        parent=_context(Ref(recording.trace_id, span.parent_id)) if span.parent_id else None,
        resource=resource,
        attributes=MappingProxyType(attributes),
        events=_events(span),
        links=[trace.Link(_context(ref)) for ref in span.links or ()],
        kind=_KINDS[span.kind],
        status=trace.Status(trace.StatusCode.ERROR, span.error) if span.error else _OK,
        start_time=span.start_ns,
        end_time=span.end_ns,
        instrumentation_scope=_SCOPE,
    )


def _events(span: Span) -> Sequence[Event]:
    return [Event(e.name, dict(e.attributes), e.time_ns) for e in span.events or ()]
