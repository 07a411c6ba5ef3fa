"""The pods of the chart and of a team as containers of this machine.

What a kubelet does: environment, Secrets and tokens as files, and folders that may be written. Names of
services become 127.0.0.1 and free ports, since all containers share the machine's network.
"""

import base64
import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentteams_operator.specs.pool import Pool, namespace_objects, pool_objects
from agentteams_operator.specs.settings import PoolSettings
from servicekit.identity import IdentityKey
from tests.images.engines import Container
from tests.support.helm import render
from tests.support.ports import free_ports

PREFIX = "localhost/agentteams-under-test/"
SYSTEM = "agentteams-system"
TENANT = "tenant"
_TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount"
_SERVICE = re.compile(r"(?:dns:///)?[a-z{][a-z0-9.{}-]*:(\d{4,5})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """One pod that is to run.

    Attributes:
        port: Where its health is asked; 0: a job, which ends.
        probe: grpc, http or tcp.
        metrics_port: 0: it has none.
    """

    name: str
    image: str
    port: int
    container: Container
    metrics_port: int


@dataclass(slots=True)
class World:
    """What pods find in a cluster.

    Attributes:
        secrets: (namespace, name) -> key -> value.
        tokens: (namespace, ServiceAccount) -> files of its token.
        api: host and port of the API server.
    """

    secrets: dict[tuple[str, str], Mapping[str, bytes]]
    tokens: Mapping[tuple[str, str], Mapping[str, bytes]]
    api: tuple[str, int]
    folder: Path
    ports: dict[int, int] = field(default_factory=dict)

    def port(self, port: int) -> int:
        """The port of this machine that stands for that of a pod."""
        if port not in self.ports:
            (self.ports[port],) = free_ports(1)
        return self.ports[port]


def objects(profile: str, values: Mapping[str, Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Those of the chart, and those of a tenant's pool of orchestrators as the operator makes them."""
    image = {"image": {"prefix": PREFIX}}
    chart = render(profile, values={**values, **image}, namespace=SYSTEM)
    (operator,) = [
        one for one in chart if one["kind"] == "Deployment" and "operator" in one["metadata"]["name"]
    ]
    (container,) = operator["spec"]["template"]["spec"]["containers"]
    env = {one["name"]: one["value"] for one in container["env"]}
    settings = PoolSettings(
        image=env["AGENTTEAMS_ORCHESTRATOR_IMAGE"],
        environment=json.loads(env["AGENTTEAMS_ORCHESTRATOR_ENVIRONMENT"]),
        system_namespace=SYSTEM,
    )
    (key,) = [one["data"]["key"] for one in chart if one["metadata"]["name"] == "agentteams-identity-key"]
    identity = IdentityKey(base64.b64decode(key)).of_tenant(TENANT).to_file()
    pool = Pool(namespace=TENANT)
    return chart, [*namespace_objects(TENANT, identity), *pool_objects(pool, settings)]


def pods(found: list[dict[str, Any]], world: World, *, prefix: str, tag: str) -> Iterator[Pod]:
    """All that run an image of ours."""
    for one in found:
        if one["kind"] not in ("Deployment", "Job"):
            continue
        (container,) = one["spec"]["template"]["spec"]["containers"]
        if container["image"].startswith(PREFIX):
            image = container["image"].removeprefix(PREFIX).rpartition(":")[0]
            yield _pod(one, container, world, image=image, whole=f"{prefix}{image}:{tag}")


def _pod(
    one: Mapping[str, Any], container: Mapping[str, Any], world: World, *, image: str, whole: str
) -> Pod:
    spec, namespace = one["spec"]["template"]["spec"], one["metadata"].get("namespace", SYSTEM)
    environment = dict(_environment(container, world))
    metrics = 0
    if "AGENTTEAMS_METRICS_PORT" in environment:
        (metrics,) = free_ports(1)
        environment["AGENTTEAMS_METRICS_PORT"] = str(metrics)
    port = _port(container)
    mine = world.port(port) if port else 0
    # What listens to all of a pod's addresses there is to listen to this machine's loopback here.
    environment |= {"AGENTTEAMS_HOST": "127.0.0.1", "AGENTTEAMS_PORT": str(mine)}
    args = [
        str(mine) if arg == str(port) else arg.replace("0.0.0.0", "127.0.0.1") for arg in _args(container)
    ]
    files, writable = _volumes(spec, container, namespace, world)
    if spec.get("automountServiceAccountToken"):
        files[_TOKEN] = _folder(world, world.tokens[namespace, spec["serviceAccountName"]])
        host, api_port = world.api
        environment |= {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": str(api_port)}
    return Pod(
        name=one["metadata"]["name"],
        image=image,
        port=mine,
        metrics_port=metrics,
        container=Container(image=whole, args=args, env=environment, files=files, writable=writable),
    )


def _args(container: Mapping[str, Any]) -> list[str]:
    assert "command" not in container, "the image knows what it runs"
    return list(container.get("args", ()))


def _environment(container: Mapping[str, Any], world: World) -> Iterator[tuple[str, str]]:
    known = {"POD_IP": "127.0.0.1"}
    for one in container.get("env", ()):
        value = known[one["name"]] if "valueFrom" in one else str(one["value"])
        for name, instead in known.items():
            value = value.replace(f"$({name})", instead)
        yield one["name"], _SERVICE.sub(lambda match: f"127.0.0.1:{world.port(int(match[1]))}", value)


def _port(container: Mapping[str, Any]) -> int:
    """Where a cluster asks for its health; 0: it is a job."""
    probe = container.get("startupProbe") or {}
    port: int = next((probe[kind]["port"] for kind in ("grpc", "httpGet", "tcpSocket") if kind in probe), 0)
    return port


def _volumes(
    spec: Mapping[str, Any], container: Mapping[str, Any], namespace: str, world: World
) -> tuple[dict[str, Path], list[str]]:
    volumes = {one["name"]: one for one in spec["volumes"]}
    files: dict[str, Path] = {}
    writable: list[str] = []
    for mount in container["volumeMounts"]:
        volume, where = volumes[mount["name"]], mount["mountPath"]
        if "emptyDir" in volume or "persistentVolumeClaim" in volume:
            writable.append(where)
            continue
        found: dict[str, bytes] = {}
        for source in _sources(volume):
            values = world.secrets.get((namespace, source.get("name") or source["secretName"]))
            if values is None:
                assert source.get("optional"), f"{where}: no Secret {source}"
                continue
            items = source.get("items") or [{"key": key, "path": key} for key in values]
            found |= {item["path"]: values[item["key"]] for item in items}
        files[where] = _folder(world, found)
    return files, writable


def _sources(volume: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    if "secret" in volume:
        return [volume["secret"]]
    return [source["secret"] for source in volume["projected"]["sources"]]


def _folder(world: World, files: Mapping[str, bytes]) -> Path:
    """With modes as a kubelet gives them to the pod's group."""
    folder = Path(tempfile.mkdtemp(dir=world.folder))
    folder.chmod(0o755)
    for name, content in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        file.chmod(0o444)
    return folder
