"""The life of the gateway process.

start -> listen -> /readyz answers 200 when the orchestrator does
SIGTERM -> /readyz 503 -> drain_delay -> no new connections -> open streams end, within the grace
"""

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager

import structlog
import uvicorn
import uvloop
from prometheus_client import start_http_server
from starlette.types import ASGIApp

from gateway.chat import OpenTurns
from gateway.settings import Settings
from servicekit import telemetry
from servicekit.logging import configure_logging

log = structlog.get_logger()

# Between the error that ends the last streams and the end of their connections.
_LAST_WORDS_S = 1.0


class _Server(uvicorn.Server):
    """Leaves signals to us."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Nothing to do."""
        yield


Build = Callable[[AsyncExitStack, OpenTurns], Awaitable[ASGIApp]]


def run(settings: Settings, build: Build) -> None:
    """Serves until SIGTERM or SIGINT. Exits with 1 if it cannot start."""
    configure_logging(service="gateway", level=settings.log_level)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    telemetry.setup_tracing(service="gateway", settings=settings)
    try:
        uvloop.run(_serve(settings, build))
    except (ValueError, OSError) as error:
        log.error("service_failed", error=str(error))
        sys.exit(1)
    finally:
        telemetry.shutdown_tracing()


async def _serve(settings: Settings, build: Build) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        if settings.metrics_port:
            exporter, _ = start_http_server(settings.metrics_port, addr=settings.host)
            stack.callback(exporter.shutdown)
        turns = OpenTurns()
        server = _Server(_config(await build(stack, turns), settings))
        listener = stack.enter_context(_listen(settings))
        async with asyncio.TaskGroup() as group:
            serving = group.create_task(server.serve(sockets=[listener]))
            log.info("service_started", port=listener.getsockname()[1], service_name="gateway")
            await stop.wait()
            log.info("service_stopping", open_turns=len(turns))
            turns.draining = True
            # Endpoints go on routing to us for a while after /readyz says 503.
            await asyncio.sleep(settings.drain_delay_s)
            server.should_exit = True
            done, _ = await asyncio.wait([serving], timeout=settings.grace_s)
            if not done:
                log.warning("turns_cut", open_turns=len(turns))
                turns.end_all()
    log.info("service_stopped")


def _config(app: ASGIApp, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=int(settings.grace_s + _LAST_WORDS_S) + 1,
    )


def _listen(settings: Settings) -> socket.socket:
    address = f"{settings.host}:{settings.port}"
    try:
        family = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.host, settings.port))
    except OSError as error:
        raise OSError(
            f"cannot listen on {address} ({error.strerror}): is the port taken? Set AGENTTEAMS_PORT."
        ) from error
    listener.setblocking(False)
    return listener
