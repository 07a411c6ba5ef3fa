"""`python -m servicekit.healthcheck`: exits 0 if the service of this container answers that it serves.

For engines that run a command; Kubernetes asks by itself. The port is AGENTTEAMS_PORT; what does not speak
gRPC's health protocol is asked as AGENTTEAMS_HEALTH_URL says: a page, or whether tcp://host:port listens.
"{port}" in it is AGENTTEAMS_PORT.
"""

import os
import socket
import sys
import urllib.error
import urllib.request
from urllib.parse import urlsplit

_TIMEOUT_S = 2.0


def problem() -> str:
    """Why it is not healthy; empty if it is."""
    port = os.environ.get("AGENTTEAMS_PORT", "")
    url = os.environ.get("AGENTTEAMS_HEALTH_URL", "").replace("{port}", port)
    if url.startswith("tcp:"):
        return _tcp(url)
    return _http(url) if url else _grpc(f"127.0.0.1:{port}")


def _tcp(url: str) -> str:
    where = urlsplit(url)
    try:
        with socket.create_connection((where.hostname, where.port), timeout=_TIMEOUT_S):
            return ""
    except OSError as error:
        return f"{url}: {error}"


def _http(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S):
            return ""
    except (OSError, urllib.error.URLError) as error:
        return f"{url}: {error}"


def _grpc(target: str) -> str:
    import grpc  # noqa: PLC0415  not every image has it
    from grpc_health.v1 import health_pb2, health_pb2_grpc  # noqa: PLC0415

    with grpc.insecure_channel(target) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check  # type: ignore[attr-defined]  # it ships no types
        try:
            answer = check(health_pb2.HealthCheckRequest(), timeout=_TIMEOUT_S)
        except grpc.RpcError as error:
            return f"{target}: {error.code().name}"
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        return f"{target}: {health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)}"
    return ""


if __name__ == "__main__":
    found = problem()
    sys.exit(f"not healthy: {found}" if found else 0)
