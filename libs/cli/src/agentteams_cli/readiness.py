"""When is a service ready?"""

import asyncio
from collections.abc import Awaitable, Callable

import grpc
from grpc_health.v1 import health_pb2

from agentteams_cli.ports import HOST

ATTEMPT_S = 2.0
Check = grpc.aio.UnaryUnaryMultiCallable[health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse]
Probe = Callable[[int], Awaitable[None]]
"""Returns when the service on that port is ready now, raises NotReady otherwise."""


class NotReady(Exception):
    """Says what was seen instead."""


async def grpc_health(port: int) -> None:
    """A service of ours: its health service says SERVING."""
    async with grpc.aio.insecure_channel(f"{HOST}:{port}") as channel:
        check: Check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        try:
            response = await check(health_pb2.HealthCheckRequest(), timeout=ATTEMPT_S)
        except grpc.aio.AioRpcError as exc:
            raise NotReady(f"gRPC {exc.code().name}") from exc
    if response.status != health_pb2.HealthCheckResponse.SERVING:
        name = health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)
        raise NotReady(f"health says {name}: it waits for something that it needs")


async def milvus(port: int) -> None:
    """A Milvus server: it answers gRPC, whatever it says."""
    async with grpc.aio.insecure_channel(f"{HOST}:{port}") as channel:
        ask: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
            "/milvus.proto.milvus.MilvusService/GetVersion"
        )
        try:
            await ask(b"", timeout=ATTEMPT_S)
        except grpc.aio.AioRpcError as exc:
            if exc.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                raise NotReady(f"gRPC {exc.code().name}") from exc


_MAX_ANSWER = 64 * 1024


def http_ok(path: str) -> Probe:
    """An HTTP server: GET of the path gives 200."""

    async def probe(port: int) -> None:
        try:
            async with asyncio.timeout(ATTEMPT_S):
                status, body = await _get(port, path)
        except (OSError, TimeoutError) as exc:
            raise NotReady(f"GET {path}: {type(exc).__name__}") from exc
        if status != 200:
            raise NotReady(f"GET {path} gave {status} {body[:200]}".strip())

    return probe


async def _get(port: int, path: str) -> tuple[int, str]:
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {HOST}:{port}\r\nConnection: close\r\n\r\n".encode())
        answered = b""
        while len(answered) < _MAX_ANSWER and (more := await reader.read(_MAX_ANSWER)):
            answered += more  # head and body may come in packets of their own
        answer = answered.decode("utf-8", "replace")
    finally:
        writer.close()
    head, _, body = answer.partition("\r\n\r\n")
    words = head.split(" ", 2)
    if len(words) < 2 or not words[1].isdigit():
        raise OSError("no HTTP answer")
    return int(words[1]), body
