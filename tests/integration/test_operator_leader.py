"""Several operators: one works, the others wait with full caches."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.kube import shared_cluster
from tests.support.operator_process import await_condition, fake_endpoint, model, running_operator

pytestmark = pytest.mark.slow


def test_a_standby_takes_over_from_a_leader_that_was_killed_and_one_that_ended(tmp_path: Path) -> None:
    cluster = shared_cluster()
    cluster.install_crds()
    with cluster.namespace() as own, cluster.namespace() as namespace, fake_endpoint() as endpoint:
        settings: dict[str, Any] = {"lease_namespace": own, "lease_s": "4"}
        with running_operator(cluster, tmp_path, namespaces=[namespace], **settings) as first:
            cluster.apply(model(endpoint), namespace=namespace)
            await_condition(cluster, namespace, "mc/m", "Ready", "Ready")
            with running_operator(cluster, tmp_path, namespaces=[namespace], **settings) as second:
                cluster.apply(model(endpoint, "n"), namespace=namespace)
                await_condition(cluster, namespace, "mc/n", "Ready", "Ready")
                assert not second.leads
                assert '"level": "warning"' not in first.log  # nothing is wrong with a cluster without KEDA
                first.kill()
                cluster.apply(model(endpoint, "o"), namespace=namespace)
                await_condition(cluster, namespace, "mc/o", "Ready", "Ready")
                assert second.leads
                with running_operator(cluster, tmp_path, namespaces=[namespace], **settings) as third:
                    assert second.stop() == 0
                    cluster.apply(model(endpoint, "p"), namespace=namespace)
                    await_condition(cluster, namespace, "mc/p", "Ready", "Ready")
                    assert "Traceback" not in first.log + second.log + third.log
