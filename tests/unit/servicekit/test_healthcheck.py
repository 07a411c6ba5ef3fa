"""The command that containers ask."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

from grpc_health.v1 import health_pb2

from servicekit.server import new_server
from servicekit.testing import TEST_KEY

_NOBODY = "1"  # a port that needs more rights than a test has to listen on


async def check(**environment: str) -> tuple[int, str]:
    return await asyncio.to_thread(_check, environment)


def _check(environment: dict[str, str]) -> tuple[int, str]:
    result = subprocess.run(
        [sys.executable, "-m", "servicekit.healthcheck"],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return result.returncode, result.stderr


async def test_what_serves_is_healthy_and_what_starts_or_is_not_there_is_not() -> None:
    server, health = new_server([], key=TEST_KEY)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        for status in ("NOT_SERVING", "SERVING"):
            await health.set("", health_pb2.HealthCheckResponse.ServingStatus.Value(status))
            code, said = await check(AGENTTEAMS_PORT=str(port))
            assert (code, status in said) == ((0, False) if status == "SERVING" else (1, True))
    finally:
        await server.stop(None)
    assert (await check(AGENTTEAMS_PORT=_NOBODY))[0] == 1
    code, said = await check(AGENTTEAMS_HEALTH_URL=f"http://127.0.0.1:{_NOBODY}/healthz")
    assert code == 1
    assert "/healthz" in said


async def test_what_speaks_no_grpc_is_asked_whether_it_listens() -> None:
    listening = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    async with listening:
        port = str(listening.sockets[0].getsockname()[1])
        asked = {"AGENTTEAMS_HEALTH_URL": "tcp://127.0.0.1:{port}"}
        assert await check(AGENTTEAMS_PORT=port, **asked) == (0, "")
        code, said = await check(AGENTTEAMS_PORT=_NOBODY, **asked)
    assert (code, f"tcp://127.0.0.1:{_NOBODY}: " in said) == (1, True)


def test_only_what_an_image_needs_is_sent_to_its_build() -> None:
    ignored = (Path(__file__).parents[3] / ".dockerignore").read_text().splitlines()
    assert ignored[0] == "*"
    assert not [line for line in ignored if "secret" in line or line in ("!.agentteams", "!.git")]
