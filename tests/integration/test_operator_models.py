"""ModelConfigs under a real operator and a real API server."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.kube import Cluster
from tests.support.kube_state import eventually
from tests.support.operator_process import (
    WAIT_S,
    FakeEndpoint,
    Operator,
    await_condition,
    condition,
    model,
)

pytestmark = pytest.mark.slow


@pytest.fixture
def namespace(cluster: Cluster, operator: Operator) -> Iterator[str]:
    with cluster.namespace() as name:
        yield name


def secret(**values: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "llm"}, "stringData": values}


WITH_KEY: dict[str, Any] = {"credentialsSecretKeyRef": {"name": "llm", "key": "apiKey"}}


def events(cluster: Cluster, namespace: str, *, last: str) -> list[str]:
    """When the last is there: an event is written after the status that it tells of."""

    def found() -> list[str]:
        items = cluster.get("events", f"--namespace={namespace}")["items"]
        return [f"{e['reason']}: {e['message']}" for e in items]

    eventually(lambda: any(one.startswith(last) for one in found()), f"event {last}", WAIT_S)
    return found()


def test_a_model_that_answers_is_ready(cluster: Cluster, namespace: str, endpoint: FakeEndpoint) -> None:
    cluster.apply(model(endpoint), namespace=namespace)
    cluster.kubectl("wait", "--for=condition=Ready", "mc/m", f"--namespace={namespace}", "--timeout=30s")
    found = cluster.get("mc/m", f"--namespace={namespace}")
    assert found["status"]["observedGeneration"] == 1
    assert condition(found, "Reachable")["reason"] == "Answered"
    assert "annotations" not in found["metadata"]
    assert "finalizers" not in found["metadata"]
    assert "secretHash" not in found["status"]
    assert events(cluster, namespace, last="Ready") == ["Ready: The endpoint answers."]


def test_a_late_secret_a_late_key_and_a_rotation(
    cluster: Cluster, namespace: str, endpoint: FakeEndpoint
) -> None:
    endpoint.key = "good"
    cluster.apply(model(endpoint, **WITH_KEY), namespace=namespace)
    found = await_condition(cluster, namespace, "mc/m", "Ready", "SecretNotFound")
    assert condition(found, "Ready")["message"] == (
        f'no Secret "llm" in namespace "{namespace}"; create it with the key "apiKey"'
    )
    assert condition(found, "Reachable")["status"] == "Unknown"
    assert endpoint.asked == []
    cluster.apply(secret(other="x"), namespace=namespace)
    found = await_condition(cluster, namespace, "mc/m", "Ready", "SecretKeyNotFound")
    assert "but other; add it" in condition(found, "Ready")["message"]
    cluster.apply(secret(apiKey="bad"), namespace=namespace)
    found = await_condition(cluster, namespace, "mc/m", "Ready", "Refused")
    assert "refuses with 401; correct the key" in condition(found, "Ready")["message"]
    first = found["status"]["secretHash"]
    cluster.apply(secret(apiKey="good"), namespace=namespace)
    found = await_condition(cluster, namespace, "mc/m", "Ready", "Ready")
    assert found["status"]["secretHash"] != first
    told = json.dumps(found) + str(events(cluster, namespace, last="Ready"))
    assert "THE-ANSWER" not in told
    cluster.kubectl("delete", "secret", "llm", f"--namespace={namespace}")
    await_condition(cluster, namespace, "mc/m", "Ready", "SecretNotFound")
    cluster.apply(model(endpoint), namespace=namespace)
    found = await_condition(cluster, namespace, "mc/m", "Ready", "Refused")
    assert condition(found, "Ready")["message"].endswith("name one by spec.credentialsSecretKeyRef")


def test_dimensions_are_probed_and_compared(cluster: Cluster, namespace: str, endpoint: FakeEndpoint) -> None:
    cluster.apply(model(endpoint, type="Embedding"), namespace=namespace)
    found = await_condition(cluster, namespace, "mc/m", "Ready", "Ready")
    assert found["status"]["probedDimensions"] == 8
    cluster.apply(model(endpoint, type="Embedding", embedding={"dimensions": 4}), namespace=namespace)
    found = await_condition(cluster, namespace, "mc/m", "Reachable", "DimensionMismatch")
    assert "is 4, and the endpoint's vectors have 8" in condition(found, "Ready")["message"]


def test_a_model_that_is_not_served_and_an_endpoint_that_fails(
    cluster: Cluster, namespace: str, endpoint: FakeEndpoint
) -> None:
    endpoint.models = ["other"]
    cluster.apply(model(endpoint), namespace=namespace)
    await_condition(cluster, namespace, "mc/m", "Ready", "ModelNotServed")
    endpoint.status = 503
    cluster.apply(model(endpoint, model="n"), namespace=namespace)
    found = await_condition(cluster, namespace, "mc/m", "Ready", "NoAnswer")
    assert "status 503" in condition(found, "Ready")["message"]


def test_a_fallback_that_comes_late_and_one_of_the_wrong_type(
    cluster: Cluster, namespace: str, endpoint: FakeEndpoint
) -> None:
    cluster.apply(model(endpoint, fallbackRefs=[{"name": "small"}]), namespace=namespace)
    found = await_condition(cluster, namespace, "mc/m", "ResolvedRefs", "ModelConfigNotFound")
    assert condition(found, "ResolvedRefs")["message"].startswith(
        'spec.fallbackRefs[0].name: no ModelConfig "small"'
    )
    cluster.apply(model(endpoint, "small", type="Embedding"), namespace=namespace)
    await_condition(cluster, namespace, "mc/m", "ResolvedRefs", "WrongType")
    cluster.kubectl("delete", "mc/small", f"--namespace={namespace}")
    cluster.apply(model(endpoint, "small"), namespace=namespace)
    await_condition(cluster, namespace, "mc/m", "Ready", "Ready")


def test_the_installations_own_model_needs_no_probe(cluster: Cluster, namespace: str) -> None:
    built_in = {
        "apiVersion": "agentteams.dev/v1alpha1",
        "kind": "ModelConfig",
        "metadata": {"name": "m"},
        "spec": {"type": "Chat", "provider": "BuiltIn"},
    }
    cluster.apply(built_in, namespace=namespace)
    found = await_condition(cluster, namespace, "mc/m", "Ready", "Ready")
    assert condition(found, "Reachable")["reason"] == "BuiltIn"
