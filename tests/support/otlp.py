"""An OpenTelemetry collector in process, as far as tests need one: it keeps the spans that come over gRPC."""

from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as pb_grpc

_Base: Any = pb_grpc.TraceServiceServicer


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """One span."""

    trace: str
    id: str
    parent: str
    service: str
    name: str
    kind: int
    start_ns: int
    end_ns: int
    error: str
    attributes: Mapping[str, Any]
    events: tuple[tuple[str, Mapping[str, Any]], ...]
    links: tuple[tuple[str, str], ...]

    @property
    def seconds(self) -> float:
        """How long it took."""
        return (self.end_ns - self.start_ns) / 1e9

    @property
    def stage(self) -> str:
        """The stage of a turn that it is; empty: none."""
        return str(self.attributes.get("agentteams.stage", ""))


@dataclass(slots=True)
class Collector:
    """What came."""

    port: int = 0
    spans: list[Received] = field(default_factory=list)

    @property
    def endpoint(self) -> str:
        """Its address for AGENTTEAMS_OTLP_ENDPOINT."""
        return f"http://127.0.0.1:{self.port}"

    def traces(self) -> dict[str, list[Received]]:
        """Spans by trace, in the order in which they began.

        Each once: an exporter whose request was answered too late sends it again, as OTLP has it.
        """
        found: defaultdict[str, list[Received]] = defaultdict(list)
        for span in sorted(self.spans, key=lambda span: span.start_ns):
            if span not in found[span.trace]:
                found[span.trace].append(span)
        return found

    def of_run(self, run: str) -> list[Received]:
        """All spans of the trace of a run that has ended; none while its own span has not come."""
        roots = [s for s in self.spans if s.attributes.get("agentteams.run") == run and is_run(s)]
        return self.traces()[roots[0].trace] if roots else []


def is_run(span: Received) -> bool:
    """Whether it is the span of a whole run."""
    return "agentteams.run.state" in span.attributes


def orphans(spans: Sequence[Received]) -> list[Received]:
    """Those whose parent is missing; whoever asked from outside is no part of the trace."""
    there = {span.id for span in spans}
    return [span for span in spans if span.parent and span.parent not in there]


def path(span: Received, spans: Sequence[Received]) -> list[str]:
    """Names from the root to the span."""
    by_id = {one.id: one for one in spans}
    names = [span.name]
    while span.parent in by_id:
        span = by_id[span.parent]
        names.append(span.name)
    return names[::-1]


def tree(spans: Sequence[Received]) -> str:
    """The trace as text, for people."""
    ids = {span.id for span in spans}
    children = defaultdict(list)
    for span in sorted(spans, key=lambda span: span.start_ns):
        children[span.parent if span.parent in ids else ""].append(span)
    lines: list[str] = []

    def show(parent: str, depth: int) -> None:
        for span in children[parent]:
            lost = "?" if span.parent and span.parent not in ids else ""
            error = f" !{span.error}" if span.error else ""
            lines.append(
                f"{'  ' * depth}{lost}{span.name} [{span.service}] {1000 * span.seconds:.1f} ms{error}"
            )
            show(span.id, depth + 1)

    show("", 0)
    return "\n".join(lines)


@asynccontextmanager
async def collector() -> AsyncIterator[Collector]:
    """Listens while the block runs."""
    found = Collector()

    class Servicer(_Base):  # type: ignore[misc]
        async def Export(self, request: pb.ExportTraceServiceRequest, context: Any) -> Any:
            found.spans.extend(_read(request))
            return pb.ExportTraceServiceResponse()

    server = grpc.aio.server()
    pb_grpc.add_TraceServiceServicer_to_server(Servicer(), server)  # type: ignore[no-untyped-call]
    found.port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield found
    finally:
        await server.stop(None)


def _read(request: pb.ExportTraceServiceRequest) -> list[Received]:
    return [
        Received(
            trace=span.trace_id.hex(),
            id=span.span_id.hex(),
            parent=span.parent_span_id.hex(),
            service=_values(resource.resource.attributes)["service.name"].removeprefix("agentteams-"),
            name=span.name,
            kind=span.kind,
            start_ns=span.start_time_unix_nano,
            end_ns=span.end_time_unix_nano,
            error=span.status.message if span.status.code == span.status.STATUS_CODE_ERROR else "",
            attributes=_values(span.attributes),
            events=tuple((event.name, _values(event.attributes)) for event in span.events),
            links=tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
        )
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def _values(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    return getattr(value, kind) if kind else None
