"""The session service as a process, of this code or of another."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from servicekit.testing import TEST_KEY
from tests.support.ports import free_port

_READY_S = 30
_END_S = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionProcess:
    """A process that serves.

    Attributes:
        target: Where, as host:port.
        pid: For signals.
        log: What it wrote.
    """

    target: str
    pid: int
    log: Path


def environment(folder: Path, url: str, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Variables of a process that keeps its key in `folder`. PYTHONPATH in `extra`: other code."""
    key = folder / "identity.key"
    key.write_bytes(TEST_KEY.to_file())
    return {
        **{k: v for k, v in os.environ.items() if not k.startswith("AGENTTEAMS_")},
        "AGENTTEAMS_SESSION_DATABASE_URL": url,
        "AGENTTEAMS_HOST": "127.0.0.1",
        "AGENTTEAMS_IDENTITY_KEY_FILE": str(key),
        **(extra or {}),
    }


async def migrated(env: Mapping[str, str]) -> None:
    """Runs `python -m session migrate`."""
    process = await _spawn("migrate", env=env)
    output, _ = await asyncio.wait_for(process.communicate(), _READY_S)
    if process.returncode:
        raise RuntimeError(f"migrate failed:\n{output.decode(errors='replace')}")


@asynccontextmanager
async def serving(name: str, folder: Path, env: Mapping[str, str]) -> AsyncIterator[SessionProcess]:
    """A process until the block ends; its log goes to the test's output."""
    port = free_port()
    log = folder / f"{name}.log"
    with log.open("wb") as file:
        process = await _spawn(env={**env, "AGENTTEAMS_PORT": str(port)}, output=file.fileno())
    target = f"127.0.0.1:{port}"
    try:
        await _ready(target, process)
        yield SessionProcess(target=target, pid=process.pid, log=log)
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), _END_S)
            except TimeoutError:
                process.kill()
                await process.wait()
        print(f"--- {name}\n{log.read_text()}")  # noqa: T201  # shown by pytest if the test fails


async def _spawn(
    *arguments: str, env: Mapping[str, str], output: int = asyncio.subprocess.PIPE
) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "session",
        *arguments,
        env=env,
        stdout=output,
        stderr=asyncio.subprocess.STDOUT,
    )


async def _ready(target: str, process: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(_READY_S), grpc.aio.insecure_channel(target) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        while process.returncode is None:
            try:
                answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=1)
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    return
            except grpc.aio.AioRpcError:
                pass  # it starts
            await asyncio.sleep(0.05)  # nobody tells when it is ready
    raise RuntimeError("the session service ended before it was ready; its log is above")
