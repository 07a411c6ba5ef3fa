"""The operator as a real process against a real API server, and an endpoint for it to ask."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.support.kube import Cluster, KubectlError

WAIT_S = 40.0
KEY = b"a key for tests only, 32 bytes or more"


class Operator:
    """A process that runs, with its log."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self._log = log

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def leads(self) -> bool:
        """Whether it ever held the lease."""
        return '"leading"' in self.log

    def kill(self) -> None:
        """As the kernel does."""
        self.process.kill()
        self.process.wait(WAIT_S)

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(WAIT_S)


def operator_environment(
    kubeconfig: Path, folder: Path, *, namespaces: list[str] | None = None, key: bytes = KEY, **settings: Any
) -> dict[str, str]:
    """What an operator of a test finds in its environment."""
    key_file = folder / "identity-key"
    key_file.write_bytes(key)
    return os.environ | {
        "KUBECONFIG": str(kubeconfig),
        "AGENTTEAMS_IDENTITY_KEY_FILE": str(key_file),
        "AGENTTEAMS_NAMESPACES": json.dumps(namespaces or []),
        **{f"AGENTTEAMS_{name.upper()}": str(value) for name, value in settings.items()},
    }


@contextmanager
def running_operator(
    cluster: Cluster,
    folder: Path,
    *,
    namespaces: list[str] | None = None,
    key: bytes = KEY,
    kubeconfig: Path | None = None,
    **settings: Any,
) -> Iterator[Operator]:
    """An operator for the block. Killed at the end, if it still runs."""
    environment = operator_environment(
        kubeconfig or cluster.kubeconfig, folder, namespaces=namespaces, key=key, **settings
    )
    number = len(list(folder.glob("operator-*.log")))
    log = folder / f"operator-{number}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "agentteams_operator"], env=environment, stdout=output, stderr=output
        )
    operator = Operator(process, log)
    try:
        yield operator
    finally:
        if process.poll() is None:
            operator.kill()


def condition(found: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """A condition of an object, or nothing."""
    conditions = found.get("status", {}).get("conditions", [])
    return next((c for c in conditions if c["type"] == kind), {})


def await_condition(
    cluster: Cluster, namespace: str, name: str, kind: str, reason: str, *, wait_s: float = WAIT_S
) -> dict[str, Any]:
    """Waits until a condition of the object's newest generation has that reason; returns the object."""
    deadline = time.monotonic() + wait_s
    while True:
        try:
            found = cluster.get(name, f"--namespace={namespace}")
        except KubectlError as error:
            found = {"metadata": {"generation": -1}, "error": str(error)}
        seen = condition(found, kind)
        if seen.get("reason") == reason and seen.get("observedGeneration") == found["metadata"]["generation"]:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"{kind} is not {reason} after {wait_s} s: {json.dumps(found, indent=1)}")
        time.sleep(0.1)


class FakeEndpoint:
    """An OpenAI-compatible endpoint whose mood can change.

    Attributes:
        status: What it answers with; 200 and the rest below.
        models: What it serves.
        dimensions: Of its vectors.
        key: What it asks for; empty: nothing.
        asked: Paths, in order.
    """

    def __init__(self) -> None:
        self.status = 200
        self.models = ["m"]
        self.dimensions = 8
        self.key = ""
        self.asked: list[str] = []
        self.url = ""

    def answer(self, path: str, authorization: str) -> tuple[int, object]:
        self.asked.append(path)
        if self.key and authorization != f"Bearer {self.key}":
            return 401, {"error": "THE-ANSWER-OF-THE-ENDPOINT"}
        if self.status != 200:
            return self.status, {"error": "THE-ANSWER-OF-THE-ENDPOINT"}
        if path.endswith("/models"):
            return 200, {"data": [{"id": name} for name in self.models]}
        if path.endswith("/embeddings"):
            return 200, {"data": [{"index": 0, "embedding": [0.5] * self.dimensions}]}
        return 200, {"results": []}


@contextmanager
def fake_endpoint() -> Iterator[FakeEndpoint]:
    """Serves on a free port for the block."""
    endpoint = FakeEndpoint()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            self.rfile.read(length)
            code, answer = endpoint.answer(self.path, self.headers.get("authorization", ""))
            body = json.dumps(answer).encode()
            self.send_response(code)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    endpoint.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield endpoint
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def model(endpoint: FakeEndpoint, name: str = "m", **spec: Any) -> dict[str, Any]:
    given = {"type": "Chat", "provider": "OpenAICompatible", "model": "m", "endpoint": {"url": endpoint.url}}
    return {
        "apiVersion": "agentteams.dev/v1alpha1",
        "kind": "ModelConfig",
        "metadata": {"name": name},
        "spec": given | spec,
    }
