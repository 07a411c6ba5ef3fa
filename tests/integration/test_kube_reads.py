"""What tests read without kubectl is what kubectl says."""

import json

import pytest

from tests.integration.test_operator_teams import team
from tests.support.kube import Cluster, KubectlError, shared_cluster


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    cluster = shared_cluster()
    cluster.install_crds()
    return cluster


def test_reads_are_those_of_kubectl(cluster: Cluster) -> None:
    with cluster.namespace() as namespace:
        where = f"--namespace={namespace}"
        data = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": "b"}}
        cluster.apply(team(), data, namespace=namespace)
        for asked in (
            ("at/t",), ("agentteam", "t"), ("agentteams",), ("configmap/c",), ("cm",), ("at,configmaps",),
            ("hpa",), ("events",), ("networkpolicy",), ("crd/agentteams.agentteams.dev",), ("deploy",),
        ):  # fmt: skip
            found = json.loads(cluster.kubectl("get", *asked, where, "-o", "json"))
            read = cluster.get(*asked, where)
            assert read.get("items", read) == found.get("items", found), asked
        assert [one["metadata"]["name"] for one in cluster.get("at", "--all-namespaces")["items"]].count(
            "t"
        ) >= 1
        for wrong in ("at/absent", "nothing", "nothing/t"):
            with pytest.raises(KubectlError) as said:
                cluster.kubectl("get", wrong, where)
            with pytest.raises(KubectlError) as told:
                cluster.get(wrong, where)
            assert str(told.value).partition("\n")[0] == str(said.value).partition("\n")[0]
