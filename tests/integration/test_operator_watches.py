"""What changes while the operator cannot see it: watches that say nothing, an API server that is away."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.kube import WHY, LocalCluster, find_assets, temporary_cluster
from tests.support.kube_proxy import kube_proxy
from tests.support.kube_state import Api, conditions, eventually
from tests.support.operator_process import WAIT_S, FakeEndpoint, model, running_operator

pytestmark = pytest.mark.slow

SILENT_S = 4.0
NAMESPACE = "n"


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """Of its own, since it is stopped. One that etcd forgets quickly: old watches cannot be continued."""
    if find_assets() is None:
        pytest.skip(WHY)
    with temporary_cluster() as cluster:
        cluster.install_crds()
        cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        yield cluster


@pytest.fixture
def api(cluster: LocalCluster) -> Iterator[Api]:
    made = Api(cluster)
    yield made
    made.close()


def team(name: str = "t", **spec: Any) -> dict[str, Any]:
    given = {"modelConfigRef": {"name": "m"}, "members": [{"name": "a"}]}
    metadata = {"name": name}
    return {
        "apiVersion": "agentteams.dev/v1alpha1",
        "kind": "AgentTeam",
        "metadata": metadata,
        "spec": given | spec,
    }


def reason(api: Api, plural: str, name: str, kind: str) -> str:
    """Of a condition of an object's newest generation."""
    items = api.items(f"agentteams.dev/v1alpha1/{plural}", NAMESPACE)
    return next((conditions(i).get(kind, "") for i in items if i["metadata"]["name"] == name), "")


def services(api: Api) -> list[str]:
    return sorted(s["metadata"]["name"] for s in api.items("v1/services", NAMESPACE))


def requests(cluster: LocalCluster, verb: str) -> dict[str, int]:
    """By resource, how often the API server was asked for that; watches count when they end."""
    found: dict[str, int] = {}
    for line in cluster.kubectl("get", "--raw", "/metrics").splitlines():
        if line.startswith("apiserver_request_total{") and f'verb="{verb}"' in line:
            resource = line.partition('resource="')[2].partition('"')[0]
            found[resource] = found.get(resource, 0) + int(line.rpartition(" ")[2])
    return found


def forget(cluster: LocalCluster, api: Api) -> None:
    """etcd keeps no history: whoever watches from before must list anew."""
    version = api.get("/api/v1/namespaces")["metadata"]["resourceVersion"]
    cluster.compact(int(version))


def test_a_watch_that_falls_silent_is_begun_anew_within_the_bound(
    cluster: LocalCluster, api: Api, endpoint: FakeEndpoint, tmp_path: Path
) -> None:
    with kube_proxy(cluster, tmp_path) as proxy:
        cluster.apply(model(endpoint), team("s"), namespace=NAMESPACE)
        with running_operator(
            cluster, tmp_path, kubeconfig=proxy.kubeconfig, namespaces=[NAMESPACE],
            lease_namespace=NAMESPACE, watch_silent_s=SILENT_S,
        ) as operator:  # fmt: skip
            eventually(lambda: reason(api, "agentteams", "s", "ModelsReady") == "AllReady", "ready", WAIT_S)
            proxy.mute()
            cluster.apply(model(endpoint, "late"), namespace=NAMESPACE)
            cluster.kubectl("delete", "mc/m", f"--namespace={NAMESPACE}")
            within = SILENT_S + WAIT_S / 2
            eventually(lambda: reason(api, "modelconfigs", "late", "Ready") == "Ready", "a new one", within)
            eventually(
                lambda: reason(api, "agentteams", "s", "ResolvedRefs") == "ModelConfigNotFound",
                "one that is gone", within,
            )  # fmt: skip
            assert "Traceback" not in operator.log
        cluster.kubectl("delete", "mc,at", "--all", f"--namespace={NAMESPACE}")


def test_a_quiet_watch_goes_on_from_where_it_was_without_a_new_list(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    """Nobody can tell it from a dead one where etcd does not report progress: no bookmarks come."""
    quiet = ("networkpolicies", "poddisruptionbudgets", "knowledgebases")
    with running_operator(
        cluster, tmp_path, namespaces=[NAMESPACE], lease_namespace=NAMESPACE, watch_silent_s=1
    ) as operator:
        eventually(lambda: "service_ready" in operator.log, "has listed", WAIT_S)
        lists, watches = requests(cluster, "LIST"), requests(cluster, "WATCH")

        def begun_anew() -> bool:
            now = requests(cluster, "WATCH")
            return all(now.get(kind, 0) >= watches.get(kind, 0) + 3 for kind in quiet)

        eventually(begun_anew, "watches that were begun anew", WAIT_S)
        after = requests(cluster, "LIST")
        assert {kind: after[kind] - lists[kind] for kind in quiet} == dict.fromkeys(quiet, 0)
        assert "Traceback" not in operator.log


def test_what_was_changed_and_deleted_while_the_api_server_was_away_is_found(
    cluster: LocalCluster, api: Api, endpoint: FakeEndpoint, tmp_path: Path
) -> None:
    """The operator hears nothing: its door to the API server is shut, and history is gone when it opens."""
    where = f"--namespace={NAMESPACE}"
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "llm"}, "data": {"k": "b25l"}}
    key: dict[str, Any] = {"credentialsSecretKeyRef": {"name": "llm", "key": "k"}}
    with kube_proxy(cluster, tmp_path) as proxy:
        with running_operator(
            cluster, tmp_path, kubeconfig=proxy.kubeconfig, namespaces=[NAMESPACE], lease_namespace=NAMESPACE,
        ) as operator:  # fmt: skip
            cluster.apply(secret, model(endpoint, **key), team(), namespace=NAMESPACE)
            eventually(lambda: reason(api, "agentteams", "t", "ModelsReady") == "AllReady", "ready", WAIT_S)
            eventually(lambda: "agentteams-pool" in services(api), "its objects", WAIT_S)
            with proxy.shut():
                cluster.kubectl("delete", "secret/llm", "service/agentteams-pool", where)
                cluster.apply(team(instructions="Be brief."), namespace=NAMESPACE)
                forget(cluster, api)
                cluster.stop_api_server(kill=True)
                cluster.start_api_server()
            eventually(
                lambda: reason(api, "modelconfigs", "m", "Ready") == "SecretNotFound", "the Secret", WAIT_S
            )
            eventually(lambda: "agentteams-pool" in services(api), "drift", WAIT_S)
            eventually(
                lambda: reason(api, "agentteams", "t", "ModelsReady") == "ModelNotReady", "the team", WAIT_S
            )
            assert operator.process.poll() is None
            told = [json.loads(line)["event"] for line in operator.log.splitlines() if line.startswith("{")]
            assert told.count("service_started") == 1
        cluster.kubectl("delete", "mc,at", "--all", where)
