"""Milvus Distributed 2.3.5 on one machine: eight roles, etcd, an S3 server and a Kafka-compatible broker."""

import json
import shutil
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.milvus_binary import milvus_folder, parts_folder
from tests.support.milvus_config import SECTIONS, base_config, write_config
from tests.support.milvus_process import ServerProcess, healthy
from tests.support.ports import free_ports

_START_TIMEOUT_S = 90
# Of each role its section in the configuration.
_COORDINATORS = {"rootcoord": "rootCoord", "datacoord": "dataCoord", "querycoord": "queryCoord"}
_WORKERS = {
    "datanode": "dataNode",
    "indexnode": "indexNode",
    "querynode": "queryNode",
    "querynode2": "queryNode",
    "proxy": "proxy",
}
ROLES = (*_COORDINATORS, *_WORKERS)
"""All that can be killed apart; two of them are query nodes."""
_KEY, _SECRET = "milvus", "milvussecret"


class MilvusCluster:
    """All processes of one cluster."""

    def __init__(self, binaries: Path, parts: Path, folder: Path) -> None:
        self._binaries = binaries
        self._parts = parts
        self._folder = folder
        self._processes: list[ServerProcess] = []
        self._roles: dict[str, ServerProcess] = {}
        self._ports: dict[str, int] = {}

    @property
    def uri(self) -> str:
        """Of the proxy."""
        return f"http://127.0.0.1:{self._ports['proxy']}"

    def start(self) -> None:
        """Returns when every role is healthy."""
        infra = ["etcd", "etcd_peer", "s3", "master", "volume", "filer", "broker", "shim", "internal"]
        grpc = ["master_grpc", "volume_grpc", "filer_grpc", "s3_grpc"]
        names = [*infra, *grpc, *ROLES, *(f"{role}_metrics" for role in ROLES)]
        self._ports = dict(zip(names, free_ports(len(names)), strict=True))
        self._start_infrastructure()
        for roles_at_once in (_COORDINATORS, _WORKERS):
            for role, section in roles_at_once.items():
                self._roles[role] = self._start_role(role, section)
            for role in roles_at_once:
                self._roles[role].wait(lambda role=role: self.healthy(role), timeout_s=_START_TIMEOUT_S)  # type: ignore[misc]

    def kill_role(self, role: str) -> None:
        """As a crash would end it."""
        self._roles[role].kill()

    def start_role(self, role: str) -> None:
        """After a kill, at the same port; returns at once."""
        self._roles[role].start()

    def healthy(self, role: str) -> bool:
        """Whether the role says so."""
        return healthy(self._ports[f"{role}_metrics"])

    def dead_roles(self) -> list[str]:
        """Those that have ended, by whatever cause."""
        return [role for role, process in self._roles.items() if not process.alive]

    def kill(self) -> None:
        """All of it; the roles first."""
        for process in reversed(self._processes):
            process.kill()

    def _start_infrastructure(self) -> None:
        ports = self._ports
        client, peer = (f"http://127.0.0.1:{ports[name]}" for name in ("etcd", "etcd_peer"))
        etcd = shutil.which("etcd")
        if etcd is None:
            pytest.skip("NOT RUN against Milvus Distributed: etcd is not installed (Debian: etcd-server)")
        identity = {
            "name": "milvus",
            "credentials": [{"accessKey": _KEY, "secretKey": _SECRET}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        users = self._folder / "s3.json"
        users.write_text(json.dumps({"identities": [identity]}))
        waits = [
            self._start(
                "etcd",
                [
                    etcd,
                    *("--data-dir", self._folder / "etcd"),
                    *("--listen-client-urls", client, "--advertise-client-urls", client),
                    *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
                    *("--initial-cluster", f"default={peer}"),
                ],
                answers_at=ports["etcd"],
            ),
            self._start(
                "weed",
                [
                    self._parts / "bin" / "weed",
                    *("server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={self._folder / 'weed'}"),
                    *("-s3", f"-s3.port={ports['s3']}", f"-s3.config={users}"),
                    *(f"-{part}.port={ports[part]}" for part in ("master", "volume", "filer")),
                    *(
                        f"-{part}.port.grpc={ports[f'{part}_grpc']}"
                        for part in ("master", "volume", "filer", "s3")
                    ),
                    *("-volume.max=0", "-master.volumeSizeLimitMB=64"),
                    # On fixed ports unless told: a second cluster on the machine would not start.
                    *("-s3.port.iceberg=0", "-s3.port.lance=0"),
                ],
                answers_at=ports["s3"],
                http=True,
            ),
            self._start(
                "broker",
                [
                    self._parts / "bin" / "tansu",
                    *("broker", "--storage-engine", "memory://tansu/"),
                    *("--listener-url", f"tcp://127.0.0.1:{ports['broker']}"),
                    *("--advertised-listener-url", f"tcp://127.0.0.1:{ports['shim']}"),
                ],
                answers_at=ports["broker"],
            ),
            self._start(
                "shim",
                [
                    sys.executable,
                    Path(__file__).with_name("kafka_shim.py"),
                    str(ports["shim"]),
                    str(ports["broker"]),
                ],
                answers_at=ports["shim"],
            ),
        ]
        for process, port, http in waits:
            process.wait(
                lambda port=port, http=http: _serves(port) if http else _open(port),  # type: ignore[misc]
                timeout_s=_START_TIMEOUT_S,
            )

    def _start(
        self, name: str, command: list[str | Path], *, answers_at: int, http: bool = False
    ) -> tuple[ServerProcess, int, bool]:
        folder = self._folder / name
        folder.mkdir(parents=True, exist_ok=True)
        process = ServerProcess(command, log=self._folder / f"{name}.log", cwd=folder)
        self._processes.append(process)
        process.start()
        return process, answers_at, http

    def _start_role(self, role: str, section: str) -> ServerProcess:
        folder = self._folder / role
        ports = {name: 0 for name in SECTIONS} | {"internal": self._ports["internal"]}
        for name, of in _COORDINATORS.items():
            ports[of] = self._ports[name]
        ports[section] = self._ports[role]
        config = base_config(self._binaries, ports)
        config["etcd"].update(endpoints=f"127.0.0.1:{self._ports['etcd']}", use={"embed": False})
        config["etcd"]["log"] = {"level": "error", "path": "stdout"}
        config["minio"].update(
            address="127.0.0.1",
            port=self._ports["s3"],
            accessKeyID=_KEY,
            secretAccessKey=_SECRET,
            bucketName="milvus",
            rootPath="files",
            useSSL=False,
            region="us-east-1",
        )
        config["localStorage"]["path"] = str(folder / "data")
        config["common"]["storageType"] = "minio"
        config["mq"]["type"] = "kafka"
        config["kafka"] = {"brokerList": f"127.0.0.1:{self._ports['shim']}"}
        config.pop("pulsar", None)
        # Each is a topic.
        config["rootCoord"]["dmlChannelNum"] = 4
        # How long the others take a role that was killed for one that lives; its own default is 30 s.
        config["common"]["session"]["ttl"] = 10
        write_config(self._binaries, folder / "configs", config)
        process = ServerProcess(
            [self._binaries / "bin" / "milvus", "run", role.rstrip("2")],
            log=self._folder / f"{role}.log",
            cwd=folder,
            env={
                "DEPLOY_MODE": "CLUSTER",
                "METRICS_PORT": str(self._ports[f"{role}_metrics"]),
                "MILVUSCONF": str(folder / "configs"),
                "MILVUS_RUN_DIR": str(folder / "run"),
                "LD_LIBRARY_PATH": str(self._binaries / "bin"),
            },
        )
        self._processes.append(process)
        process.start()
        return process


def _open(port: int) -> bool:
    with socket.socket() as client:
        client.settimeout(1)
        return client.connect_ex(("127.0.0.1", port)) == 0


def _serves(port: int) -> bool:
    """Whether an HTTP server answers; that it refuses strangers is an answer."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=2):
            return True
    except urllib.error.HTTPError:
        return True
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


@pytest.fixture(scope="session")
def milvus_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MilvusCluster]:
    """One cluster for all tests; collections are unique to a test."""
    cluster = MilvusCluster(milvus_folder(), parts_folder(), tmp_path_factory.mktemp("milvus_cluster"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.kill()
