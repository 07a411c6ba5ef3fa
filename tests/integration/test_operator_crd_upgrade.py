"""Objects of an earlier release under the CustomResourceDefinitions of this one."""

import gzip
import json
import secrets
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.kube import CRDS, Cluster, KubectlError, shared_cluster

pytestmark = pytest.mark.slow

BEFORE = Path(__file__).parents[1] / "support" / "previous_crds"
GROUP = "agentteams.dev"
WAIT_S = 30.0
STATUS = {
    "observedGeneration": 1,
    "conditions": [
        {"type": "Ready", "status": "True", "reason": "Ready", "message": "It serves.",
         "observedGeneration": 1, "lastTransitionTime": "2026-01-01T00:00:00Z"}
    ],
}  # fmt: skip


def in_group(text: str, group: str) -> list[dict[str, Any]]:
    """The documents of a file as if our kinds were of another group, beside the real ones."""
    return [one for one in yaml.safe_load_all(text.replace(GROUP, group)) if one]


def unpacked(name: str) -> str:
    return gzip.decompress((BEFORE / name).read_bytes()).decode()


def lost(before: Any, after: Any, at: str = "") -> list[str]:
    """Paths of what was there and is not, or is something else."""
    if isinstance(before, dict) and isinstance(after, dict):
        found = []
        for key, value in before.items():
            found += lost(value, after[key], f"{at}.{key}") if key in after else [f"{at}.{key}"]
        return found
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        pairs = enumerate(zip(before, after, strict=True))
        return [path for i, (one, other) in pairs for path in lost(one, other, f"{at}[{i}]")]
    return [] if before == after else [at]


@pytest.fixture
def cluster() -> Cluster:
    return shared_cluster()


def served(cluster: Cluster, group: str, crds: list[dict[str, Any]]) -> None:
    """Installs or upgrades; waits until the newest schema is the one that counts."""
    cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=yaml.safe_dump_all(crds))
    names = [f"crd/{one['metadata']['name']}" for one in crds]
    cluster.kubectl("wait", "--for=condition=Established", "--timeout=30s", *names)
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            cluster.kubectl("get", f"agentteams.{group},knowledgebases.{group},modelconfigs.{group}", "-A")
            return
        except KubectlError:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_objects_of_the_release_before_stay_readable_and_updatable_and_lose_nothing(cluster: Cluster) -> None:
    group = f"u{secrets.token_hex(4)}.{GROUP}"
    old = in_group(unpacked("crds.yaml.gz"), group)
    new = [one for file in sorted(CRDS.glob("*.yaml")) for one in in_group(file.read_text(), group)]
    objects = in_group(unpacked("objects.yaml.gz"), group)
    assert {one["kind"] for one in objects} == {"AgentTeam", "KnowledgeBase", "ModelConfig"}
    kinds = ",".join(f"{name}.{group}" for name in ("agentteams", "knowledgebases", "modelconfigs"))

    def read(namespace: str) -> dict[str, Any]:
        items = json.loads(cluster.kubectl("get", kinds, f"--namespace={namespace}", "-o", "json"))["items"]
        return {f"{one['kind']}/{one['metadata']['name']}": one for one in items}

    try:
        with cluster.namespace() as namespace:
            where = f"--namespace={namespace}"
            served(cluster, group, old)
            cluster.apply(*objects, namespace=namespace)
            plain = cluster.kubectl("get", kinds, where, "-o", "name").split()
            patch = json.dumps({"status": STATUS})
            cluster.kubectl("patch", *plain, where, "--subresource=status", "--type=merge", "-p", patch)
            before = read(namespace)
            served(cluster, group, new)
            after = read(namespace)
            assert set(after) == set(before)
            for name, one in before.items():
                assert lost(one["spec"], after[name]["spec"]) == [], name
                assert lost(one["status"], after[name]["status"]) == [], name
            # What is written is checked by the new rules: what the old ones let in goes through them.
            cluster.kubectl("label", *plain, where, "after=upgrade")
            cluster.apply(*objects, namespace=namespace)
            written = read(namespace)
            for name, one in before.items():
                assert lost(one["spec"], written[name]["spec"]) == [], name
                assert lost(one["status"], written[name]["status"]) == [], name
                assert written[name]["metadata"]["labels"] == {"after": "upgrade"}
            cluster.kubectl("delete", *plain, where, "--timeout=30s")
    finally:
        names = [f"crd/{one['metadata']['name']}" for one in old]
        cluster.kubectl("delete", "--ignore-not-found", "--wait=false", *names)


def test_what_is_lost_is_noticed() -> None:
    whole = {"a": {"b": [{"c": 1}, 2]}, "d": 3}
    assert lost(whole, whole) == []
    assert lost(whole, {"a": {"b": [{}, 2]}, "e": 3}) == [".a.b[0].c", ".d"]
    assert lost({"a": [1]}, {"a": []}) == [".a"]
