"""The gateway's HTTP server in the test's own process."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

import uvicorn

from gateway.adapters.orchestrator_client import OrchestratorClient
from gateway.adapters.orchestrators import Orchestrators
from gateway.adapters.session_client import SessionClient
from gateway.app import build_app
from gateway.auth import Authenticator, LocalUser
from gateway.chat import Limits, OpenTurns
from servicekit.calls import issuer_for
from servicekit.client import RpcClient, open_channel
from servicekit.clock import SystemClock
from servicekit.testing import TEST_KEY


class _Server(uvicorn.Server):
    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        await self._serve(sockets)  # without taking the test runner's signals

    async def main_loop(self) -> None:
        self.asked_to_stop = asyncio.Event()
        await self.asked_to_stop.wait()  # at once, where the real loop looks ten times a second


@dataclass(frozen=True, kw_only=True)
class Gateway:
    """A gateway that listens."""

    url: str
    turns: OpenTurns


@asynccontextmanager
async def serve_gateway(
    target: str,
    *,
    auth: Authenticator | None = None,
    max_turns: int = 100,
    start_timeout_s: float = 5.0,
    run_timeout_s: float = 60.0,
    keep_alive_s: float = 15.0,
    reconnect_s: float = 10.0,
    session: str = "127.0.0.1:9",
) -> AsyncIterator[Gateway]:
    """Serves on a free loopback port."""
    stack = AsyncExitStack()

    def connect(target: str, *, owner: str = "") -> OrchestratorClient:
        issuer = issuer_for(TEST_KEY, owner=owner, service="gateway")
        return OrchestratorClient(
            RpcClient(open_channel(target), issuer=issuer, default_timeout=timedelta(seconds=10)),
            clock=SystemClock(),
            start_timeout=timedelta(seconds=start_timeout_s),
            follow_timeout=timedelta(seconds=run_timeout_s + 5),
            reconnect=timedelta(seconds=reconnect_s),
        )

    orchestrator = Orchestrators(target, connect=connect)
    stack.push_async_callback(orchestrator.close)
    limits = Limits(
        max_body_bytes=1024 * 1024,
        max_turns=max_turns,
        run_timeout=timedelta(seconds=run_timeout_s),
        keep_alive=timedelta(seconds=keep_alive_s),
    )
    turns = OpenTurns()
    stored = RpcClient(
        open_channel(session),
        issuer=issuer_for(TEST_KEY, owner="", service="gateway"),
        default_timeout=timedelta(seconds=10),
    )
    stack.push_async_callback(stored.channel.close)
    app = build_app(
        orchestrator=orchestrator,
        conversations=SessionClient(stored),
        auth=auth or LocalUser(),
        limits=limits,
        turns=turns,
    )
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    config = uvicorn.Config(
        app, http="httptools", ws="none", lifespan="off", log_config=None, access_log=False,
        timeout_graceful_shutdown=1,
    )  # fmt: skip
    server = _Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield Gateway(url=f"http://127.0.0.1:{listener.getsockname()[1]}", turns=turns)
    finally:
        server.asked_to_stop.set()
        await serving
        await stack.aclose()
