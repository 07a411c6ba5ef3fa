"""Quotas of namespaces under a real operator and a real API server."""

from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_operator_teams import team
from tests.support.kube import shared_cluster
from tests.support.operator_process import await_condition, condition, fake_endpoint, model, running_operator

pytestmark = pytest.mark.slow


def knowledge(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "agentteams.dev/v1alpha1",
        "kind": "KnowledgeBase",
        "metadata": {"name": name},
        "spec": {"embedding": {"modelConfigRef": {"name": "e"}}},
    }


def test_the_newest_wait_until_there_is_room(tmp_path: Path) -> None:
    cluster = shared_cluster()
    cluster.install_crds()
    with cluster.namespace("operator") as own, cluster.namespace() as namespace, fake_endpoint() as endpoint:
        where = f"--namespace={namespace}"
        cluster.kubectl("annotate", "namespace", namespace, "agentteams.dev/max-teams=1")
        settings: dict[str, Any] = {
            "lease_namespace": own,
            "lease_s": "4",
            "quotas": '{"knowledge-bases": 1}',
        }
        with running_operator(cluster, tmp_path, namespaces=[namespace], **settings) as operator:
            cluster.apply(model(endpoint), team("z"), knowledge("z"), namespace=namespace)
            await_condition(cluster, namespace, "at/z", "Accepted", "Valid")
            await_condition(cluster, namespace, "kb/z", "Accepted", "Valid")
            # Times of creation are whole seconds: within one the uid decides, and any of the two may wait.
            made = cluster.get("at/z", where)["metadata"]["creationTimestamp"]
            while True:
                cluster.apply(team("a"), knowledge("a"), namespace=namespace)
                if cluster.get("at/a", where)["metadata"]["creationTimestamp"] > made:
                    break
                cluster.kubectl("delete", "at/a", "kb/a", where)
            found = await_condition(cluster, namespace, "at/a", "Accepted", "QuotaExceeded")
            message = condition(found, "Ready")["message"]
            assert f'namespace "{namespace}" may have 1 AgentTeams' in message
            assert "(the annotation agentteams.dev/max-teams of the Namespace)" in message
            assert "currentRevision" not in found["status"]
            await_condition(cluster, namespace, "kb/a", "Accepted", "QuotaExceeded")
            cluster.kubectl("delete", "kb/z", where)
            await_condition(cluster, namespace, "kb/a", "Accepted", "Valid")
            cluster.kubectl("annotate", "--overwrite", "namespace", namespace, "agentteams.dev/max-teams=2")
            await_condition(cluster, namespace, "at/a", "Accepted", "Valid")
            cluster.kubectl("annotate", "--overwrite", "namespace", namespace, "agentteams.dev/max-teams=1")
            await_condition(cluster, namespace, "at/a", "Accepted", "QuotaExceeded")
            cluster.kubectl("delete", "at/z", where)
            await_condition(cluster, namespace, "at/a", "Accepted", "Valid")
            assert "Traceback" not in operator.log
