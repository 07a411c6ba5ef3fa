"""The operator with only the rights that the chart gives its account, and what it counts meanwhile."""

import json
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.support.helm import render
from tests.support.kube import WHY, Cluster, find_assets, temporary_cluster
from tests.support.kube_node import fake_node
from tests.support.operator_process import (
    WAIT_S,
    FakeEndpoint,
    Operator,
    await_condition,
    condition,
    fake_endpoint,
    model,
    running_operator,
)
from tests.support.ports import free_ports

pytestmark = pytest.mark.slow
ACCOUNT = "agentteams-operator"
RIGHTS = ("ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")
TEAM: dict[str, Any] = {
    "apiVersion": "agentteams.dev/v1alpha1",
    "kind": "AgentTeam",
    "metadata": {"name": "t"},
    "spec": {"modelConfigRef": {"name": "m"}, "members": [{"name": "a"}]},
}
OWN = {"runtime": {"autoscaling": {"minReplicas": 1, "maxReplicas": 2}}}
KEY: dict[str, Any] = {"credentialsSecretKeyRef": {"name": "llm", "key": "apiKey"}}
SECRET = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "llm"}, "stringData": {"apiKey": "k"}}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Of its own: this operator sees all namespaces, and those of other tests may be half gone."""
    assets = find_assets()
    if assets is None or not (assets / "kube-controller-manager").exists():
        pytest.skip(WHY)
    with temporary_cluster(controllers=True) as cluster:
        cluster.install_crds()
        with fake_node(cluster):
            yield cluster


@pytest.fixture
def endpoint() -> Iterator[FakeEndpoint]:
    with fake_endpoint() as endpoint:
        endpoint.key = "k"
        yield endpoint


def rights(cluster: Cluster, namespace: str) -> list[str]:
    """Applies those of the chart; returns what is to be deleted afterwards."""
    objects = [
        one
        for one in render("small", namespace=namespace)
        if one["kind"] in RIGHTS and one["metadata"]["name"].endswith(ACCOUNT)
    ]
    assert sorted(one["kind"] for one in objects) == sorted(RIGHTS)
    cluster.apply(*objects, namespace=namespace)
    return [f"{one['kind']}/{one['metadata']['name']}" for one in objects if "Cluster" in one["kind"]]


def scrape(port: int) -> dict[tuple[str, ...], float]:
    """Samples of the operator: name and values of the labels, in order of their names -> value."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return {
        (sample.name.removeprefix("agentteams_operator_"), *(v for _, v in sorted(sample.labels.items()))): (
            sample.value
        )
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("agentteams_operator_")
    }


def check_metrics(cluster: Cluster, port: int) -> None:
    # What was just written may not have been heard of yet.
    deadline = time.monotonic() + WAIT_S
    while (counted := counts(scrape(port))) != (there := what_there_is(cluster)):
        assert time.monotonic() < deadline, f"counted {counted} of {there}"
        time.sleep(0.2)
    assert min(counted) >= 1
    assert counted[0] >= counted[1] >= 2, "both teams, and both are ready"
    seen = scrape(port)
    assert seen["leader",] == 1
    for kind in ("AgentTeam", "ModelConfig", "Pool"):
        assert seen["reconciles_total", kind, "done"] >= 1
        assert seen["reconcile_seconds_count", kind] >= 1
        assert seen["reconciles_total", kind, "failed"] == 0
        assert seen["reconciles_total", kind, "refused"] == 0
    assert seen["queue_wait_seconds_count",] >= seen["reconciles_total", "AgentTeam", "done"]
    assert seen["retrying_objects", "AgentTeam"] == 0
    assert seen["watches_begun_total", "agentteams"] >= 1
    assert seen["watches_begun_total", "deployments"] >= 1
    assert seen["queue_keys",] >= 0


def counts(seen: dict[tuple[str, ...], float]) -> tuple[float, float, float]:
    """Teams, those that are ready, models that answer; labels are condition, kind, status."""
    ready = seen["conditions", "Ready", "AgentTeam", "True"]
    return seen["objects", "AgentTeam"], ready, seen["conditions", "Reachable", "ModelConfig", "True"]


def what_there_is(cluster: Cluster) -> tuple[float, float, float]:
    """The same, as the API server has it."""
    teams, models = (cluster.get(kind, "--all-namespaces")["items"] for kind in ("at", "mc"))

    def true(objects: list[dict[str, Any]], kind: str) -> int:
        return sum(condition(one, kind).get("status") == "True" for one in objects)

    return len(teams), true(teams, "Ready"), true(models, "Reachable")


def borrow(cluster: Cluster, owner: str, namespace: str, endpoint: FakeEndpoint) -> None:
    """Uses a model of another namespace, and loses it."""
    copy = ("secret/agentteams-shared-models", f"--namespace={namespace}")
    shared = KEY | {"allowedNamespaces": {"from": "All"}}
    cluster.apply(SECRET, model(endpoint, "shared", **shared), namespace=owner)
    reference = {**TEAM["spec"], "modelConfigRef": {"name": "shared", "namespace": owner}}
    cluster.apply(TEAM | {"spec": reference}, namespace=namespace)
    await_condition(cluster, namespace, "at/t", "Ready", "Ready")
    cluster.kubectl("wait", "--for=create", *copy, f"--timeout={WAIT_S}s")
    cluster.apply(SECRET | {"stringData": {"apiKey": "k", "other": "x"}}, namespace=owner)
    cluster.apply(model(endpoint, "shared", **shared, contextTokens=4096), namespace=owner)
    cluster.kubectl("delete", "mc/shared", f"--namespace={owner}")
    cluster.kubectl("wait", "--for=delete", *copy, f"--timeout={WAIT_S}s")
    cluster.apply(TEAM, namespace=namespace)
    await_condition(cluster, namespace, "at/t", "Ready", "Ready")


def work(cluster: Cluster, namespace: str, endpoint: FakeEndpoint, operator: Operator, port: int) -> None:
    cluster.apply(SECRET, model(endpoint, **KEY), TEAM, namespace=namespace)
    own = TEAM | {"metadata": {"name": "own"}, "spec": {**TEAM["spec"], **OWN}}
    cluster.apply(own, namespace=namespace)
    for name in ("t", "own"):
        await_condition(cluster, namespace, f"at/{name}", "Ready", "Ready")
    assert cluster.get("hpa", f"--namespace={namespace}")["items"], "the team's own pool is scaled"
    check_metrics(cluster, port)
    cluster.kubectl("delete", "at/own", f"--namespace={namespace}", "--timeout=20s")
    await_condition(cluster, namespace, "at/t", "Ready", "Ready")
    assert cluster.get("events", f"--namespace={namespace}")["items"]
    assert "orbidden" not in operator.log, operator.log


def test_a_team_becomes_ready_with_the_charts_rights_alone(
    cluster: Cluster, endpoint: FakeEndpoint, tmp_path: Path
) -> None:
    (port,) = free_ports(1)
    with cluster.namespace("system") as system, cluster.namespace("tenant") as namespace:
        afterwards = rights(cluster, system)
        try:
            account = cluster.as_account(system, ACCOUNT, tmp_path / "kubeconfig")
            settings: dict[str, Any] = {"lease_namespace": system, "lease_s": "4", "metrics_port": str(port)}
            with running_operator(account, tmp_path, **settings) as operator:
                work(cluster, namespace, endpoint, operator, port)
                borrow(cluster, system, namespace, endpoint)
                assert "orbidden" not in operator.log, operator.log
                assert operator.stop() == 0
                assert "Traceback" not in operator.log, operator.log
        finally:
            cluster.kubectl("delete", *afterwards)


# who, verb, resource of agentteams.dev, subresource -> whether
USERS = [
    ("viewer", "get", "agentteams", "", True),
    ("viewer", "watch", "knowledgebases", "", True),
    ("viewer", "list", "modelconfigs", "", True),
    ("viewer", "create", "agentteams", "", False),
    ("viewer", "delete", "knowledgebases", "", False),
    ("viewer", "update", "agentteams", "scale", False),
    ("editor", "get", "agentteams", "", True),
    ("editor", "create", "agentteams", "", True),
    ("editor", "patch", "knowledgebases", "", True),
    ("editor", "deletecollection", "modelconfigs", "", True),
    ("editor", "update", "agentteams", "scale", True),
    ("owner", "create", "modelconfigs", "", True),
    ("owner", "delete", "agentteams", "", True),
    # What the operator says is not for users to write.
    ("editor", "update", "agentteams", "status", False),
    ("owner", "patch", "knowledgebases", "status", False),
]


def review(namespace: str, user: str, verb: str, resource: str, subresource: str) -> dict[str, Any]:
    asked = {"namespace": namespace, "verb": verb, "group": "agentteams.dev", "resource": resource}
    spec = {"user": user, "resourceAttributes": asked | {"subresource": subresource}}
    return {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}


def binding(user: str, role: str) -> dict[str, Any]:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": user},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
    }


def answers(cluster: Cluster, reviews: list[dict[str, Any]]) -> list[bool]:
    text = cluster.kubectl("create", "-f", "-", "-o", "json", stdin=yaml.safe_dump_all(reviews))
    decoder = json.JSONDecoder()
    found: list[dict[str, Any]] = []
    while text.strip():
        one, end = decoder.raw_decode(text.strip())
        text = text.strip()[end:]
        found += one["items"] if one["kind"] == "List" else [one]
    return [bool(one["status"]["allowed"]) for one in found]


def test_users_of_a_namespace_may_what_their_roles_say_and_there_only(cluster: Cluster) -> None:
    roles = [
        one
        for one in render("small")
        if one["kind"] == "ClusterRole" and one["metadata"]["name"] in ("agentteams-view", "agentteams-edit")
    ]
    cluster.apply(*roles)
    try:
        with cluster.namespace() as own, cluster.namespace() as other:
            given = (("viewer", "view"), ("editor", "edit"), ("owner", "admin"))
            cluster.apply(*(binding(user, role) for user, role in given), namespace=own)
            asked = [review(own, *row[:4]) for row in USERS]
            expected = [row[4] for row in USERS]
            deadline = time.monotonic() + WAIT_S
            # A controller adds them to Kubernetes' own roles.
            while (said := answers(cluster, asked)) != expected and time.monotonic() < deadline:
                time.sleep(0.2)
            wrong = [row for row, one in zip(USERS, said, strict=True) if one != row[4]]
            assert wrong == []
            elsewhere = answers(cluster, [review(other, *row[:4]) for row in USERS])
            assert not any(elsewhere)
    finally:
        cluster.kubectl("delete", *(f"clusterrole/{one['metadata']['name']}" for one in roles))
