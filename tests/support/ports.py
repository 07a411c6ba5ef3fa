"""Ports of 127.0.0.1 for servers that a test starts.

They lie below those that the kernel gives to clients and to whoever binds port 0, and no two workers of a
parallel run share one: what is free stays free until the server, which may take seconds to start, binds it.
"""

import os
import random
import socket
from contextlib import suppress
from pathlib import Path

HOST = "127.0.0.1"
_LOWEST, _USUAL_EPHEMERAL = 10_000, 32_768
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
_given: set[int] = set()


def free_port() -> int:
    """A port that nobody listens on, and that was not given to anybody before in this process."""
    return free_ports(1)[0]


def free_address() -> str:
    """The same with the host."""
    return f"{HOST}:{free_port()}"


def free_ports(count: int, *, apart: int = 0) -> list[int]:
    """So many, all different. `apart`: the port so far above each of them is free and the server's, too."""
    ours = _ours()
    found: list[int] = []
    for port in random.choices(ours, k=10_000):
        if len(found) == count:
            return found
        wanted = {port, port + apart}
        if not wanted & _given and all(one in ours and _is_free(one) for one in wanted):
            _given.update(wanted)
            found.append(port)
    raise RuntimeError(f"no {count} free ports from {ours.start} to {ours.stop}")


def _ours() -> range:
    """Those of this worker; of all workers together they are all."""
    above = _USUAL_EPHEMERAL
    with suppress(OSError):
        above = int(_EPHEMERAL.read_text().split()[0])
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    share = (max(above, _LOWEST + 10_000) - _LOWEST) // workers
    return range(_LOWEST + worker * share, _LOWEST + (worker + 1) * share)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
