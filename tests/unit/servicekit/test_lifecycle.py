"""A service's process: ready, drained, stopped; and what it says when it cannot start."""

import asyncio
import os
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from agentteams.embedding.v1 import embedding_service_pb2 as pb
from agentteams.embedding.v1 import embedding_service_pb2_grpc as pb_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from servicekit.errors import Unavailable
from servicekit.testing import TEST_KEY, rpc_as
from tests.support.ports import free_port

ROOT = Path(__file__).parents[3]
Start = Callable[..., Awaitable[Process]]


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
async def start(tmp_path: Path, port: int) -> AsyncIterator[Start]:
    (tmp_path / "key").write_bytes(TEST_KEY.to_file())
    processes = []

    async def launch(**extra: str) -> Process:
        environment = os.environ | {
            "AGENTTEAMS_PORT": str(port),
            "AGENTTEAMS_IDENTITY_KEY_FILE": str(tmp_path / "key"),
            "ECHO_READY_FILE": str(tmp_path / "ready"),
            "ECHO_ANSWER_FILE": str(tmp_path / "answer"),
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.support.echo_service",
            cwd=ROOT, env=environment | extra, stdout=PIPE, stderr=PIPE,
        )  # fmt: skip
        processes.append(process)
        return process

    yield launch
    for process in processes:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def log_line(process: Process, event: str) -> None:
    assert process.stderr is not None
    async with asyncio.timeout(20):
        while line := await process.stderr.readline():
            if event.encode() in line:
                return
    raise AssertionError(f"the process ended without {event}")


async def health(port: int) -> int:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=5)
        return int(answer.status)


async def test_ready_only_when_its_dependencies_are(start: Start, port: int, tmp_path: Path) -> None:
    process = await start()
    await log_line(process, "service_not_ready")
    assert await health(port) == health_pb2.HealthCheckResponse.NOT_SERVING
    (tmp_path / "ready").touch()
    await log_line(process, "service_ready")
    assert await health(port) == health_pb2.HealthCheckResponse.SERVING


async def test_sigterm_lets_calls_in_flight_end_and_then_closes(
    start: Start, port: int, tmp_path: Path
) -> None:
    (tmp_path / "ready").touch()
    process = await start()
    await log_line(process, "service_ready")
    async with rpc_as(f"127.0.0.1:{port}") as rpc:
        call = asyncio.create_task(
            rpc.unary(
                pb_grpc.EmbeddingServiceStub(rpc.channel).Embed, pb.EmbedRequest(model="slow", texts=["a"])
            )
        )
        assert process.stdout is not None
        assert await process.stdout.readline() == b"call\n"
        process.send_signal(signal.SIGTERM)
        await log_line(process, "service_stopping")
        (tmp_path / "answer").touch()
        answer = await call
    assert answer.dimension == 1
    assert await process.wait() == 0
    assert await process.stdout.readline() == b"closed\n"


async def test_sigterm_ends_a_call_that_outlasts_the_grace(start: Start, port: int, tmp_path: Path) -> None:
    (tmp_path / "ready").touch()
    process = await start(AGENTTEAMS_GRACE_S="0.2")
    await log_line(process, "service_ready")
    async with rpc_as(f"127.0.0.1:{port}") as rpc:
        call = asyncio.create_task(
            rpc.unary(pb_grpc.EmbeddingServiceStub(rpc.channel).Embed, pb.EmbedRequest(model="slow"))
        )
        assert process.stdout is not None
        assert await process.stdout.readline() == b"call\n"
        process.send_signal(signal.SIGTERM)
        with pytest.raises(Unavailable):
            await call
        assert await asyncio.wait_for(process.wait(), 10) == 0


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"AGENTTEAMS_IDENTITY_KEY_FILE": "absent.key"}, "absent.key: No such file"),
        ({}, "is the port taken? Set AGENTTEAMS_PORT"),
    ],
)
async def test_what_keeps_it_from_starting_is_named(
    start: Start, port: int, setting: dict[str, str], says: str
) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", port))
        sock.listen()
        process = await start(**setting)
        _, errors = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 1
    assert says in errors.decode()
    assert "Traceback" not in errors.decode()
