"""A Milvus Lite server as a child process, for tests."""

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from pymilvus import MilvusClient

from tests.support.ports import free_port
from tests.support.run import tied

_START_TIMEOUT_S = 30


def bare_client(uri: str) -> MilvusClient:
    """A client of pymilvus: its usual pings every 10 s make Lite hang up on whoever shares the channel."""
    return MilvusClient(uri, timeout=10, dedicated=True, grpc_options={"grpc.keepalive_time_ms": 600_000})


class MilvusLite:
    """One server on a data folder; can be killed and started again on the same port."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()

    @property
    def uri(self) -> str:
        """For clients."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Returns when it answers: its port is open some time before."""
        # One worker: concurrent writers corrupt Lite's log.
        self._process = subprocess.Popen(
            [
                *tied(),
                str(Path(sys.executable).parent / "milvus-lite"),
                "server",
                *("--data-dir", str(self._data_dir)),
                *("--host", "127.0.0.1"),
                *("--port", str(self.port)),
                *("--max-workers", "1"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        give_up = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < give_up:
            if self._answers():
                return
            if self._process.poll() is not None:
                raise RuntimeError(f"milvus-lite exited with {self._process.returncode}")
            time.sleep(0.05)
        raise RuntimeError("milvus-lite does not answer")

    def _answers(self) -> bool:
        with grpc.insecure_channel(f"127.0.0.1:{self.port}") as channel:
            try:
                grpc.channel_ready_future(channel).result(timeout=1)
            except grpc.FutureTimeoutError:
                return False
        return True

    def kill(self) -> None:
        """As a crash would end it. Its log is written for each call, so nothing is lost."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """It keeps its connections and says nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Goes on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def milvus_lite(data_dir: Path) -> Iterator[MilvusLite]:
    """A running server, ended with the block."""
    server = MilvusLite(data_dir)
    server.start()
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="session")
def milvus_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MilvusLite]:
    """One server for all tests of the module that imports this; collections are unique to a test."""
    with milvus_lite(tmp_path_factory.mktemp("milvus")) as server:
        yield server
