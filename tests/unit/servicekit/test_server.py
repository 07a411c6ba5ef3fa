"""The server's interceptor and the client, over a real connection."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import grpc
import pytest
from agentteams.embedding.v1 import embedding_service_pb2 as pb
from agentteams.embedding.v1 import embedding_service_pb2_grpc as pb_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from servicekit.client import RpcClient, open_channel
from servicekit.context import Caller, current_caller, remaining, scope
from servicekit.errors import (
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)
from servicekit.identity import IdentityKey, TokenIssuer
from servicekit.server import Service
from servicekit.testing import TEST_KEY, rpc_as, serve_in_process


class Servicer(pb_grpc.EmbeddingServiceServicer):
    """Answers with what it was told about the call."""

    seen: Caller | None = None
    left: timedelta | None = None
    calls = 0

    async def Embed(self, request: pb.EmbedRequest, context: Any) -> pb.EmbedResponse:
        self.calls += 1
        self.seen, self.left = current_caller(), remaining()
        match request.model:
            case "missing":
                raise NotFound("no model x", reason="MODEL_NOT_FOUND", metadata={"model": "x"})
            case "wrong":
                raise InvalidArgument.field("texts[0]", "must not be empty", "")
            case "busy":
                raise ResourceExhausted("busy", reason="MODEL_RATE_LIMITED", retry_after=timedelta(seconds=3))
            case "bug":
                raise ZeroDivisionError("secret detail")
            case "flaky" if self.calls < 3:
                raise Unavailable("not yet", reason="DEPENDENCY_UNAVAILABLE")
            case "model-down":
                raise Unavailable("no model", reason="MODEL_UNAVAILABLE")
            case "slow":
                await asyncio.Event().wait()
        return pb.EmbedResponse(dimension=3)

    async def GetEmbeddingModel(self, request: Any, context: Any) -> pb.EmbeddingModel:
        raise AssertionError("not called")


@pytest.fixture
async def served() -> AsyncIterator[tuple[Servicer, str]]:
    servicer = Servicer()
    service = Service(
        name="agentteams.embedding.v1.EmbeddingService",
        register=lambda server: pb_grpc.add_EmbeddingServiceServicer_to_server(servicer, server),
    )
    async with serve_in_process([service]) as target:
        yield servicer, target


@pytest.fixture
async def rpc(served: tuple[Servicer, str]) -> AsyncIterator[RpcClient]:
    async with rpc_as(served[1], tenant="team-a", user="ann") as client:
        yield client


def stub(rpc: RpcClient) -> Any:
    return pb_grpc.EmbeddingServiceStub(rpc.channel)


async def test_caller_and_shrinking_deadline_reach_the_handler(
    served: tuple[Servicer, str], rpc: RpcClient
) -> None:
    with scope(caller=Caller("team-a", "ann"), timeout=timedelta(seconds=5)):
        await rpc.unary(stub(rpc).Embed, pb.EmbedRequest())
    assert served[0].seen == Caller("team-a", "ann")
    assert served[0].left is not None
    assert timedelta(seconds=4) < served[0].left < timedelta(seconds=4.97)


@pytest.mark.parametrize(
    ("model", "error", "reason"),
    [
        ("missing", NotFound, "MODEL_NOT_FOUND"),
        ("wrong", InvalidArgument, "INVALID_FIELD"),
        ("busy", ResourceExhausted, "MODEL_RATE_LIMITED"),
        ("bug", Internal, "INTERNAL"),
    ],
)
async def test_errors_keep_type_reason_and_details(
    rpc: RpcClient, model: str, error: type[Exception], reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(error) as caught:
        await rpc.unary(stub(rpc).Embed, pb.EmbedRequest(model=model))
    raised: Any = caught.value
    assert raised.reason == reason
    assert "secret detail" not in raised.message
    if model == "missing":
        assert raised.metadata == {"model": "x"}
    if model == "wrong":
        assert raised.violations[0].field == "texts[0]"
    if model == "busy":
        assert raised.retry_after == timedelta(seconds=3)
    if model == "bug":
        assert "ZeroDivisionError" in "".join(capfd.readouterr())


async def test_only_unavailable_is_retried(served: tuple[Servicer, str], rpc: RpcClient) -> None:
    await rpc.unary(stub(rpc).Embed, pb.EmbedRequest(model="flaky"))
    assert served[0].calls == 3
    with pytest.raises(NotFound):
        await rpc.unary(stub(rpc).Embed, pb.EmbedRequest(model="missing"))
    assert served[0].calls == 4


async def test_what_the_service_has_repeated_itself_is_not_repeated_by_the_channel(
    served: tuple[Servicer, str], rpc: RpcClient
) -> None:
    with pytest.raises(Unavailable, match="no model"):
        await rpc.unary(stub(rpc).Embed, pb.EmbedRequest(model="model-down"))
    assert served[0].calls == 1


async def test_a_call_ends_at_its_deadline(rpc: RpcClient) -> None:
    with pytest.raises(DeadlineExceeded):
        await rpc.unary(stub(rpc).Embed, pb.EmbedRequest(model="slow"), timeout=timedelta(milliseconds=200))


async def test_too_short_a_deadline_is_refused_before_the_handler(
    served: tuple[Servicer, str], rpc: RpcClient
) -> None:
    with pytest.raises(DeadlineExceeded):
        await rpc.unary(stub(rpc).Embed, pb.EmbedRequest(), timeout=timedelta(milliseconds=60))
    assert served[0].calls == 0


async def test_a_forged_token_is_refused_and_health_needs_none(served: tuple[Servicer, str]) -> None:
    channel = open_channel(served[1])
    forger = TokenIssuer(IdentityKey(b"another key, also of 32 bytes or more"), service="x")
    client = RpcClient(channel, issuer=forger, default_timeout=timedelta(seconds=5))
    with scope(caller=Caller("team-a", "ann")), pytest.raises(Unauthenticated):
        await client.unary(stub(client).Embed, pb.EmbedRequest())
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub(client).Embed(pb.EmbedRequest(), timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    health: Any = health_pb2_grpc.HealthStub(channel)
    answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=5)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    await channel.close()


async def test_a_call_without_a_caller_is_refused_at_the_client(served: tuple[Servicer, str]) -> None:
    channel = open_channel(served[1])
    client = RpcClient(
        channel, issuer=TokenIssuer(TEST_KEY, service="x"), default_timeout=timedelta(seconds=5)
    )
    with scope(), pytest.raises(Unauthenticated):
        await client.unary(stub(client).Embed, pb.EmbedRequest())
    await channel.close()
