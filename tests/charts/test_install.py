"""The charts on a real API server, by the real helm: installed, upgraded, rolled back, taken away."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.helm import CHART, CRDS, HelmError, helm
from tests.support.kube import WHY, LocalCluster, find_assets, temporary_cluster

COMPONENTS = ("gateway", "session", "retrieval", "ingest", "embedding", "evaluation")
KINDS = "deployments,statefulsets,services,serviceaccounts,networkpolicies,poddisruptionbudgets,jobs,roles"


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """One of its own: charts install what is there only once in a cluster. Nothing runs pods in it."""
    if find_assets() is None:
        pytest.skip(WHY)
    with temporary_cluster() as cluster:
        yield cluster


def names(cluster: LocalCluster, namespace: str, kinds: str = KINDS) -> set[str]:
    items: list[dict[str, Any]] = cluster.get(kinds, f"--namespace={namespace}")["items"]
    return {f"{one['kind']}/{one['metadata']['name']}" for one in items} - {"ServiceAccount/default"}


def test_install_upgrade_roll_back_and_take_away(cluster: LocalCluster) -> None:
    config = cluster.kubeconfig

    def run(*arguments: str) -> str:
        # Hooks are Jobs that only a node would run.
        return helm(*arguments, "--namespace=system", kubeconfig=config)

    small = f"--values={CHART / 'profiles' / 'small.yaml'}"
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "system"}})
    run("install", "crds", str(CRDS))
    run("install", "agentteams", str(CHART), small, "--no-hooks", "--set=gateway.apiKeysSecret=keys")
    first = names(cluster, "system")
    assert "Deployment/agentteams-gateway" in first
    key = cluster.get("secret", "agentteams-identity-key", "--namespace=system")["data"]["key"]

    run("upgrade", "agentteams", str(CHART), small, "--no-hooks", "--set=session.replicas=3")
    assert "Deployment/agentteams-gateway" not in names(cluster, "system")
    session = cluster.get("deployment", "agentteams-session", "--namespace=system")
    assert session["spec"]["replicas"] == 3
    # What signs tokens and opens the database is the same after every upgrade.
    assert cluster.get("secret", "agentteams-identity-key", "--namespace=system")["data"]["key"] == key

    with pytest.raises(HelmError, match="sesion"):
        run("upgrade", "agentteams", str(CHART), small, "--no-hooks", "--set=sesion.replicas=1")
    run("rollback", "agentteams", "1", "--no-hooks")
    assert names(cluster, "system") == first

    team = {"modelConfigRef": {"name": "chat"}, "members": [{"name": "agent"}]}
    header = {"apiVersion": "agentteams.dev/v1alpha1", "kind": "AgentTeam"}
    cluster.apply(header | {"metadata": {"name": "help"}, "spec": team}, namespace="system")
    run("uninstall", "agentteams", "--no-hooks")
    assert names(cluster, "system") == set()
    # Teams, vectors, originals and keys outlive the application.
    assert names(cluster, "system", "agentteams,persistentvolumeclaims") == {
        "AgentTeam/help",
        "PersistentVolumeClaim/agentteams-originals",
        "PersistentVolumeClaim/milvus-lite",
    }
    assert cluster.get("secret", "agentteams-identity-key", "--namespace=system")["data"]["key"] == key
    run("install", "agentteams", str(CHART), small, "--no-hooks")
    assert cluster.get("secret", "agentteams-identity-key", "--namespace=system")["data"]["key"] == key


@pytest.mark.parametrize("profile", ["small", "production"])
def test_the_api_server_takes_every_object_of_a_restricted_namespace(
    cluster: LocalCluster, profile: str
) -> None:
    """Server-side validation of everything that Kubernetes itself knows, with pod security enforced."""
    labels = {"pod-security.kubernetes.io/warn": "restricted"}
    scaled = [f"--set={name}.autoscaling.type=HPA" for name in COMPONENTS]
    with cluster.namespace(labels=labels) as namespace:
        text = helm(
            "template", "agentteams", str(CHART), f"--namespace={namespace}",
            f"--values={CHART / 'profiles' / profile}.yaml", "--set=gateway.apiKeysSecret=keys",
            "--set=metrics.serviceMonitor=false",
            *scaled, *("--set=milvus.type=Lite", "--set=database.type=BuiltIn"),
        )  # fmt: skip
        said = cluster.kubectl(
            "apply", "--server-side", "--dry-run=server", "--validate=strict", "--warnings-as-errors",
            f"--namespace={namespace}",
            "-f", "-", stdin=text,
        )  # fmt: skip
        assert "Deployment" in text
        assert "deployment.apps/agentteams-session serverside-applied" in said
