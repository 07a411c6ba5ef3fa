"""The installation's NetworkPolicy settings in pools, under a real operator and a real API server."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_operator_teams import eventually, names, team
from tests.support.kube import shared_cluster
from tests.support.operator_process import fake_endpoint, model, running_operator

pytestmark = pytest.mark.slow

POOLS = ["agentteams-pool", "at-own"]


@pytest.mark.timeout(180)  # two processes that start on a busy machine
def test_pools_follow_the_installations_settings_when_they_change(tmp_path: Path) -> None:
    cluster = shared_cluster()
    cluster.install_crds()
    with cluster.namespace("operator") as own, cluster.namespace() as namespace, fake_endpoint() as endpoint:
        where = f"--namespace={namespace}"

        def settings(**network: Any) -> dict[str, Any]:
            return {
                "namespaces": [namespace], "lease_namespace": own, "lease_s": "4",
                "pool_network": json.dumps(network),
            }  # fmt: skip

        monitoring = [{"namespaceSelector": {"matchLabels": {"team": "sre"}}}]
        with running_operator(cluster, tmp_path, **settings(metricsFrom=monitoring)) as operator:
            cluster.apply(
                model(endpoint), team("shared"), team("own", runtime={"replicas": 1}), namespace=namespace
            )
            eventually(lambda: names(cluster, "networkpolicy", namespace) == POOLS)
            for name in POOLS:
                rules = cluster.get(f"networkpolicy/{name}", where)["spec"]["ingress"]
                assert [r["from"] for r in rules if r["ports"][0]["port"] == 9090] == [monitoring]
            assert operator.stop() == 0
        with running_operator(cluster, tmp_path, **settings(enabled=False)) as operator:
            eventually(lambda: names(cluster, "networkpolicy", namespace) == [])
            assert names(cluster, "service", namespace) == ["agentteams-orchestrator", *POOLS]
            assert "Traceback" not in operator.log
