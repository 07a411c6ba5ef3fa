"""Structured logs: one JSON object a line on stderr, with the trace's ids."""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

from servicekit.spans import current_span


def configure_logging(*, service: str, level: str) -> None:
    """Sends structlog and the standard library's loggers through one pipeline."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_trace_ids,
        structlog.processors.format_exc_info,
    ]
    threshold = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _service_name(service),
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(threshold)
    for noisy in ("httpx", "httpx2", "httpcore", "httpcore2", "openai", "pymilvus", "watchfiles"):
        logging.getLogger(noisy).setLevel(max(threshold, logging.WARNING))


def _service_name(service: str) -> structlog.typing.Processor:
    def add(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event["service"] = service
        return event

    return add


def _add_trace_ids(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    span = current_span()
    if span is not None:
        event["trace_id"] = f"{span.recording.trace_id:032x}"
        event["span_id"] = f"{span.span_id:016x}"
        run = span.recording.common.get("agentteams.run")
        if run:
            event.setdefault("run", run)
    return event
