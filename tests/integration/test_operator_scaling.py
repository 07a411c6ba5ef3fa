"""Who scales pools, under a real operator and a real API server, with and without KEDA's kind."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_operator_teams import eventually, names, team
from tests.support.kube import Cluster, shared_cluster
from tests.support.operator_process import await_condition, fake_endpoint, model, running_operator

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


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    cluster = shared_cluster()
    cluster.install_crds()
    return cluster


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
