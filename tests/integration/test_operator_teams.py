"""AgentTeams under a real operator, a real API server and the real controllers."""

import functools
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.kube import Cluster, shared_cluster
from tests.support.kube_node import FakeNode, fake_node
from tests.support.operator_process import (
    WAIT_S,
    FakeEndpoint,
    Operator,
    await_condition,
    condition,
    fake_endpoint,
    model,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    cluster = shared_cluster(controllers=True)
    cluster.install_crds()
    return cluster


@pytest.fixture(scope="module")
def node(cluster: Cluster) -> Iterator[FakeNode]:
    with fake_node(cluster) as node:
        yield node


@pytest.fixture(scope="module")
def endpoint() -> Iterator[FakeEndpoint]:
    with fake_endpoint() as endpoint:
        yield endpoint


@pytest.fixture
def namespace(cluster: Cluster, operator: Operator, node: FakeNode) -> Iterator[str]:
    # Pods that do not keep the standard would not be made.
    with cluster.namespace(labels={"pod-security.kubernetes.io/enforce": "restricted"}) as name:
        yield name


def team(name: str = "t", **spec: Any) -> dict[str, Any]:
    given = {"modelConfigRef": {"name": "m"}, "members": [{"name": "a"}]}
    return {
        "apiVersion": "agentteams.dev/v1alpha1",
        "kind": "AgentTeam",
        "metadata": {"name": name},
        "spec": given | spec,
    }


def eventually(check: Callable[[], Any], wait_s: float = WAIT_S) -> Any:
    deadline = time.monotonic() + wait_s
    while True:
        found = check()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {wait_s} s"
        time.sleep(0.1)


def names(cluster: Cluster, kind: str, namespace: str) -> list[str]:
    found = cluster.get(kind, f"--namespace={namespace}")["items"]
    return sorted(one["metadata"]["name"] for one in found)


def gone(cluster: Cluster, kind: str, namespace: str) -> bool:
    return names(cluster, kind, namespace) == []


def test_a_team_becomes_ready_in_the_shared_pool_and_leaves_nothing_behind(
    cluster: Cluster, namespace: str, endpoint: FakeEndpoint
) -> None:
    where = f"--namespace={namespace}"
    for _ in range(2):
        cluster.apply(team(), namespace=namespace)
        found = await_condition(cluster, namespace, "at/t", "Ready", "ModelConfigNotFound")
        assert "currentRevision" not in found["status"]
        cluster.apply(model(endpoint), namespace=namespace)
        cluster.kubectl("wait", "--for=condition=Ready", "at/t", where, "--timeout=40s")
        found = await_condition(cluster, namespace, "at/t", "Progressing", "UpToDate")
        current = found["status"]["currentRevision"]
        revision = cluster.get(f"controllerrevision/t-{current}", where)
        assert revision["data"]["modelConfigRef"] == {"name": "m"}
        assert revision["revision"] == 1
        assert "annotations" not in found["metadata"]
        assert names(cluster, "deployment", namespace) == ["agentteams-pool"]
        assert names(cluster, "service", namespace) == ["agentteams-orchestrator", "agentteams-pool"]
        cluster.kubectl("delete", "at/t", "mc/m", where, "--timeout=20s")
        for kind in ("deployment", "controllerrevision", "service", "networkpolicy", "role", "pdb"):
            eventually(functools.partial(gone, cluster, kind, namespace))
        assert "agentteams-identity" not in names(cluster, "secret", namespace)


def test_revisions_change_over_and_the_last_good_one_goes_on(
    cluster: Cluster, namespace: str, endpoint: FakeEndpoint
) -> None:
    cluster.apply(model(endpoint), team(), namespace=namespace)
    first = await_condition(cluster, namespace, "at/t", "Ready", "Ready")["status"]["currentRevision"]
    cluster.apply(team(instructions="Be brief."), namespace=namespace)
    found = await_condition(cluster, namespace, "at/t", "Ready", "Ready")
    second = found["status"]["currentRevision"]
    assert second != first
    cluster.apply(team(modelConfigRef={"name": "late"}), namespace=namespace)
    found = await_condition(cluster, namespace, "at/t", "Ready", "LastGoodServes")
    assert found["status"]["currentRevision"] == second
    assert found["status"]["updatedRevision"] not in (first, second)
    assert 'no ModelConfig "late"' in condition(found, "Ready")["message"]
    flow = {"steps": [{"name": "s", "member": "a", "input": "nothing.here"}]}
    cluster.apply(team(mode="Workflow", workflow=flow), namespace=namespace)
    found = await_condition(cluster, namespace, "at/t", "Accepted", "Invalid")
    assert condition(found, "Accepted")["message"].startswith("spec.workflow.steps[0].input: ")
    assert found["status"]["currentRevision"] == second
    cluster.apply(team(), namespace=namespace)
    found = await_condition(cluster, namespace, "at/t", "Ready", "Ready")
    assert found["status"]["currentRevision"] == first
    listed = cluster.get("controllerrevisions", f"--namespace={namespace}")["items"]
    numbers = {one["metadata"]["name"]: one["revision"] for one in listed}
    assert numbers[f"t-{first}"] == max(numbers.values())


def test_a_pool_of_its_own_is_scaled_repaired_and_given_up(
    cluster: Cluster, namespace: str, endpoint: FakeEndpoint, node: FakeNode
) -> None:
    where = f"--namespace={namespace}"
    cluster.apply(model(endpoint), team(runtime={"replicas": 1}), namespace=namespace)
    await_condition(cluster, namespace, "at/t", "Ready", "Ready")
    eventually(lambda: names(cluster, "deployment", namespace) == ["at-t"])
    cluster.kubectl("scale", "at/t", "--replicas=2", where)
    eventually(lambda: cluster.get("at/t", where)["status"].get("readyReplicas") == 2)
    selector = cluster.get("at/t", where)["status"]["selector"]
    pods = cluster.kubectl("get", "pods", where, f"--selector={selector}", "-o", "name").split()
    assert len(pods) == 2
    # Drift: what somebody else changes or deletes is put right.
    patch = json.dumps(
        [{"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": "other"}]
    )
    cluster.kubectl("patch", "deployment/at-t", where, "--type=json", "-p", patch)
    path = "jsonpath={.spec.template.spec.containers[0].image}"
    eventually(lambda: cluster.kubectl("get", "deployment/at-t", where, "-o", path) != "other")
    cluster.kubectl("delete", "service/at-t", "networkpolicy/at-t", where)
    eventually(lambda: names(cluster, "networkpolicy", namespace) == ["at-t"])
    eventually(lambda: "at-t" in names(cluster, "service", namespace))
    # An autoscaler decides: replicas is nobody's but its own.
    cluster.kubectl("patch", "at/t", where, "--type=merge", "-p",
        json.dumps({"spec": {"runtime": {"replicas": None, "autoscaling": {"maxReplicas": 3}}}}))  # fmt: skip
    eventually(lambda: names(cluster, "hpa", namespace) == ["at-t"])
    cluster.kubectl("scale", "deployment/at-t", "--replicas=3", where)
    eventually(lambda: cluster.get("at/t", where)["status"].get("readyReplicas") == 3)
    cluster.apply(team(description="another look"), namespace=namespace)
    cluster.kubectl("patch", "at/t", where, "--type=json", "-p", '[{"op":"remove","path":"/spec/runtime"}]')
    eventually(lambda: names(cluster, "deployment", namespace) == ["agentteams-pool"])
    assert names(cluster, "hpa", namespace) == []
    found = await_condition(cluster, namespace, "at/t", "Ready", "Ready")
    assert "replicas" not in found["status"]


def test_a_rotated_secret_rolls_the_pods_and_is_mounted_as_a_file(
    cluster: Cluster, namespace: str, endpoint: FakeEndpoint
) -> None:
    where = f"--namespace={namespace}"

    def secret(value: str) -> dict[str, Any]:
        data = {"apiKey": value, "other": "x"}
        return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "llm"}, "stringData": data}

    def template() -> dict[str, Any]:
        found: dict[str, Any] = cluster.get("deployment/agentteams-pool", where)["spec"]["template"]
        return found

    key: dict[str, Any] = {"credentialsSecretKeyRef": {"name": "llm", "key": "apiKey"}}
    cluster.apply(secret("one"), model(endpoint, **key), team(), namespace=namespace)
    await_condition(cluster, namespace, "at/t", "Ready", "Ready")
    hash_of = "agentteams.dev/secrets-hash"
    eventually(lambda: template()["metadata"]["annotations"].get(hash_of))
    first = template()
    (mounted,) = [v for v in first["spec"]["volumes"] if v["name"] == "secrets"]
    assert mounted["projected"]["sources"] == [
        {"secret": {"name": "llm", "optional": True, "items": [{"key": "apiKey", "path": "llm/apiKey"}]}}
    ]
    assert "one" not in json.dumps(first["spec"]["containers"])
    cluster.apply(secret("two"), namespace=namespace)
    eventually(
        lambda: template()["metadata"]["annotations"][hash_of] != first["metadata"]["annotations"][hash_of]
    )
    await_condition(cluster, namespace, "at/t", "Progressing", "UpToDate")
