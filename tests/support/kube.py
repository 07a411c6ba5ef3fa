"""A real Kubernetes API server for tests: etcd, the server, and when asked the real controllers.

The binaries are those of `KUBEBUILDER_ASSETS`, else the newest folder of the standard envtest store. With
`AGENTTEAMS_TEST_KUBECONFIG` the tests use that cluster instead (never `KUBECONFIG`, which a developer may
have set for another one). Without either, the tests skip, and the end of the run says NOT RUN.
"""

import json
import os
import platform
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.support.kube_reads import NotHere, Reads, Refused
from tests.support.ports import free_ports
from tests.support.run import tied, until_the_end

NOT_RUN = "NOT RUN against a real API server"
WHY = (
    f"{NOT_RUN}: no etcd and kube-apiserver in KUBEBUILDER_ASSETS or the envtest store, "
    "and no AGENTTEAMS_TEST_KUBECONFIG"
)
CRDS = Path(__file__).parents[2] / "charts" / "agentteams-crds" / "files"
_START_S = 60.0
_STOP_S = 20.0
_KUBECTL_S = 60.0


class KubectlError(Exception):
    """kubectl failed; the text is what it wrote."""


class Cluster:
    """An API server that can be reached.

    Attributes:
        kubeconfig: For kubectl and clients; an administrator's.
    """

    def __init__(self, *, kubeconfig: Path, kubectl: Path) -> None:
        self.kubeconfig = kubeconfig
        self._kubectl = kubectl

    def kubectl(self, *arguments: str, stdin: str = "", timeout_s: float = _KUBECTL_S) -> str:
        """Runs kubectl and returns what it wrote.

        Raises:
            KubectlError: It failed.
        """
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.kubeconfig.parent)}
        result = subprocess.run(
            [str(self._kubectl), f"--kubeconfig={self.kubeconfig}", *arguments],
            input=stdin, capture_output=True, text=True, timeout=timeout_s, check=False, env=environment,
        )  # fmt: skip
        if result.returncode != 0:
            raise KubectlError(result.stderr.strip() or result.stdout.strip())
        return result.stdout

    def apply(self, *objects: Mapping[str, Any], namespace: str = "") -> str:
        """Applies objects on the server's side, unknown fields refused."""
        text = "---\n".join(json.dumps(o) + "\n" for o in objects)
        where = [f"--namespace={namespace}"] if namespace else []
        return self.kubectl("apply", "--server-side", "--validate=strict", *where, "-f", "-", stdin=text)

    def get(self, *arguments: str) -> dict[str, Any]:
        """`kubectl get` of one object or a list, as JSON."""
        found: dict[str, Any] = json.loads(self.kubectl("get", *arguments, "-o", "json"))
        return found

    def as_account(self, namespace: str, name: str, file: Path) -> "Cluster":
        """The same cluster with the rights of a ServiceAccount only; its kubeconfig is written to `file`."""
        token = self.kubectl("create", "token", name, f"--namespace={namespace}").strip()
        config = yaml.safe_load(self.kubectl("config", "view", "--raw", "--flatten", "-o", "yaml"))
        for user in config["users"]:
            user["user"] = {"token": token}
        file.touch(mode=0o600)
        file.write_text(yaml.safe_dump(config))
        return Cluster(kubeconfig=file, kubectl=self._kubectl)

    def install_crds(self) -> None:
        """Applies our CustomResourceDefinitions and waits until they are served."""
        files = [f"--filename={file}" for file in sorted(CRDS.glob("*.yaml"))]
        self.kubectl("apply", "--server-side", "--force-conflicts", *files)
        deadline = time.monotonic() + _START_S
        # Established comes before discovery knows them, and kubectl remembers what it did not find.
        while "modelconfigs" not in self.kubectl(
            "api-resources", "--api-group=agentteams.dev", "--cached=false", "-o", "name"
        ):
            if time.monotonic() > deadline:
                raise TimeoutError("the kinds of agentteams.dev are not served")
            time.sleep(0.05)

    @contextmanager
    def namespace(self, prefix: str = "t", labels: Mapping[str, str] | None = None) -> Iterator[str]:
        """A namespace of its own. It is deleted, but not waited for: only a controller finishes that."""
        name = f"{prefix}-{secrets.token_hex(4)}"
        metadata = {"name": name, "labels": dict(labels or {})}
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
        try:
            yield name
        finally:
            self.kubectl("delete", "namespace", name, "--wait=false")


class LocalCluster(Cluster):
    """Processes of our own on free ports of 127.0.0.1."""

    def __init__(self, *, assets: Path, folder: Path, controllers: bool) -> None:
        super().__init__(kubeconfig=folder / "kubeconfig", kubectl=assets / "kubectl")
        self.controllers = controllers
        self.port, self._etcd_port, self._peer_port, controller_port = free_ports(4)
        self._assets = assets
        self._folder = folder
        self._controller_port = controller_port
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._reads: Reads | None = None

    def get(self, *arguments: str) -> dict[str, Any]:
        """The same, without a process where that can be."""
        assert self._reads is not None
        try:
            return self._reads.get(arguments)
        except Refused as error:
            raise KubectlError(str(error)) from error
        except NotHere:
            return super().get(*arguments)

    def start(self) -> None:
        """Starts everything and waits until it is ready.

        Raises:
            RuntimeError: A process ended; with the end of its log.
            TimeoutError: It took too long.
        """
        self._write_files()
        self._spawn("etcd", self._etcd_arguments())
        self.start_api_server()
        if self.controllers:
            self._spawn(
                "kube-controller-manager",
                [
                    f"--kubeconfig={self.kubeconfig}",
                    f"--service-account-private-key-file={self._folder / 'sa.key'}",
                    f"--root-ca-file={self._folder / 'ca.crt'}",
                    "--use-service-account-credentials=false",
                    "--leader-elect=false",
                    "--bind-address=127.0.0.1",
                    f"--secure-port={self._controller_port}",
                    "--concurrent-deployment-syncs=10",
                    "--kube-api-qps=200",
                    "--kube-api-burst=400",
                    f"--cert-dir={self._folder / 'controller'}",
                    # It would evict pods from nodes without a heartbeat.
                    "--controllers=*,-node-lifecycle-controller",
                ],
            )
            self._spawn(
                "kube-scheduler",
                [f"--kubeconfig={self.kubeconfig}", "--leader-elect=false", "--secure-port=0",
                 "--kube-api-qps=200", "--kube-api-burst=400"],
            )  # fmt: skip
            self._wait(self._controllers_work, "the controllers")

    def start_api_server(self) -> None:
        """Starts the API server alone; etcd runs."""
        self._spawn("kube-apiserver", self._api_arguments())
        self._wait(self._ready, "the API server")

    def stop_api_server(self, *, kill: bool = False) -> None:
        """Ends the API server; all connections break. etcd keeps what there is."""
        _end(self._processes.pop("kube-apiserver"), signal.SIGKILL if kill else signal.SIGTERM)

    def compact(self, version: int) -> None:
        """etcd forgets what was before that version: watches from then cannot be continued."""
        body = json.dumps({"revision": str(version), "physical": True}).encode()
        url = f"http://127.0.0.1:{self._etcd_port}/v3/kv/compaction"
        with urllib.request.urlopen(urllib.request.Request(url, data=body), timeout=10) as answer:
            answer.read()

    def stop(self) -> None:
        """Ends everything, etcd last."""
        if self._reads is not None:
            self._reads.close()
        for name in reversed(list(self._processes)):
            _end(self._processes.pop(name), signal.SIGKILL)

    def _spawn(self, name: str, arguments: Sequence[str]) -> None:
        with (self._folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [*tied(), str(self._assets / name), *arguments],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip

    def _wait(self, ready: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + _START_S
        while not ready():
            self._check()
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what}: not ready after {_START_S} s:\n{self._log()}")
            time.sleep(0.05)

    def _check(self) -> None:
        for name, process in self._processes.items():
            if process.poll() is not None:
                raise RuntimeError(f"{name} ended with {process.returncode}:\n{self._log(name)}")

    def _log(self, name: str = "kube-apiserver") -> str:
        return (self._folder / f"{name}.log").read_text(errors="replace")[-3000:]

    def _ready(self) -> bool:
        assert self._reads is not None
        return self._reads.ready()

    def _controllers_work(self) -> bool:
        try:
            self.get("serviceaccount", "default", "--namespace=default")
            return True
        except (KubectlError, subprocess.TimeoutExpired):
            return False

    def _etcd_arguments(self) -> list[str]:
        client = f"http://127.0.0.1:{self._etcd_port}"
        peer = f"http://127.0.0.1:{self._peer_port}"
        return [
            f"--data-dir={self._folder / 'etcd'}", f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}", f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=default={peer}",
            "--log-level=error", "--logger=zap", "--snapshot-count=10000",
        ]  # fmt: skip

    def _api_arguments(self) -> list[str]:
        folder = self._folder
        return [
            f"--etcd-servers=http://127.0.0.1:{self._etcd_port}",
            "--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", f"--secure-port={self.port}",
            f"--tls-cert-file={folder / 'tls.crt'}", f"--tls-private-key-file={folder / 'tls.key'}",
            f"--cert-dir={folder / 'api'}", f"--token-auth-file={folder / 'tokens.csv'}",
            f"--service-account-key-file={folder / 'sa.key'}",
            f"--service-account-signing-key-file={folder / 'sa.key'}",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--authorization-mode=RBAC", "--service-cluster-ip-range=10.99.0.0/16",
            "--endpoint-reconciler-type=none", "--anonymous-auth=false",
            "--shutdown-delay-duration=0s", "--max-requests-inflight=1000",
            # Its own are shed first under a burst, and a test would wait for the retries.
            "--enable-priority-and-fairness=false",
        ]  # fmt: skip

    def _write_files(self) -> None:
        folder, token = self._folder, secrets.token_hex(16)
        authority = trustme.CA()
        certificate = authority.issue_cert("127.0.0.1", "localhost")
        authority.cert_pem.write_to_path(str(folder / "ca.crt"))
        certificate.private_key_pem.write_to_path(str(folder / "tls.key"))
        for blob in certificate.cert_chain_pems:
            blob.write_to_path(str(folder / "tls.crt"), append=True)
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        (folder / "sa.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.TraditionalOpenSSL,
                serialization.NoEncryption(),
            )
        )
        (folder / "tokens.csv").write_text(f'{token},admin,admin,"system:masters"\n')
        server = {
            "server": f"https://127.0.0.1:{self.port}",
            "certificate-authority": str(folder / "ca.crt"),
        }
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": server}],
            "users": [{"name": "admin", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
        }
        self.kubeconfig.write_text(yaml.safe_dump(config))
        self.kubeconfig.chmod(0o600)
        self._reads = Reads(server["server"], authority=folder / "ca.crt", token=token)


@contextmanager
def temporary_cluster(*, controllers: bool = False) -> Iterator[LocalCluster]:
    """A cluster for the block; its processes and files are gone afterwards."""
    assets = find_assets()
    if assets is None:
        raise FileNotFoundError(WHY)
    shared = Path("/dev/shm")  # etcd waits for the disk at every write
    parent = shared if shared.is_dir() and os.access(shared, os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="agentteams-kube-", dir=parent))
    cluster = LocalCluster(assets=assets, folder=folder, controllers=controllers)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)


@cache
def shared_cluster(*, controllers: bool = False) -> Cluster:
    """That of this test run, started when first asked for, stopped at the end. Skips where none can be."""
    given = os.environ.get("AGENTTEAMS_TEST_KUBECONFIG")
    if given:
        kubectl = shutil.which("kubectl")
        assert kubectl, "AGENTTEAMS_TEST_KUBECONFIG is set, and there is no kubectl on PATH"
        return Cluster(kubeconfig=Path(given).absolute(), kubectl=Path(kubectl))
    assets = find_assets()
    if assets is None or (controllers and not (assets / "kube-controller-manager").exists()):
        pytest.skip(WHY)
    return until_the_end(temporary_cluster(controllers=controllers))


def find_assets() -> Path | None:
    """The folder with etcd, kube-apiserver and kubectl; None if there is none."""
    given = os.environ.get("KUBEBUILDER_ASSETS")
    if given:
        folders = [Path(given)]
    else:
        data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share")
        machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
        system = platform.system().lower()
        folders = sorted(
            (data / "kubebuilder-envtest" / "k8s").glob(f"*-{system}-{machine}"), key=_version, reverse=True
        )
    needed = ("etcd", "kube-apiserver", "kubectl")
    return next((f for f in folders if all((f / name).exists() for name in needed)), None)


def _version(folder: Path) -> tuple[int, ...]:
    number = folder.name.split("-")[0]
    return tuple(int(part) if part.isdigit() else 0 for part in number.split("."))


def _end(process: subprocess.Popen[bytes], how: int) -> None:
    process.send_signal(how)
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(_STOP_S)
