"""Who scales pools, under a real operator and a real API server, with and without KEDA's kind."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.test_operator_teams import eventually, names, team
from tests.support.kube import Cluster
from tests.support.kube_state import Api
from tests.support.operator_process import WAIT_S, await_condition, fake_endpoint, model, running_operator

pytestmark = pytest.mark.slow

ANY = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
SCALED_OBJECT: dict[str, Any] = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "scaledobjects.keda.sh"},
    "spec": {
        "group": "keda.sh",
        "names": {"kind": "ScaledObject", "listKind": "ScaledObjectList", "plural": "scaledobjects",
                  "singular": "scaledobject"},
        "scope": "Namespaced",
        "versions": [{
            "name": "v1alpha1", "served": True, "storage": True,
            "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": ANY, "status": ANY}}},
        }],
    },
}  # fmt: skip


HPA, SCALED = "autoscaling/v2/horizontalpodautoscalers", "keda.sh/v1alpha1/scaledobjects"
POOLS = ["agentteams-pool", "at-t"]  # of the namespace, and of the team


@contextmanager
def never_two(cluster: Cluster, namespace: str) -> Iterator[None]:
    """Looks all the time whether two scale the same pods; both kinds have the pool's name."""
    api, stop, looks, twice = Api(cluster), threading.Event(), [0], set[str]()

    def of(resource: str) -> set[str]:
        try:
            return {one["metadata"]["name"] for one in api.items(resource, namespace)}
        except httpx.HTTPStatusError as error:
            if error.response.status_code != 404:
                raise
            return set()  # there is no such kind

    def look() -> None:
        while not stop.wait(0.02):
            # Those that were there before and after the others were looked at were there with them.
            before, others, after = of(SCALED), of(HPA), of(SCALED)
            twice.update(before & others & after)
            looks[0] += 1

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(WAIT_S)
        api.close()
    assert looks[0] > 20
    assert not twice


@contextmanager
def keda(cluster: Cluster) -> Iterator[None]:
    """Its kind is there for the block, and is removed with all objects of it."""
    cluster.apply(SCALED_OBJECT)
    try:
        yield
    finally:
        cluster.kubectl("delete", "crd/scaledobjects.keda.sh", "--timeout=30s")


@pytest.mark.timeout(240)  # the operator looks each 10 s
def test_keda_comes_and_goes_while_the_operator_runs(cluster: Cluster, tmp_path: Path) -> None:
    """Nothing is touched but the CustomResourceDefinition."""
    with cluster.namespace("operator") as own, cluster.namespace() as namespace, fake_endpoint() as endpoint:
        where = f"--namespace={namespace}"
        with (
            never_two(cluster, namespace),
            running_operator(
                cluster, tmp_path, namespaces=[namespace], lease_namespace=own, lease_s="4",
                prometheus_url="http://prometheus:9090", pool_scaler="KEDA", pool_max_replicas="3",
            ) as operator,
        ):  # fmt: skip
            runtime = {"autoscaling": {"maxReplicas": 7}}
            cluster.apply(model(endpoint), team(runtime=runtime), team("shared"), namespace=namespace)
            await_condition(cluster, namespace, "at/t", "Autoscaled", "KedaNotInstalled")
            eventually(lambda: names(cluster, "hpa", namespace) == POOLS)
            with keda(cluster):
                await_condition(cluster, namespace, "at/t", "Autoscaled", "ScaledObject")
                eventually(lambda: names(cluster, "scaledobject", namespace) == POOLS)
                eventually(lambda: names(cluster, "hpa", namespace) == [])
                # The kind that came late is watched.
                cluster.kubectl("delete", "scaledobject/at-t", where)
                eventually(lambda: names(cluster, "scaledobject", namespace) == POOLS)
            await_condition(cluster, namespace, "at/t", "Autoscaled", "KedaNotInstalled")
            eventually(lambda: names(cluster, "hpa", namespace) == POOLS)
            # kopf may tell that a watch has ended with its kind. Nothing else fails, and the process goes on.
            assert "object_failed" not in operator.log
            assert operator.process.poll() is None


def test_keda_is_used_where_it_is_and_missed_where_it_is_not(cluster: Cluster, tmp_path: Path) -> None:
    def scaled_by(kind: str) -> str:
        patch = {"spec": {"runtime": {"autoscaling": {"type": kind}}}}
        return cluster.kubectl("patch", "at/t", where, "--type=merge", "-p", json.dumps(patch))

    with cluster.namespace("operator") as own, cluster.namespace() as namespace, fake_endpoint() as endpoint:
        where = f"--namespace={namespace}"
        settings: dict[str, Any] = {
            "namespaces": [namespace], "lease_namespace": own, "lease_s": "4",
            "prometheus_url": "http://prometheus.monitoring:9090",
        }  # fmt: skip
        with running_operator(cluster, tmp_path, **settings) as operator:
            runtime = {"autoscaling": {"type": "KEDA", "maxReplicas": 7, "targetActiveRuns": 5}}
            cluster.apply(model(endpoint), team(runtime=runtime), namespace=namespace)
            await_condition(cluster, namespace, "at/t", "Autoscaled", "KedaNotInstalled")
            eventually(lambda: names(cluster, "hpa", namespace) == ["at-t"])
            assert operator.stop() == 0
            assert "Traceback" not in operator.log
        cluster.apply(SCALED_OBJECT)
        try:
            cluster.kubectl(
                "wait", "--for=condition=Established", "crd/scaledobjects.keda.sh", "--timeout=20s"
            )
            with running_operator(cluster, tmp_path, **settings) as operator:
                await_condition(cluster, namespace, "at/t", "Autoscaled", "ScaledObject")
                eventually(lambda: names(cluster, "scaledobject", namespace) == ["at-t"])
                assert names(cluster, "hpa", namespace) == []
                found = cluster.get("scaledobject/at-t", where)
                assert found["spec"]["scaleTargetRef"] == {"name": "at-t"}
                (trigger,) = found["spec"]["triggers"]
                assert trigger["metadata"]["serverAddress"] == "http://prometheus.monitoring:9090"
                # What scales says how many there are: nobody undoes it.
                cluster.kubectl("scale", "deployment/at-t", "--replicas=3", where)
                cluster.kubectl(
                    "patch",
                    "scaledobject/at-t",
                    where,
                    "--type=merge",
                    "-p",
                    '{"spec":{"maxReplicaCount":99}}',
                )
                eventually(lambda: cluster.get("scaledobject/at-t", where)["spec"]["maxReplicaCount"] == 7)
                assert cluster.get("deployment/at-t", where)["spec"]["replicas"] == 3
                scaled_by("HPA")
                eventually(lambda: names(cluster, "hpa", namespace) == ["at-t"])
                assert names(cluster, "scaledobject", namespace) == []
                assert "Traceback" not in operator.log
        finally:
            cluster.kubectl("delete", "crd/scaledobjects.keda.sh", "--timeout=30s")
