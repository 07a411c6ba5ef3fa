"""Revisions under a real operator, a real API server and the real controllers."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner

from agentteams_cli.__main__ import agentteams as main
from tests.integration.test_operator_teams import eventually, team
from tests.support.kube import Cluster, shared_cluster
from tests.support.kube_node import FakeNode, fake_node
from tests.support.operator_process import (
    FakeEndpoint,
    Operator,
    await_condition,
    condition,
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


@pytest.fixture
def namespace(cluster: Cluster, operator: Operator, node: FakeNode) -> Iterator[str]:
    with cluster.namespace() as name:
        yield name


def source(key: str) -> dict[str, Any]:
    return {"instructionsFrom": {"configMapKeyRef": {"name": "prompts", "key": key}}}


def prompts(**texts: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "prompts"}, "data": texts}


def test_a_text_of_a_config_map_makes_a_revision_and_another_text_another_one(
    cluster: Cluster, namespace: str, endpoint: FakeEndpoint
) -> None:
    where = f"--namespace={namespace}"
    members = [{"name": "a"} | source("a")]
    cluster.apply(model(endpoint), team(members=members, **source("lead")), namespace=namespace)
    found = await_condition(cluster, namespace, "at/t", "Ready", "ConfigMapNotFound")
    assert 'create it with the key "lead"' in condition(found, "Ready")["message"]
    cluster.apply(prompts(lead="Lead."), namespace=namespace)
    found = await_condition(cluster, namespace, "at/t", "ResolvedRefs", "ConfigMapKeyNotFound")
    assert "spec.members[0].instructionsFrom.configMapKeyRef: " in condition(found, "ResolvedRefs")["message"]
    cluster.apply(prompts(lead="Lead.", a="Be A."), namespace=namespace)
    first = await_condition(cluster, namespace, "at/t", "Ready", "Ready")["status"]["currentRevision"]
    data = cluster.get(f"controllerrevision/t-{first}", where)["data"]
    assert (data["instructions"], data["members"][0]["instructions"]) == ("Lead.", "Be A.")
    assert "instructionsFrom" not in json.dumps(data)
    cluster.apply(prompts(lead="Lead better.", a="Be A."), namespace=namespace)
    eventually(lambda: cluster.get("at/t", where)["status"]["currentRevision"] != first)
    second = cluster.get("at/t", where)["status"]["currentRevision"]
    assert cluster.get(f"controllerrevision/t-{second}", where)["data"]["instructions"] == "Lead better."
    cluster.kubectl("delete", "configmap/prompts", where)
    found = await_condition(cluster, namespace, "at/t", "Ready", "LastGoodServes")
    assert found["status"]["currentRevision"] == second


def agentteams(cluster: Cluster, namespace: str, *arguments: str) -> tuple[int, Any]:
    where = ["--kubeconfig", str(cluster.kubeconfig), "--namespace", namespace]
    result = CliRunner().invoke(main, ["--output", "json", *arguments, *where])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    if result.exit_code == 0:
        return 0, json.loads(result.stdout)
    return result.exit_code, json.loads(result.stderr)["error"]["message"]


def test_history_and_undo(cluster: Cluster, namespace: str, endpoint: FakeEndpoint) -> None:
    where = f"--namespace={namespace}"
    cluster.apply(model(endpoint), namespace=namespace)
    served = []
    for text in ("one", "two", "three"):
        cluster.apply(team(instructions=text), namespace=namespace)
        await_condition(cluster, namespace, "at/t", "Progressing", "UpToDate")
        served.append(cluster.get("at/t", where)["status"]["currentRevision"])
    code, found = agentteams(cluster, namespace, "history", "team", "t")
    assert code == 0
    assert [(r["number"], r["revision"], r["serves"]) for r in found["revisions"]] == [
        (3, served[2], True), (2, served[1], False), (1, served[0], False),
    ]  # fmt: skip
    assert [r["changed"] for r in found["revisions"]] == [["instructions"], ["instructions"], []]
    cluster.kubectl("patch", "at/t", where, "--type=merge", "-p", '{"spec": {"runtime": {"replicas": 1}}}')
    code, undone = agentteams(cluster, namespace, "undo", "team", "t")
    assert (code, undone["number"]) == (0, 2)
    eventually(lambda: cluster.get("at/t", where)["status"]["currentRevision"] == served[1])
    spec = cluster.get("at/t", where)["spec"]
    assert (spec["instructions"], spec["runtime"]["replicas"]) == ("two", 1)
    code, undone = agentteams(cluster, namespace, "undo", "team", "t", "--to-revision", "1")
    assert (code, undone["revision"]) == (0, served[0])
    eventually(lambda: cluster.get("at/t", where)["status"]["currentRevision"] == served[0])
    code, said = agentteams(cluster, namespace, "undo", "team", "t", "--to-revision", "1")
    assert code == 1
    assert "no revision 1" in said  # it has come back, as the newest: with another number
    code, said = agentteams(cluster, namespace, "history", "team", "nobody")
    assert code == 1
    assert f'no AgentTeam "nobody" in namespace {namespace}' in said


def test_a_last_good_revision_without_its_model_is_not_ready(
    cluster: Cluster, namespace: str, endpoint: FakeEndpoint
) -> None:
    where = f"--namespace={namespace}"
    cluster.apply(model(endpoint), team(), namespace=namespace)
    await_condition(cluster, namespace, "at/t", "Ready", "Ready")
    cluster.apply(team(modelConfigRef={"name": "late"}), namespace=namespace)
    await_condition(cluster, namespace, "at/t", "Ready", "LastGoodServes")
    cluster.kubectl("delete", "mc/m", where)
    found = await_condition(cluster, namespace, "at/t", "Ready", "ModelConfigNotFound")
    message = condition(found, "Ready")["message"]
    assert f'cannot serve either: no ModelConfig "m" in namespace "{namespace}" any more' in message
    cluster.apply(model(endpoint), namespace=namespace)
    await_condition(cluster, namespace, "at/t", "Ready", "LastGoodServes")
    cluster.apply(model(endpoint, "late"), namespace=namespace)
    await_condition(cluster, namespace, "at/t", "Ready", "Ready")
