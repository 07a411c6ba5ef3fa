"""What happens around every call that a server answers.

One interceptor with a fixed order - trace, metrics, request log, errors,
identity, deadline - because each further interceptor of grpc.aio costs a
coroutine a call. Health and reflection are left alone: probes have no token.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import grpc
import structlog

from servicekit import span_wire, spans, telemetry
from servicekit.context import set_call
from servicekit.errors import (
    DETAILS_KEY,
    DeadlineExceeded,
    ServiceError,
    Unauthenticated,
    status_from_error,
)
from servicekit.identity import TokenVerifier

log = structlog.get_logger()

_PUBLIC = ("/grpc.health.", "/grpc.reflection.")
_OWN_SHARE_S = 0.02  # kept of the caller's deadline for our own reply
_LEAST_S = 0.1  # with less than this left no call can end well
_SERVER_FAULTS = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}

# A string: grpc's classes are generic in their type stubs only.
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class ServerInterceptor(grpc.aio.ServerInterceptor):
    """Traces, measures, logs, authenticates and maps the errors of every call."""

    def __init__(self, verifier: TokenVerifier, *, service: str) -> None:
        self._verifier = verifier
        self._service = service
        self._handlers: dict[str, Handler] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], "Awaitable[Handler | None]"],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        """Wraps a method's handler, once."""
        method = handler_call_details.method
        wrapped = self._handlers.get(method)
        if wrapped is None:
            handler = await continuation(handler_call_details)
            if handler is None or method.startswith(_PUBLIC):
                return handler
            wrapped = self._handlers[method] = self._wrap(method, handler)
        return wrapped

    def _wrap(self, method: str, handler: Handler) -> Handler:
        codec = {
            "request_deserializer": handler.request_deserializer,
            "response_serializer": handler.response_serializer,
        }
        if handler.response_streaming:
            inner_stream: Any = handler.unary_stream

            async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
                call = _Call(method, context, self._verifier, self._service)
                try:
                    call.begin()
                    async for response in inner_stream(request, context):
                        yield response
                except BaseException as error:
                    await call.fail(error)
                    raise
                finally:
                    call.end()

            return grpc.unary_stream_rpc_method_handler(stream, **codec)

        inner: Any = handler.stream_unary if handler.request_streaming else handler.unary_unary

        async def unary(request: Any, context: Any) -> Any:
            call = _Call(method, context, self._verifier, self._service)
            try:
                call.begin()
                return await inner(request, context)
            except BaseException as error:
                await call.fail(error)
                raise
            finally:
                call.end()

        if handler.request_streaming:
            return grpc.stream_unary_rpc_method_handler(unary, **codec)
        return grpc.unary_unary_rpc_method_handler(unary, **codec)


class _Call:
    """One call from begin to end."""

    def __init__(self, method: str, context: Any, verifier: TokenVerifier, service: str) -> None:
        self._method = method
        self._context = context
        self._verifier = verifier
        self._service = service
        self._started = time.perf_counter()
        self._code = grpc.StatusCode.OK
        self._span: spans.Span | None = None

    def begin(self) -> None:
        """Sets caller, deadline and span for the handler, whose task is the call's own."""
        metadata = {
            key: value for key, value in self._context.invocation_metadata() if isinstance(value, str)
        }
        scheme, _, token = metadata.get("authorization", "").partition(" ")
        if scheme != "Bearer":
            raise Unauthenticated(
                "the call carries no token: send metadata authorization: Bearer <token>",
                reason="UNAUTHENTICATED",
            )
        caller = self._verifier.verify(token)
        left = self._context.time_remaining()
        if left is not None:
            left -= _OWN_SHARE_S
            if left < _LEAST_S - _OWN_SHARE_S:
                raise DeadlineExceeded(
                    f"{max(0, left * 1000):.0f} ms are left, at least {_LEAST_S * 1000:.0f} ms are needed",
                    reason="DEADLINE_TOO_SHORT",
                )
        set_call(caller, left)
        self._span = span_wire.incoming(metadata, self._method[1:])
        spans.set_current(self._span)
        if self._span is not None:
            self._span.recording.common["agentteams.tenant"] = caller.tenant

    async def fail(self, error: BaseException) -> None:
        """Ends the call with the error's status; what is no error of ours is logged with its trace."""
        if self._span is not None:
            self._span.fail(error)
        if isinstance(error, (asyncio.CancelledError, GeneratorExit)):
            self._code = grpc.StatusCode.CANCELLED
            return
        if isinstance(error, grpc.aio.AbortError):
            self._code = grpc.StatusCode.UNKNOWN
            return
        status = status_from_error(error)
        self._code = error.code if isinstance(error, ServiceError) else grpc.StatusCode.INTERNAL
        if not isinstance(error, ServiceError):
            log.error("call_failed", method=self._method, exc_info=error)
        elif self._code in _SERVER_FAULTS:
            log.warning("call_failed", method=self._method, code=self._code.name, message=error.message)
        trailer: list[tuple[str, str | bytes]] = [(DETAILS_KEY, status.SerializeToString()), *self._traced()]
        if isinstance(error, ServiceError) and error.reason.startswith("MODEL_"):
            # The service has asked the endpoint again already; the caller's channel must not multiply that.
            trailer.append(("grpc-retry-pushback-ms", "-1"))
        await self._context.abort(self._code, status.message, trailing_metadata=tuple(trailer))

    def end(self) -> None:
        """Counts the call."""
        seconds = time.perf_counter() - self._started
        if self._span is None:
            telemetry.RPC_SECONDS.labels(self._method, self._code.name).observe(seconds)
        else:
            # Before its spans go: an exemplar names a trace that is kept.
            histogram = telemetry.RPC_SECONDS.labels(self._method, self._code.name)
            self._span.recording.observe(histogram, seconds)
            trailer = self._traced()
            if trailer:
                self._context.set_trailing_metadata(tuple(trailer))
        log.debug("call_served", method=self._method, code=self._code.name, seconds=seconds)

    def _traced(self) -> list[tuple[str, str | bytes]]:
        """Ends the span; what the caller is told of it."""
        span, self._span = self._span, None
        if span is None:
            return []
        span.set({"rpc.system.name": "grpc", "rpc.response.status_code": self._code.name})
        span.end()
        return span_wire.answer(span.recording, self._service)
