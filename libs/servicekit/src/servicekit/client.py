"""Calls to our own services: deadline, identity, typed errors, retries.

A plain wrapper around stubs rather than gRPC client interceptors: in
grpc.aio every interceptor costs a task a call, and a deadline in the service
config fires early (docs/adr/0003-rpc-wrapper.md).
"""

import json
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import grpc

from servicekit import span_wire
from servicekit.context import current_caller, remaining_s
from servicekit.errors import DeadlineExceeded, error_from_rpc
from servicekit.identity import Issuer
from servicekit.spans import current_span

Response = TypeVar("Response")

_REPLY_MARGIN_S = 0.02  # what a server keeps of its caller's deadline for its own reply
MAX_MESSAGE_BYTES = 16 * 1024 * 1024

_SERVICE_CONFIG = json.dumps(
    {
        # A name on a cluster stands for all pods of a service.
        "loadBalancingConfig": [{"round_robin": {}}],
        "methodConfig": [
            {
                "name": [{}],
                # UNAVAILABLE only: every call of ours is safe to repeat (request ids, sequences). The
                # attempts last for about a second, longer than a channel waits until it connects anew.
                "retryPolicy": {
                    "maxAttempts": 5,
                    "initialBackoff": "0.1s",
                    "maxBackoff": "1s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ],
    }
)


def open_channel(target: str, *, retries: bool = True) -> grpc.aio.Channel:
    """A channel to `host:port` that reconnects by itself, within half a second of a restart.

    With `retries` a call that finds nobody there (UNAVAILABLE) is made again, for about a second.
    """
    return grpc.aio.insecure_channel(
        target,
        options=[
            ("grpc.service_config", _SERVICE_CONFIG) if retries else ("grpc.enable_retries", 0),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 500),
            ("grpc.keepalive_time_ms", 30_000),
            ("grpc.keepalive_timeout_ms", 10_000),
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ],
    )


class RpcClient:
    """Makes calls as the current caller, within the current deadline.

    Args:
        channel: Where to; the owner closes it.
        issuer: Makes the token that says who the caller is.
        default_timeout: For calls that name none.
    """

    def __init__(self, channel: grpc.aio.Channel, *, issuer: Issuer, default_timeout: timedelta) -> None:
        self.channel = channel
        self._issuer = issuer
        self._default_s = default_timeout.total_seconds()

    async def unary(
        self,
        method: "grpc.aio.UnaryUnaryMultiCallable[Any, Response]",
        request: object,
        *,
        timeout: timedelta | None = None,
        metadata: Sequence[tuple[str, str]] = (),
    ) -> Response:
        """One request, one response.

        Raises:
            ServiceError: What the server said, or why it could not be asked.
        """
        call = method(request, timeout=self._timeout_s(timeout), metadata=[*self._metadata(), *metadata])
        response: Response = await _answer(call)
        return response

    async def client_stream(
        self,
        method: "grpc.aio.StreamUnaryMultiCallable[Any, Response]",
        requests: AsyncIterator[object],
        *,
        timeout: timedelta | None = None,
    ) -> Response:
        """Many requests, one response. Raises as `unary`."""
        call = method(requests, timeout=self._timeout_s(timeout), metadata=self._metadata())
        response: Response = await _answer(call)
        return response

    async def server_stream(
        self,
        method: "grpc.aio.UnaryStreamMultiCallable[Any, Response]",
        request: object,
        *,
        timeout: timedelta | None = None,
        metadata: Sequence[tuple[str, str]] = (),
    ) -> AsyncIterator[Response]:
        """One request, many responses; closing the iterator cancels the call. Raises as `unary`."""
        span = current_span()
        call = method(request, timeout=self._timeout_s(timeout), metadata=[*self._metadata(), *metadata])
        try:
            async for response in call:
                yield response
            if span is not None and span.recording.keep is None:
                span_wire.collect(span.recording, await call.trailing_metadata())
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error) from error
        finally:
            call.cancel()

    def _timeout_s(self, timeout: timedelta | None) -> float:
        wanted = self._default_s if timeout is None else timeout.total_seconds()
        left = remaining_s()
        if left is None:
            return wanted
        if left <= _REPLY_MARGIN_S:
            raise DeadlineExceeded("no time is left for another call", reason="DEADLINE_TOO_SHORT")
        return min(wanted, left - _REPLY_MARGIN_S)

    def _metadata(self) -> list[tuple[str, str]]:
        metadata = [("authorization", f"Bearer {self._issuer.token(current_caller())}")]
        span_wire.outgoing(metadata)
        return metadata


async def _answer(call: Any) -> Any:
    """The response of a call; spans that come with it are the current trace's. Raises: ServiceError."""
    span = current_span()
    recording = span.recording if span is not None and span.recording.keep is None else None
    try:
        response = await call
    except grpc.aio.AioRpcError as error:
        if recording is not None:
            span_wire.collect(recording, error.trailing_metadata())
        raise error_from_rpc(error) from error
    if recording is not None:
        span_wire.collect(recording, await call.trailing_metadata())
    return response
