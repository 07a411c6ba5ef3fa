"""Milvus Standalone 2.3.5, the real server, as a child process, for tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.support.milvus_binary import milvus_folder
from tests.support.milvus_config import SECTIONS, base_config, write_config
from tests.support.milvus_process import NotStarted, ServerProcess, healthy
from tests.support.ports import free_ports

_START_TIMEOUT_S = 60
_ATTEMPTS = 3  # another process may take a port between our look and the server's


class MilvusStandalone:
    """One server on a data folder; can be frozen, killed and started again on the same port."""

    def __init__(self, binaries: Path, folder: Path) -> None:
        self._binaries = binaries
        self._folder = folder
        self._process: ServerProcess | None = None
        self.port = self._metrics = 0

    @property
    def uri(self) -> str:
        """For clients."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Returns when it is healthy."""
        if self._process is not None:
            self._run(self._process)
            return
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                self._run(self._configured())
            except NotStarted:
                if attempt == _ATTEMPTS:
                    raise
            else:
                return

    @property
    def alive(self) -> bool:
        """It was started and has not ended."""
        return self._process is not None and self._process.alive

    def kill(self) -> None:
        """As a crash would end it; nothing that was acknowledged is lost."""
        if self._process is not None:
            self._process.kill()

    def freeze(self) -> None:
        """It keeps its connections and says nothing."""
        assert self._process is not None
        self._process.freeze()

    def thaw(self) -> None:
        """Goes on."""
        assert self._process is not None
        self._process.thaw()

    def _run(self, process: ServerProcess) -> None:
        process.start()
        process.wait(lambda: healthy(self._metrics), timeout_s=_START_TIMEOUT_S)
        self._process = process

    def _configured(self) -> ServerProcess:
        names = [*SECTIONS, "internal", "metrics", "etcd_client", "etcd_peer"]
        ports = dict(zip(names, free_ports(len(names)), strict=True))
        self.port, self._metrics = ports["proxy"], ports["metrics"]
        config = base_config(self._binaries, ports)
        data = self._folder / "data"
        config["etcd"]["data"]["dir"] = str(data / "etcd")
        config["etcd"]["log"] = {"level": "error", "path": "stdout"}
        config["etcd"]["config"] = {"path": str(self._etcd_config(ports, data))}
        config["localStorage"]["path"] = str(data)
        config["common"]["storageType"] = "local"
        config["rocksmq"]["path"] = str(data / "rocksmq")
        write_config(self._binaries, self._folder / "configs", config)
        return ServerProcess(
            [self._binaries / "bin" / "milvus", "run", "standalone"],
            log=self._folder / "milvus.log",
            cwd=self._folder,
            env={
                "DEPLOY_MODE": "STANDALONE",
                "METRICS_PORT": str(self._metrics),
                "MILVUSCONF": str(self._folder / "configs"),
                "MILVUS_RUN_DIR": str(self._folder / "run"),
                "LD_LIBRARY_PATH": str(self._binaries / "bin"),
            },
        )

    def _etcd_config(self, ports: dict[str, int], data: Path) -> Path:
        """The server's embedded etcd listens too, on fixed ports unless it is told."""
        client = f"http://127.0.0.1:{ports['etcd_client']}"
        peer = f"http://127.0.0.1:{ports['etcd_peer']}"
        path = self._folder / "etcd.yaml"
        path.write_text(
            yaml.safe_dump(
                {
                    "name": "default",
                    "data-dir": str(data / "etcd"),
                    "listen-client-urls": client,
                    "advertise-client-urls": client,
                    "listen-peer-urls": peer,
                    "initial-advertise-peer-urls": peer,
                    "initial-cluster": f"default={peer}",
                }
            )
        )
        return path


@pytest.fixture(scope="session")
def milvus_standalone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MilvusStandalone]:
    """One server for all tests; collections are unique to a test."""
    server = MilvusStandalone(milvus_folder(), tmp_path_factory.mktemp("milvus_standalone"))
    server.start()
    try:
        yield server
    finally:
        server.kill()
