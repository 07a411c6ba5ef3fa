"""The gateway as a process: how it starts, refuses to start, and stops."""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from servicekit.testing import TEST_KEY
from tests.support.fake_orchestrator import FakeOrchestrator, answer, deltas, items, started

pytestmark = pytest.mark.slow
BODY: dict[str, Any] = {"model": "support", "messages": [{"role": "user", "content": "Hi?"}], "stream": True}


async def launch(folder: Path, target: str, **settings: object) -> asyncio.subprocess.Process:
    key = folder / "key"
    key.write_bytes(TEST_KEY.to_file())
    named = {"identity_key_file": key, "orchestrator_target": target, "port": 0} | settings
    environment = {f"AGENTTEAMS_{name.upper()}": str(value) for name, value in named.items()}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AGENTTEAMS_")}
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", env=kept | environment, stderr=asyncio.subprocess.PIPE
    )


async def until_logged(process: asyncio.subprocess.Process, event: str) -> dict[str, Any]:
    assert process.stderr is not None
    async with asyncio.timeout(20):
        async for line in process.stderr:
            entry = json.loads(line)
            if entry["event"] == event:
                return dict(entry)
    raise AssertionError(f"the process ended before it logged {event}")


@asynccontextmanager
async def running(
    folder: Path, target: str, **settings: object
) -> AsyncIterator[tuple[asyncio.subprocess.Process, httpx.AsyncClient]]:
    process = await launch(folder, target, **settings)
    try:
        port = (await until_logged(process, "service_started"))["port"]
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
            yield process, client
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_a_stop_waits_for_open_streams(tmp_path: Path) -> None:
    orchestrator = FakeOrchestrator()
    gate = asyncio.Event()
    orchestrator.streams[0] = items(*answer("Hello")[:2], gate, *answer("Hello")[2:])
    async with (
        orchestrator.serve() as target,
        running(tmp_path, target, drain_delay_s=1.0, grace_s=10) as (process, client),
        httpx.AsyncClient(base_url=client.base_url) as prober,
    ):
        assert (await prober.get("/readyz")).status_code == 200
        async with client.stream("POST", "/v1/chat/completions", json=BODY) as response:
            lines = response.aiter_lines()
            assert '"role":"assistant"' in await anext(lines)
            process.send_signal(signal.SIGTERM)
            await until_logged(process, "service_stopping")
            assert (await prober.get("/readyz")).status_code == 503
            gate.set()
            rest = [line async for line in lines]
        assert rest[-2] == "data: [DONE]"
        async with asyncio.timeout(10):
            assert await process.wait() == 0


async def test_after_the_grace_open_streams_end_with_words(tmp_path: Path) -> None:
    orchestrator = FakeOrchestrator()
    orchestrator.streams[0] = items(started(), *deltas("Well,"), asyncio.Event())
    async with orchestrator.serve() as target, running(tmp_path, target, grace_s=0.2) as (process, client):
        async with client.stream("POST", "/v1/chat/completions", json=BODY) as response:
            lines = response.aiter_lines()
            await anext(lines)
            process.send_signal(signal.SIGTERM)
            rest = [line async for line in lines if line]
        assert json.loads(rest[-1].removeprefix("data: "))["error"]["code"] == "gateway_stopping"
        async with asyncio.timeout(10):
            assert await process.wait() == 0


async def test_metrics(tmp_path: Path, unused_tcp_port: int) -> None:
    orchestrator = FakeOrchestrator()
    async with (
        orchestrator.serve() as target,
        running(tmp_path, target, metrics_port=unused_tcp_port) as (_, client),
    ):
        assert (await client.post("/v1/chat/completions", json=BODY)).status_code == 200
        page = (await client.get(f"http://127.0.0.1:{unused_tcp_port}/metrics")).text
    assert 'agentteams_http_request_duration_seconds_count{code="200",stream="true"} 1.0' in page
    assert "agentteams_http_open_turns 0.0" in page


async def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = await launch(tmp_path, "127.0.0.1:1", port=port)
        _, stderr = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 1
    assert f"127.0.0.1:{port}".encode() in stderr
    assert b"AGENTTEAMS_PORT" in stderr


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"host": "0.0.0.0"}, "AGENTTEAMS_API_KEYS_FILE"),
        ({"api_keys_file": "none.yaml"}, "none.yaml"),
        ({"port": "many"}, "port"),
        ({"identity_key_file": "none.key"}, "none.key"),
    ],
)
async def test_wrong_settings_are_named(tmp_path: Path, settings: dict[str, object], named: str) -> None:
    process = await launch(tmp_path, "127.0.0.1:1", **settings)
    _, stderr = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 1
    assert named in stderr.decode()
    assert "Traceback" not in stderr.decode()
