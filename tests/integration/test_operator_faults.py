"""AgentTeams when others work against the operator, and when users do things in whatever order they like."""

import functools
import itertools
import json
import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from servicekit.identity import IdentityKey
from tests.support import at_rest
from tests.support.kube import Cluster, shared_cluster
from tests.support.kube_node import fake_node
from tests.support.kube_proxy import KubeProxy, kube_proxy
from tests.support.kube_state import Api, conditions, eventually, remains
from tests.support.kube_writes import Writes, all_writes
from tests.support.operator_process import (
    KEY,
    WAIT_S,
    FakeEndpoint,
    Operator,
    fake_endpoint,
    model,
    running_operator,
)
from tests.support.retrieval_stub import RetrievalStub, retrieval_stub
from tests.support.session_stub import SessionStub, session_stub

pytestmark = pytest.mark.slow

GROUP = "agentteams.dev/v1alpha1"
STORM_S = 3.0
RESYNC_S, MINUTE_S = 12.0, 60.0
EMBED = {
    "apiVersion": GROUP, "kind": "ModelConfig", "metadata": {"name": "e"},
    "spec": {"type": "Embedding", "provider": "BuiltIn"},
}  # fmt: skip


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    cluster = shared_cluster(controllers=True)
    cluster.install_crds()
    with fake_node(cluster):
        yield cluster


@pytest.fixture(scope="module")
def api(cluster: Cluster) -> Iterator[Api]:
    made = Api(cluster)
    yield made
    made.close()


@pytest.fixture(scope="module")
def endpoint() -> Iterator[FakeEndpoint]:
    with fake_endpoint() as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def stub() -> Iterator[RetrievalStub]:
    with retrieval_stub(IdentityKey(KEY)) as stub:
        yield stub


@pytest.fixture(scope="module")
def proxy(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeProxy]:
    with kube_proxy(cluster, tmp_path_factory.mktemp("proxy")) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def session() -> Iterator[SessionStub]:
    with session_stub(IdentityKey(KEY)) as stub:
        yield stub


@pytest.fixture(scope="module")
def own(cluster: Cluster) -> Iterator[str]:
    """The operator's namespace."""
    with cluster.namespace("operator") as name:
        yield name


@pytest.fixture(scope="module")
def operator(
    *, cluster: Cluster, proxy: KubeProxy, stub: RetrievalStub, session: SessionStub, own: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Operator]:  # fmt: skip
    with running_operator(
        cluster, tmp_path_factory.mktemp("operator"), kubeconfig=proxy.kubeconfig, lease_namespace=own,
        lease_s="6", retrieval_target=stub.target, session_target=session.target, system_namespace=own,
        resync_s=RESYNC_S,
    ) as operator:  # fmt: skip
        yield operator
    assert "Traceback" not in operator.log
    assert "being terminated" not in operator.log  # namespaces that end with all that is in them


@dataclass(frozen=True, slots=True)
class Minute:
    """That in which nothing is to be written.

    Attributes:
        namespaces: With objects of all kinds, and the operator's own.
        endpoint: Of their models.
        asked: What was asked of the operator to be written in them before.
    """

    namespaces: tuple[str, str, str]
    endpoint: FakeEndpoint
    writes: Writes
    asked: list[str]


def asked_of(proxy: KubeProxy, namespaces: Sequence[str]) -> list[str]:
    """What the operator has asked to be written there, though it may change nothing."""
    return [path for path in proxy.paths if any(f"/{name}/" in path for name in namespaces)]


@pytest.fixture(scope="module")
def minute(
    *, cluster: Cluster, proxy: KubeProxy, stub: RetrievalStub, session: SessionStub, own: str,
    operator: Operator,
) -> Iterator[Minute]:  # fmt: skip
    """Passes beside the other tests, in namespaces of its own: the first asks for it, the last waits."""
    with cluster.namespace("owner") as owner, cluster.namespace("user") as user, fake_endpoint() as endpoint:
        at_rest.settle(cluster, owner, user, endpoint=endpoint, retrieval=stub, session=session)
        namespaces = (owner, user, own)
        asked: list[str] = []
        for _ in range(5):  # events, pods that have just become ready
            if asked == (asked := asked_of(proxy, namespaces)):
                break
            time.sleep(STORM_S)
        with all_writes(cluster, *namespaces) as writes:
            yield Minute(namespaces, endpoint, writes, asked)


@pytest.fixture
def namespace(cluster: Cluster, operator: Operator) -> Iterator[str]:
    with cluster.namespace() as name:
        yield name


def team(name: str = "t", **spec: Any) -> dict[str, Any]:
    given = {"modelConfigRef": {"name": "m"}, "members": [{"name": "a"}]}
    metadata = {"name": name}
    return {"apiVersion": GROUP, "kind": "AgentTeam", "metadata": metadata, "spec": given | spec}


def knowledge(name: str = "docs", **spec: Any) -> dict[str, Any]:
    given = {"embedding": {"modelConfigRef": {"name": "e"}}, "deletionPolicy": "Delete"}
    metadata = {"name": name}
    return {"apiVersion": GROUP, "kind": "KnowledgeBase", "metadata": metadata, "spec": given | spec}


def reason(api: Api, namespace: str, plural: str, name: str, kind: str = "Ready") -> str:
    """Of a condition of an object's newest generation; empty: it has none, or is not there."""
    items = api.items(f"{GROUP}/{plural}", namespace)
    return next((conditions(i).get(kind, "") for i in items if i["metadata"]["name"] == name), "")


def await_ready(api: Api, namespace: str, name: str = "t") -> None:
    eventually(
        lambda: (
            reason(api, namespace, "agentteams", name) == "Ready"
            and reason(api, namespace, "agentteams", name, "Progressing") == "UpToDate"
        ),
        f"{name} is ready",
        WAIT_S,
    )


def of(api: Api, resource: str, namespace: str) -> dict[str, dict[str, Any]]:
    return {item["metadata"]["name"]: item for item in api.items(resource, namespace)}


@contextmanager
def storm(cluster: Cluster, *writes: list[str]) -> Iterator[list[int]]:
    """Somebody who writes again and again for the block; how often."""
    over = threading.Event()
    counts = [0]

    def blow() -> None:
        for number, write in enumerate(itertools.cycle(writes)):
            if over.is_set():
                return
            cluster.kubectl(*[part.replace("NUMBER", str(number)) for part in write])
            counts[0] += 1

    thread = threading.Thread(target=blow)
    thread.start()
    try:
        yield counts
    finally:
        over.set()
        thread.join(WAIT_S)


def test_a_finalizer_is_set_though_another_writes_the_object_all_the_time(
    cluster: Cluster, api: Api, namespace: str, stub: RetrievalStub, minute: Minute
) -> None:
    """It is set with the version that was seen: each other write in between is a conflict."""
    where = f"--namespace={namespace}"
    cluster.apply(knowledge(deletionPolicy="Retain"), EMBED, namespace=namespace)
    note = ["annotate", "--overwrite", "kb/docs", where, "noise=NUMBER"]
    with storm(cluster, note) as written:
        cluster.apply(knowledge(), namespace=namespace)
        eventually(
            lambda: of(api, f"{GROUP}/knowledgebases", namespace)["docs"]["metadata"].get("finalizers"),
            "the finalizer in the storm", WAIT_S,
        )  # fmt: skip
        eventually(lambda: reason(api, namespace, "knowledgebases", "docs") == "Ready", "ready", WAIT_S)
        eventually(lambda: written[0] > 3, "a storm", WAIT_S)
    cluster.kubectl("delete", "kb/docs", where, "--timeout=30s")
    assert (namespace, "knowledgeBases/docs") not in stub.there


def test_two_who_change_the_same_object_do_not_write_without_end(
    cluster: Cluster, api: Api, namespace: str, endpoint: FakeEndpoint, proxy: KubeProxy
) -> None:
    """Another writes a field of ours and the operator writes it back: at most once for each of his."""
    where = f"--namespace={namespace}"
    cluster.apply(model(endpoint), team(runtime={"replicas": 1}), namespace=namespace)
    await_ready(api, namespace)
    before = len(proxy.writes)
    patch = '{"spec":{"selector":{"agentteams.dev/team":"NUMBER"}}}'
    with storm(cluster, ["patch", "service/at-t", where, "--type=merge", "-p", patch]) as written:
        time.sleep(STORM_S)
        eventually(lambda: written[0] > 3, "a storm", WAIT_S)
    selector = {"agentteams.dev/team": "t", "app.kubernetes.io/name": "agentteams-orchestrator"}
    eventually(
        lambda: of(api, "v1/services", namespace)["at-t"]["spec"]["selector"] == selector, "calm", WAIT_S
    )
    services = [name for name in proxy.writes[before:] if name == "PATCH services/at-t"]
    assert 1 <= len(services) <= written[0]
    assert reason(api, namespace, "agentteams", "t") == "Ready"


def test_every_owned_object_is_put_right_when_it_is_changed_or_deleted(
    cluster: Cluster, api: Api, namespace: str, endpoint: FakeEndpoint
) -> None:
    where = f"--namespace={namespace}"
    scaled = {"autoscaling": {"maxReplicas": 3}}
    cluster.apply(model(endpoint), team(), team("u", runtime=scaled), namespace=namespace)
    await_ready(api, namespace)
    await_ready(api, namespace, "u")
    changes: dict[str, tuple[list[str], Any, Any]] = {
        "apps/v1/deployments": (["spec", "template", "spec", "serviceAccountName"], "other", None),
        "v1/services": (["spec", "selector", "app.kubernetes.io/name"], "other", None),
        "v1/serviceaccounts": (["automountServiceAccountToken"], True, "default"),
        "rbac.authorization.k8s.io/v1/roles": (["rules"], [], None),
        "rbac.authorization.k8s.io/v1/rolebindings": (["subjects"], [], None),
        "networking.k8s.io/v1/networkpolicies": (["spec", "ingress"], [], None),
        "policy/v1/poddisruptionbudgets": (["spec", "maxUnavailable"], 0, None),
        "autoscaling/v2/horizontalpodautoscalers": (["spec", "maxReplicas"], 9, None),
        "v1/secrets": (["data", "key"], "bm8=", None),
        "apps/v1/controllerrevisions": (["metadata", "labels", "app.kubernetes.io/managed-by"], "x", None),
    }

    def at(item: Any, path: list[str]) -> Any:
        return functools.reduce(lambda here, part: here.get(part, {}), path, item or {})

    checked = 0
    for resource, (path, value, not_ours) in changes.items():
        for name, item in of(api, resource, namespace).items():
            if name == not_ours:
                continue
            good = at(item, path)
            assert good != value
            patch: Any = value
            for part in reversed(path):
                patch = {part: patch}
            target = f"{resource.rpartition('/')[2]}/{name}"
            cluster.kubectl("patch", target, where, "--type=merge", "-p", json.dumps(patch))
            eventually(
                lambda: at(of(api, resource, namespace)[name], path) == good,  # noqa: B023
                f"{target} is put right", WAIT_S,
            )  # fmt: skip
            uid = item["metadata"]["uid"]
            cluster.kubectl("delete", target, where, "--wait=false")
            eventually(
                lambda: of(api, resource, namespace).get(name, item)["metadata"]["uid"] != uid,  # noqa: B023
                f"{target} is there again", WAIT_S,
            )  # fmt: skip
            checked += 1
    assert checked == 16
    # A label that gives it to another team, which does not want it.
    cluster.kubectl("label", "deployment/at-u", where, "agentteams.dev/team=t", "--overwrite")
    eventually(
        lambda: (
            at(of(api, "apps/v1/deployments", namespace).get("at-u"), ["metadata", "labels"]).get(
                "agentteams.dev/team"
            )
            == "u"
        ),
        "it is u's again", WAIT_S,
    )  # fmt: skip
    await_ready(api, namespace)
    await_ready(api, namespace, "u")


def test_references_come_in_any_order_and_everything_goes_in_any_order_twice(
    cluster: Cluster, api: Api, endpoint: FakeEndpoint, operator: Operator, stub: RetrievalStub
) -> None:
    """Orders side by side, each in a namespace of its own; what was there before is all that is left."""
    refs = [{"name": "docs", "knowledgeBaseRef": {"name": "docs"}}]
    objects = {"mc/m": model(endpoint), "mc/e": EMBED, "kb/docs": knowledge(), "at/t": team(knowledge=refs)}
    names = list(objects)
    orders = [names[i:] + names[:i] for i in range(len(names))]
    orders += [order[::-1] for order in orders[:2]]
    assert {order[0] for order in orders} == {order[-1] for order in orders} == set(objects)
    with ExitStack() as stack:
        spaces = {stack.enter_context(cluster.namespace()): order for order in orders}
        before = {namespace: remains(api, namespace) for namespace in spaces}
        for turn in range(2):
            for namespace, order in spaces.items():
                cluster.apply(*[objects[one] for one in order], namespace=namespace)
            for namespace in spaces:
                await_ready(api, namespace)
            for namespace, order in spaces.items():
                going = order if turn else order[::-1]
                cluster.kubectl("delete", *going, f"--namespace={namespace}", "--wait=false")
            for namespace in spaces:
                eventually(functools.partial(gone, api, namespace), f"{namespace} is empty", WAIT_S)
                eventually(
                    lambda: remains(api, namespace) == before[namespace],  # noqa: B023
                    f"nothing is left in {namespace}", WAIT_S,
                )  # fmt: skip
                assert not any(tenant == namespace for tenant, _ in stub.there)


def gone(api: Api, namespace: str) -> bool:
    """Cheaper than to look at all kinds again and again."""
    return not api.items("v1/pods", namespace) and not api.items("apps/v1/deployments", namespace)


def test_a_default_that_is_written_out_is_no_new_revision_and_no_failure(
    cluster: Cluster, api: Api, namespace: str, endpoint: FakeEndpoint
) -> None:
    """What a ControllerRevision holds cannot be changed, and the spec has another text now."""
    cluster.apply(model(endpoint), team(), namespace=namespace)
    await_ready(api, namespace)
    written = team(description="", members=[{"name": "a", "instructions": "", "tools": []}])
    cluster.apply(written, namespace=namespace)
    assert of(api, f"{GROUP}/agentteams", namespace)["t"]["metadata"]["generation"] == 2
    await_ready(api, namespace)
    assert len(of(api, "apps/v1/controllerrevisions", namespace)) == 1


def cells(head: str, row: str) -> dict[str, str]:
    """A row of kubectl's table by its columns; a cell may be empty."""
    begins = [match.start() for match in re.finditer(r"\S+", head)]
    return {
        head[begin:end].strip(): row[begin:end].strip()
        for begin, end in zip(begins, [*begins[1:], None], strict=True)
    }


def test_as_users_wait_read_and_scale(
    cluster: Cluster, api: Api, namespace: str, endpoint: FakeEndpoint
) -> None:
    where = f"--namespace={namespace}"
    cluster.apply(model(endpoint), team(runtime={"replicas": 1}), namespace=namespace)
    cluster.kubectl("wait", "--for=condition=Ready", "at/t", where, "--timeout=40s")
    head, row = cluster.kubectl("get", "at", where).splitlines()
    found = of(api, f"{GROUP}/agentteams", namespace)["t"]
    assert cells(head, row) | {"AGE": ""} == {
        "NAME": "t", "MODE": "Coordinate", "MEMBERS": "1", "REVISION": found["status"]["currentRevision"],
        "READY": "True", "QUALITY": "", "REASON": "Ready", "AGE": "",
    }  # fmt: skip
    # An HPA of the user's writes the scale subresource, as kubectl scale does: it is followed, and kept.
    cluster.kubectl("scale", "at/t", "--replicas=3", where)
    eventually(
        lambda: of(api, "apps/v1/deployments", namespace)["at-t"]["spec"]["replicas"] == 3, "scaled", WAIT_S
    )
    scale = json.loads(
        cluster.kubectl("get", "--raw", f"/apis/{GROUP}/namespaces/{namespace}/agentteams/t/scale")
    )
    assert scale["spec"]["replicas"] == 3
    assert scale["status"]["selector"] == found["status"]["selector"]
    # One of ours writes the Deployment's: replicas is nobody else's, whatever else is applied.
    autoscaled = {"runtime": {"autoscaling": {"maxReplicas": 5}}}
    cluster.kubectl("patch", "at/t", where, "--type=merge", "-p",
        json.dumps({"spec": {"runtime": {"replicas": None, **autoscaled["runtime"]}}}))  # fmt: skip
    eventually(lambda: of(api, "autoscaling/v2/horizontalpodautoscalers", namespace), "an HPA", WAIT_S)
    cluster.kubectl("scale", "deployment/at-t", "--replicas=4", where)
    cluster.kubectl("patch", "at/t", where, "--type=merge", "-p", '{"spec":{"instructions":"Be brief."}}')
    await_ready(api, namespace)
    deployment = of(api, "apps/v1/deployments", namespace)["at-t"]
    assert deployment["spec"]["replicas"] == 4
    ours = [m for m in deployment["metadata"]["managedFields"] if m["manager"] == "agentteams-operator"]
    assert "f:replicas" not in json.dumps(ours)


def test_a_rotated_secret_rolls_the_pods_of_the_teams_that_name_it_and_no_others(
    cluster: Cluster, api: Api, namespace: str, endpoint: FakeEndpoint
) -> None:
    def secret(name: str, value: str) -> dict[str, Any]:
        return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {"k": value}}

    def template(name: str) -> Any:
        return of(api, "apps/v1/deployments", namespace)[name]["spec"]["template"]

    key: dict[str, Any] = {"credentialsSecretKeyRef": {"name": "one", "key": "k"}}
    other: dict[str, Any] = {"credentialsSecretKeyRef": {"name": "two", "key": "k"}}
    cluster.apply(
        secret("one", "a"), secret("two", "a"), model(endpoint, **key), model(endpoint, "n", **other),
        team(runtime={"replicas": 1}), team("u", modelConfigRef={"name": "n"}, runtime={"replicas": 1}),
        namespace=namespace,
    )  # fmt: skip
    await_ready(api, namespace)
    await_ready(api, namespace, "u")
    mine, others = template("at-t"), template("at-u")
    pods = {name for name in of(api, "v1/pods", namespace) if name.startswith("at-t-")}
    cluster.apply(secret("one", "b"), namespace=namespace)
    eventually(lambda: template("at-t") != mine, "a new template", WAIT_S)
    eventually(
        lambda: {n for n in of(api, "v1/pods", namespace) if n.startswith("at-t-")}.isdisjoint(pods),
        "new pods", WAIT_S,
    )  # fmt: skip
    assert template("at-u") == others


def test_in_a_minute_at_rest_nothing_at_all_is_written(
    minute: Minute, proxy: KubeProxy, stub: RetrievalStub, session: SessionStub, operator: Operator
) -> None:
    """By nobody, of any kind: specs, statuses, events, revisions; but for the operator's own Lease.

    The operator looks at everything several times within it, and asks the endpoints and services again.
    """
    owner = minute.namespaces[0]
    time.sleep(max(0.0, minute.writes.began + MINUTE_S - time.monotonic()))
    assert minute.writes.broken == []
    assert minute.writes.seen == []
    assert minute.writes.changed() == []
    assert asked_of(proxy, minute.namespaces) == minute.asked
    rounds = MINUTE_S // RESYNC_S
    assert min(minute.endpoint.asked.count(path) for path in ("/v1/models", "/v1/embeddings")) > rounds
    assert stub.asked[owner, "knowledgeBases/docs"] > rounds
    assert session.asked[owner, "GetTeamQuality"] > rounds
    assert operator.process.poll() is None
