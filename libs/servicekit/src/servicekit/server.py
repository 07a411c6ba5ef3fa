"""The life of a service process.

start -> listen, NOT_SERVING -> `ready` answers -> SERVING
SIGTERM -> NOT_SERVING -> drain_delay -> drain() -> stop(grace) -> adapters closed in reverse
"""

import asyncio
import gc
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import grpc
import structlog
import uvloop
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import start_http_server

from servicekit import telemetry
from servicekit.calls import CallVerifier
from servicekit.client import MAX_MESSAGE_BYTES
from servicekit.config import ServerSettings
from servicekit.errors import ServiceError
from servicekit.identity import IdentityKey, TokenVerifier, load_key
from servicekit.interceptors import ServerInterceptor
from servicekit.logging import configure_logging

log = structlog.get_logger()

_READY_RETRY_S = 0.25
_READY_RETRY_MAX_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One gRPC service.

    Attributes:
        name: Its full name.
        register: Adds it to a server.
        called_across: Whether callers of other tenants may reach it (servicekit.calls): it checks each call.
    """

    name: str
    register: Callable[[grpc.aio.Server], None]
    called_across: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Assembly:
    """All that a process runs.

    Attributes:
        services: What it serves.
        ready: Raises until the process can answer calls; asked again with back-off.
        tasks: Loops for the process' life; one that ends in an error ends the process.
        drain: Called at a stop before calls are refused: finish or hand over work.
    """

    services: Sequence[Service]
    ready: Callable[[], Awaitable[None]] | None = None
    tasks: Sequence[Callable[[], Awaitable[None]]] = field(default=())
    drain: Callable[[], Awaitable[None]] | None = None


Build = Callable[[AsyncExitStack], Awaitable[Assembly]]


def run(settings: ServerSettings, *, name: str, build: Build) -> None:
    """Runs a service until SIGTERM or SIGINT. Exits with 1 if it cannot start or a task fails."""
    configure_logging(service=name, level=settings.log_level)
    telemetry.setup_tracing(service=name, settings=settings)
    try:
        uvloop.run(_serve(settings, name=name, build=build))
    except ExceptionGroup as group:
        for error in group.exceptions:
            log.error("service_failed", exc_info=error)
        sys.exit(1)
    except (ValueError, OSError, ServiceError) as error:
        log.error("service_failed", error=str(error))
        sys.exit(1)
    finally:
        telemetry.shutdown_tracing()


def new_server(
    services: Sequence[Service], *, key: IdentityKey, name: str = ""
) -> tuple[grpc.aio.Server, health.aio.HealthServicer]:
    """A server with the interceptor, health and reflection. Its spans are those of service `name`."""
    # One for all services of a server: none may be reached that does not look who calls.
    across = bool(services) and all(service.called_across for service in services)
    verifier = CallVerifier(key) if across else TokenVerifier(key)
    server = grpc.aio.server(
        interceptors=[ServerInterceptor(verifier, service=name)],
        options=[
            ("grpc.so_reuseport", 0),  # a taken port is an error, not a silent second listener
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            # Clients look up the name again when they connect anew: so they find pods that were added.
            # Calls that are under way, streams too, end in their own time.
            ("grpc.max_connection_age_ms", 600_000),
        ],
    )
    for service in services:
        service.register(server)
    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    names = [*(service.name for service in services), health.SERVICE_NAME, reflection.SERVICE_NAME]
    reflection.enable_server_reflection(names, server)
    return server, servicer


def _spare_the_collector() -> None:
    """What was made at the start lives as long as the process: full collections need not walk it."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)  # 700 by default: a turn makes thousands of objects, few in cycles


async def _serve(settings: ServerSettings, *, name: str, build: Build) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    key = load_key(settings.identity_key_file)
    async with AsyncExitStack() as stack:
        if settings.metrics_port:
            exporter, _ = start_http_server(settings.metrics_port, addr=settings.host)
            stack.callback(exporter.shutdown)
        assembly = await build(stack)
        server, servicer = new_server(assembly.services, key=key, name=name)
        address = f"{settings.host}:{settings.port}"
        try:
            port = server.add_insecure_port(address)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {address}: is the port taken? Set AGENTTEAMS_PORT.") from error
        await _set_health(servicer, assembly, health_pb2.HealthCheckResponse.NOT_SERVING)
        await server.start()
        _spare_the_collector()
        log.info("service_started", port=port, service_name=name)
        async with asyncio.TaskGroup() as group:
            background = [group.create_task(_forever(task)) for task in assembly.tasks]
            ready = group.create_task(_become_ready(assembly, servicer))
            await stop.wait()
            log.info("service_stopping")
            ready.cancel()
            await _set_health(servicer, assembly, health_pb2.HealthCheckResponse.NOT_SERVING)
            # Endpoints go on routing to us for a while after NOT_SERVING.
            await asyncio.sleep(settings.drain_delay_s)
            if assembly.drain is not None:
                await assembly.drain()
            await server.stop(settings.grace_s)
            for task in background:
                task.cancel()
    log.info("service_stopped")


async def _forever(task: Callable[[], Awaitable[None]]) -> None:
    await task()
    raise RuntimeError(f"background task {getattr(task, '__qualname__', task)} ended")


async def _become_ready(assembly: Assembly, servicer: health.aio.HealthServicer) -> None:
    delay = _READY_RETRY_S
    while assembly.ready is not None:
        try:
            await assembly.ready()
            break
        except (ServiceError, OSError, TimeoutError) as error:
            log.warning("service_not_ready", error=str(error), retry_s=delay)
            await asyncio.sleep(delay)
            delay = min(delay * 2, _READY_RETRY_MAX_S)
    await _set_health(servicer, assembly, health_pb2.HealthCheckResponse.SERVING)
    log.info("service_ready")


async def _set_health(
    servicer: health.aio.HealthServicer,
    assembly: Assembly,
    status: int,
) -> None:
    for name in ["", *(service.name for service in assembly.services)]:
        await servicer.set(name, status)
