"""Which port each service listens on."""

import contextlib
import errno
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from agentteams_cli.errors import StackError, UsageProblem

HOST = "127.0.0.1"
METRICS_OFFSET = 1000

DEFAULT_PORTS: Mapping[str, int] = {
    "milvus": 19530,
    "embedding": 50051,
    "retrieval": 50052,
    "session": 50053,
    "orchestrator": 50054,
    "evaluation": 50056,
    "gateway": 8080,
    "chat": 50060,
}
WITHOUT_METRICS = frozenset({"milvus", "chat"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """A service's ports; `metrics` is 0 where it has none."""

    port: int
    metrics: int


def allocate(services: Mapping[str, int]) -> dict[str, Port]:
    """Free ports for all services. 0 picks one; the metrics port is then picked too, else it is port + 1000.

    Raises:
        StackError: A wanted port is taken; says by which service's setting it is changed.
    """
    result: dict[str, Port] = {}
    with contextlib.ExitStack() as held:
        # All are held until all are known, so that two services never get the same one.
        wanted = sorted(services.items(), key=lambda item: item[1] == 0)
        for name, port in wanted:
            metrics = 0 if name in WITHOUT_METRICS else port + METRICS_OFFSET
            if port == 0:
                actual = _hold(held, name, 0)
                result[name] = Port(
                    port=actual, metrics=0 if name in WITHOUT_METRICS else _hold(held, name, 0)
                )
            else:
                _hold(held, name, port)
                if metrics:
                    _hold(held, name, metrics)
                result[name] = Port(port=port, metrics=metrics)
    return result


def _hold(held: contextlib.ExitStack, name: str, port: int) -> int:
    listener = held.enter_context(socket.socket())
    # As the services bind: a port in TIME_WAIT is free.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        listener.listen(1)
    except OSError as exc:
        if exc.errno != errno.EADDRINUSE:
            raise StackError(
                f"{name} cannot listen on port {port}: {exc.strerror}", fix=f"choose another: {option(name)}"
            ) from exc
        raise StackError(
            f"port {port}, which {name} needs, is taken",
            fix=f"stop what uses it, or choose another with {option(name)} (0 picks a free one)",
        ) from exc
    return int(listener.getsockname()[1])


def option(name: str) -> str:
    """The option that changes a service's port."""
    return f"--port {name}=PORT"


def parse_ports(settings: tuple[str, ...]) -> dict[str, int]:
    """`("gateway=9000",)` to a mapping.

    Raises:
        UsageProblem: No such service, or no port.
    """
    ports: dict[str, int] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if name not in DEFAULT_PORTS or not equals:
            raise UsageProblem(
                f"--port {setting}: must be SERVICE=PORT", fix=f"services: {', '.join(DEFAULT_PORTS)}"
            )
        # The metrics port is 1000 above.
        if not text.isdigit() or int(text) > 65535 - METRICS_OFFSET:
            raise UsageProblem(
                f"--port {setting}: must be a number from 0 to {65535 - METRICS_OFFSET}",
                fix="0 picks a free one",
            )
        ports[name] = int(text)
    return ports
