"""Starts every image as the chart does, on this machine, and asks whether it is healthy.

    python -m tests.images.check --engine buildah|docker|podman --prefix localhost/agentteams/ --tag dev

The pods are those that the chart renders and the operator makes: their environment, Secrets, accounts and
folders, beside a real API server with the chart's rights, and a real Postgres. Nobody is root, all roots are
read-only, no capability is left. Prints a table; exits with 1 if anything was not as it should be.
"""

import argparse
import asyncio
import base64
import contextlib
import secrets
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from tests.images.contents import problems_of
from tests.images.engines import Engine, Started, open_engine
from tests.images.pods import SYSTEM, TENANT, Pod, World, objects, pods
from tests.support.kube import LocalCluster, temporary_cluster
from tests.support.postgres import temporary_postgres

_HEALTHY_S = 60.0
_LEADER_S = 30.0
# What others need comes first.
_ORDER = (
    "milvus-lite", "agentteams-migrate-session", "agentteams-migrate-catalogue", "agentteams-session",
    "agentteams-embedding", "agentteams-retrieval", "agentteams-ingest", "agentteams-operator",
    "agentteams-pool", "agentteams-evaluation", "agentteams-gateway",
)  # fmt: skip
_TEAM = {
    "apiVersion": "agentteams.dev/v1alpha1",
    "kind": "AgentTeam",
    "metadata": {"name": "team"},
    "spec": {"modelConfigRef": {"name": "chat"}, "members": [{"name": "agent"}]},
}
_RIGHTS = ("ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")


class Trouble(Exception):
    """An image is not as it should be."""


def main() -> int:
    """All of them."""
    parser = argparse.ArgumentParser(description="Starts every image as the chart does.")
    parser.add_argument("--engine", default="docker", choices=["docker", "podman", "buildah"])
    parser.add_argument("--prefix", default="agentteams/")
    parser.add_argument("--tag", default="dev")
    given = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="agentteams-images-")))
        folder.chmod(0o755)
        engine = open_engine(given.engine)
        stack.callback(engine.close)
        found = list(_pods(stack, folder, prefix=given.prefix, tag=given.tag))
        return _check(found, engine, folder)


def _pods(stack: contextlib.ExitStack, folder: Path, *, prefix: str, tag: str) -> Iterator[Pod]:
    postgres = stack.enter_context(temporary_postgres())
    cluster = stack.enter_context(temporary_cluster(controllers=False))
    chart, tenant = objects("small", {"gateway": {"apiKeysSecret": "keys"}})
    cluster.install_crds()
    for name in (SYSTEM, TENANT):
        cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    cluster.apply(*(one for one in chart if one["kind"] in _RIGHTS), namespace=SYSTEM)
    cluster.apply(*(one for one in tenant if one["kind"] in _RIGHTS))
    # Without a team the operator that is started takes the pool's account away.
    cluster.apply(_TEAM, namespace=TENANT)
    made: dict[tuple[str, str], Mapping[str, bytes]] = {
        (one["metadata"].get("namespace", SYSTEM), one["metadata"]["name"]): _values(one)
        for one in (*chart, *tenant)
        if one["kind"] == "Secret"
    }
    for which in ("session", "catalogue"):
        url = f"postgresql://postgres:none@127.0.0.1:{postgres.port}/{asyncio.run(postgres.create())}"
        made[SYSTEM, f"agentteams-{which}-database"] = {"uri": url.encode()}
    key = {"sha256": secrets.token_hex(32), "tenant": TENANT, "user": "somebody"}
    made[SYSTEM, "keys"] = {"keys.yaml": yaml.safe_dump({"keys": [key]}).encode()}
    world = World(
        secrets=made,
        tokens=_tokens(cluster, [*chart, *tenant]),
        api=("127.0.0.1", cluster.port),
        folder=folder,
    )
    everything = {pod.name: pod for pod in pods([*chart, *tenant], world, prefix=prefix, tag=tag)}
    unknown = set(everything) - set(_ORDER)
    assert not unknown, f"say in _ORDER when they start: {unknown}"
    return (everything[name] for name in _ORDER)


def _values(secret: dict[str, Any]) -> dict[str, bytes]:
    plain = {key: value.encode() for key, value in secret.get("stringData", {}).items()}
    return {key: base64.b64decode(value) for key, value in secret.get("data", {}).items()} | plain


def _tokens(cluster: LocalCluster, found: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, bytes]]:
    config = yaml.safe_load(cluster.kubectl("config", "view", "--raw", "--flatten", "-o", "yaml"))
    authority = base64.b64decode(config["clusters"][0]["cluster"]["certificate-authority-data"])
    tokens = {}
    for one in found:
        spec = one["spec"]["template"]["spec"] if one["kind"] == "Deployment" else {}
        if spec.get("automountServiceAccountToken"):
            namespace, account = one["metadata"].get("namespace", SYSTEM), spec["serviceAccountName"]
            token = cluster.kubectl("create", "token", account, f"--namespace={namespace}").strip()
            tokens[namespace, account] = {
                "token": token.encode(),
                "ca.crt": authority,
                "namespace": namespace.encode(),
            }
    return tokens


def _check(found: list[Pod], engine: Engine, folder: Path) -> int:
    failures: list[str] = []
    looked: set[str] = set()
    running: list[tuple[Pod, Started]] = []
    _say(f"{'pod':30} {'image':14} {'MB':>5} {'ours':>5} {'healthy after':>14}")
    try:
        for pod in found:
            try:
                size = ours = 0
                if pod.image not in looked:
                    looked.add(pod.image)
                    size = engine.size(pod.container.image)
                    ours, wrong = problems_of(pod, engine, folder / f"{pod.image}.contents")
                    failures += wrong
                seconds, started = _start(pod, engine, folder / f"{pod.name}.log")
            except Trouble as error:
                failures.append(f"{pod.name}: {error}")
                break  # what follows needs it
            if started is not None:
                running.append((pod, started))
            sizes = f"{size / 1e6:5.0f} {ours / 1e6:5.0f}" if size else f"{'':11}"
            word = f"{seconds:.1f} s" if started else f"done in {seconds:.1f} s"
            _say(f"{pod.name:30} {pod.image:14} {sizes} {word:>14}")
        failures += list(_leads(running))
    finally:
        failures += list(_stop(running))
    for failure in failures:
        _say(f"FAILED {failure}")
    if not failures:
        _say("All are healthy as not root, with a read-only root and no capability, and end in order.")
    return 1 if failures else 0


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _start(pod: Pod, engine: Engine, log: Path) -> tuple[float, Started | None]:
    """Seconds to healthy; a job has ended by then."""
    begun = time.monotonic()
    started = engine.start(pod.container, log)
    if not pod.port:
        if started.process.wait(_HEALTHY_S) != 0:
            raise Trouble(f"ended with {started.process.returncode}:\n{started.log[-3000:]}")
        return time.monotonic() - begun, None
    try:
        while (why := _health(pod, engine, log)) and time.monotonic() - begun < _HEALTHY_S:
            if started.process.poll() is not None:
                raise Trouble(f"ended with {started.process.returncode}:\n{started.log[-3000:]}")
        if why:
            raise Trouble(f"not healthy after {_HEALTHY_S} s: {why}\n{started.log[-3000:]}")
    except Trouble:
        started.terminate()
        started.wait()
        raise
    return time.monotonic() - begun, started


def _health(pod: Pod, engine: Engine, log: Path) -> str:
    """What the health check of the image says; empty: healthy."""
    asking = replace(pod.container, argv=["python", "-m", "servicekit.healthcheck"], args=(), files={})
    asked = engine.start(asking, log.with_suffix(".health"))
    return "" if asked.process.wait(_HEALTHY_S) == 0 else asked.log.strip()[-500:]


def _leads(running: list[tuple[Pod, Started]]) -> Iterator[str]:
    """The operator has seen all that it watches and has taken its lease."""
    for pod, started in running:
        if pod.image != "operator":
            continue
        deadline = time.monotonic() + _LEADER_S
        while "agentteams_operator_leader 1.0" not in _metrics(pod):
            if time.monotonic() > deadline:
                yield f"{pod.name}: it does not lead after {_LEADER_S} s:\n{started.log[-3000:]}"
                break
            time.sleep(0.2)


def _metrics(pod: Pod) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{pod.metrics_port}/metrics", timeout=10) as answer:
        text: str = answer.read().decode()
        return text


def _stop(running: list[tuple[Pod, Started]]) -> Iterator[str]:
    for pod, started in running:
        if started.process.poll() is not None:
            yield f"{pod.name}: ended by itself with {started.process.returncode}:\n{started.log[-3000:]}"
        else:
            started.terminate()
    for pod, started in reversed(running):
        code = started.wait()
        if code != 0:
            yield f"{pod.name}: SIGTERM ended it with {code}:\n{started.log[-3000:]}"


if __name__ == "__main__":
    sys.exit(main())
