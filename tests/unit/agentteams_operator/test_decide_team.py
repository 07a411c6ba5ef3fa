"""What is decided about an AgentTeam, and what pods are made of, without a server."""

from datetime import UTC, datetime
from typing import Any

import pytest

from agentteams_operator.core.decide.team import HISTORY, ObservedServing, ObservedTeam, decide_team
from agentteams_operator.core.objects import Key, Stored
from agentteams_operator.core.outcome import Outcome
from agentteams_operator.core.reading import Reader
from agentteams_operator.specs.pool import Pool, namespace_objects, pool_objects
from agentteams_operator.specs.settings import PoolSettings
from manifests import Runtime
from tests.support.wrong_manifests import WRONG, Wrong

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SETTINGS = PoolSettings(image="orchestrator:1", environment={"AGENTTEAMS_SESSION_TARGET": "session:1"})
SPEC = {"modelConfigRef": {"name": "m"}, "members": [{"name": "a"}]}
SERVING = {"availableReplicas": 1, "replicas": 1, "updatedReplicas": 1, "observedGeneration": 1}


def stored(kind: str, name: str, generation: int = 1, **content: Any) -> Stored:
    return Stored(
        key=Key(kind, "n", name), uid=f"u-{name}", version="1", generation=generation, content=content
    )


def ready(kind: str = "ModelConfig", name: str = "m", truth: str = "True") -> Stored:
    told = {"type": "Ready", "status": truth, "reason": "NoAnswer", "message": "it is silent"}
    return stored(kind, name, status={"conditions": [told]})


def decided(spec: Any = None, status: Any = None, **seen: Any) -> Outcome:
    one = stored("AgentTeam", "t", spec=SPEC | (spec or {}), status=status or {})
    given: dict[str, Any] = {
        "secrets": {}, "keys": (), "broken": (), "models": [ready()], "knowledge": (), "owned": (),
        "pool": stored("Deployment", "agentteams-pool", status=SERVING),
    }  # fmt: skip
    read = Reader(lambda key: None).read(one)
    return decide_team(ObservedTeam(one=one, read=read, **(given | seen)), SETTINGS, NOW)


def condition(outcome: Outcome, kind: str) -> tuple[str, str]:
    assert outcome.status is not None
    (found,) = [c for c in outcome.status["conditions"] if c["type"] == kind]
    return found["status"], found["reason"]


def test_a_ready_team_serves_its_revision() -> None:
    outcome = decided()
    assert outcome.status is not None
    assert outcome.status["currentRevision"] == outcome.status["updatedRevision"]
    assert condition(outcome, "Ready") == ("True", "Ready")
    (revision,) = outcome.objects
    assert revision["metadata"]["name"] == f"t-{outcome.status['currentRevision']}"
    assert revision["data"] == SPEC
    again = decided(status=outcome.status)
    assert condition(again, "Progressing") == ("False", "UpToDate")
    assert condition(decided(status=again.status), "Progressing") == ("False", "UpToDate")
    assert decided(status=again.status).status == again.status


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        ({"models": [ready(truth="False")]}, "ModelNotReady"),
        ({"knowledge": [ready("KnowledgeBase", "k", "False")]}, "KnowledgeNotReady"),
        ({"broken": [("TeamNotFound", "no team")]}, "TeamNotFound"),
        ({"keys": [("s", "k")]}, "SecretNotFound"),
        ({"pool": None}, "NoReplica"),
        ({"pool": stored("Deployment", "p", status={"replicas": 1})}, "NoReplica"),
        ({"spec": {"suspend": True}}, "Suspended"),
    ],
)
def test_why_a_new_team_is_not_ready(seen: dict[str, Any], reason: str) -> None:
    assert condition(decided(**seen), "Ready") == ("False", reason)


def test_the_last_good_revision_serves_while_the_newest_cannot() -> None:
    good = decided().status
    later = decided({"instructions": "new"}, good, models=[ready(truth="False")])
    assert later.status is not None
    assert good is not None
    assert later.status["currentRevision"] == good["currentRevision"]
    assert later.status["updatedRevision"] != good["currentRevision"]
    assert condition(later, "Ready") == ("True", "LastGoodServes")
    assert condition(later, "Progressing") == ("False", "Waiting")
    invalid = decided({"mode": "Workflow"}, good)
    assert condition(invalid, "Accepted") == ("False", "Invalid")
    assert condition(invalid, "Ready") == ("True", "LastGoodServes")
    assert invalid.objects == ()
    assert invalid.gone == ()
    # What serves has itself lost what it needs: that is no last good one.
    lost = decided(status=good, models=[ready(truth="False")])
    assert condition(lost, "Ready") == ("False", "ModelNotReady")


def served(**lost: Any) -> ObservedServing:
    given: dict[str, Any] = {"secrets": {}, "keys": (), "broken": (), "models": [ready()], "knowledge": ()}
    return ObservedServing(**(given | lost))


@pytest.mark.parametrize(
    ("lost", "reason"),
    [
        ({"models": [ready(truth="False")]}, "ModelNotReady"),
        ({"knowledge": [ready("KnowledgeBase", "k", "False")]}, "KnowledgeNotReady"),
        ({"broken": [("ModelConfigNotFound", "it went")]}, "ModelConfigNotFound"),
        ({"keys": [("s", "k")]}, "SecretNotFound"),
    ],
)
def test_a_last_good_revision_that_has_lost_what_it_needs_does_not_count_as_ready(
    lost: dict[str, Any], reason: str
) -> None:
    good = decided().status
    newest: dict[str, Any] = {
        "spec": {"instructions": "new"},
        "status": good,
        "broken": [("WrongType", "no")],
    }
    assert condition(decided(**newest, serving=served()), "Ready") == ("True", "LastGoodServes")
    outcome = decided(**newest, serving=served(**lost))
    assert condition(outcome, "Ready") == ("False", reason)
    assert outcome.status is not None
    assert good is not None
    message = outcome.status["conditions"][-1]["message"]
    assert f"revision {good['currentRevision']}, the last good one, cannot serve either" in message
    assert message.endswith("the newest waits: no")
    # What would make the newest serve is there: what the old one lacks is of no interest.
    assert condition(decided({"instructions": "new"}, good, serving=served(**lost)), "Ready")[0] == "True"


def test_a_change_over_is_told_once() -> None:
    good = decided().status
    later = decided({"instructions": "new"}, good)
    assert [e.reason for e in later.events] == ["RevisionServing"]
    assert decided({"instructions": "new"}, later.status).events == ()


def test_old_revisions_go_and_one_that_comes_back_is_the_newest() -> None:
    good = decided().status
    assert good is not None
    mine = stored("ControllerRevision", f"t-{good['currentRevision']}", revision=1)
    old = [stored("ControllerRevision", f"t-{n}", revision=n) for n in range(2, 16)]
    outcome = decided(status=good, owned=[mine, *old])
    assert outcome.objects[0]["revision"] == 16
    assert [key.name for key in outcome.gone] == [f"t-{n}" for n in range(2, 2 + len(old) + 1 - HISTORY)]


def test_runtime_and_suspend_make_no_new_revision() -> None:
    plain, own = decided(), decided({"runtime": {"replicas": 2}})
    assert plain.status is not None
    assert own.status is not None
    assert own.status["currentRevision"] == plain.status["currentRevision"]
    assert own.objects[0]["data"] == SPEC
    kinds = [o["kind"] for o in own.objects]
    assert kinds == [
        "ControllerRevision", "Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy",
    ]  # fmt: skip
    assert all(o["metadata"]["ownerReferences"][0]["uid"] == "u-t" for o in own.objects)
    assert own.status["selector"] == "agentteams.dev/team=t,app.kubernetes.io/name=agentteams-orchestrator"


def test_what_its_own_pods_needed_goes_when_the_team_gives_them_up() -> None:
    owned = [stored("Deployment", "at-t"), stored("Service", "at-t"), stored("ControllerRevision", "t-x")]
    assert {key.kind for key in decided(owned=owned).gone} == {"Deployment", "Service"}


def objects_of(pool: Pool, settings: PoolSettings = SETTINGS) -> dict[str, dict[str, Any]]:
    return {o["kind"]: o for o in pool_objects(pool, settings)}


def test_replicas_are_left_out_where_an_autoscaler_decides() -> None:
    scaled = Runtime.model_validate({"autoscaling": {"maxReplicas": 5}})
    made = objects_of(Pool(namespace="n", team="t", runtime=scaled))
    assert "replicas" not in made["Deployment"]["spec"]
    assert made["HorizontalPodAutoscaler"]["spec"]["maxReplicas"] == 5
    assert objects_of(Pool(namespace="n"))["Deployment"]["spec"]["replicas"] == 1
    shared = objects_of(Pool(namespace="n"), PoolSettings(image="i", max_replicas=4))
    assert "replicas" not in shared["Deployment"]["spec"]
    assert shared["HorizontalPodAutoscaler"]["spec"]["maxReplicas"] == 4


def test_keda_or_an_autoscaler_and_never_both() -> None:
    asked = {"runtime": {"autoscaling": {"maxReplicas": 5, "minReplicas": 2, "type": "KEDA"}}}
    settings = PoolSettings(image="i", prometheus_url="http://prometheus:9090")
    pool = Pool(namespace="n", team="t", runtime=Runtime.model_validate(asked["runtime"]), keda=True)
    made = objects_of(pool, settings)
    assert "replicas" not in made["Deployment"]["spec"]
    assert "HorizontalPodAutoscaler" not in made
    assert made["ScaledObject"]["spec"] == {
        "scaleTargetRef": {"name": "at-t"}, "minReplicaCount": 2, "maxReplicaCount": 5,
        "triggers": [{
            "type": "prometheus", "metricType": "AverageValue",
            "metadata": {
                "serverAddress": "http://prometheus:9090", "threshold": "20",
                "query": 'sum(agentteams_active_runs{namespace="n",pod=~"at-t-[a-z0-9]+-[a-z0-9]+"})',
            },
        }],
    }  # fmt: skip
    without = decided(asked)
    assert condition(without, "Autoscaled") == ("False", "KedaNotInstalled")
    assert condition(without, "Ready") == ("True", "Ready")
    kinds = [o["kind"] for o in without.objects]
    assert "HorizontalPodAutoscaler" in kinds
    assert "ScaledObject" not in kinds
    assert without.again_s == 60
    # The other kind goes first, and as long as it is there the new one is not made.
    old = [stored("HorizontalPodAutoscaler", "at-t")]
    first = decided(asked, keda=True, owned=old)
    assert not {"HorizontalPodAutoscaler", "ScaledObject"} & {o["kind"] for o in first.objects}
    assert [key.kind for key in first.gone] == ["HorizontalPodAutoscaler"]
    then = decided(asked, keda=True)
    assert "ScaledObject" in [o["kind"] for o in then.objects]
    assert condition(then, "Autoscaled") == ("True", "ScaledObject")


def test_what_scales_where_the_team_does_not_say_it() -> None:
    keda = PoolSettings(image="i", max_replicas=4, scaler="KEDA")
    assert objects_of(Pool(namespace="n", keda=True), keda)["ScaledObject"]["spec"]["maxReplicaCount"] == 4
    assert "HorizontalPodAutoscaler" in objects_of(Pool(namespace="n"), keda)
    own = Runtime.model_validate({"autoscaling": {"maxReplicas": 5, "type": "HPA"}})
    assert "HorizontalPodAutoscaler" in objects_of(
        Pool(namespace="n", team="t", runtime=own, keda=True), keda
    )


def test_what_a_runtime_asks_for_reaches_the_pods() -> None:
    runtime = Runtime.model_validate(
        {
            "replicas": 3,
            "serviceAccountName": "mine",
            "resources": {"requests": {"cpu": "2"}, "limits": {"memory": "1Gi"}},
            "nodeSelector": {"disk": "fast"},
            "tolerations": ({"key": "gpu", "operator": "Exists", "effect": "NoSchedule"},),
            "terminationGracePeriodSeconds": 120,
        }
    )
    deployment = objects_of(Pool(namespace="n", team="t", runtime=runtime))["Deployment"]["spec"]
    pod = deployment["template"]["spec"]
    assert (deployment["replicas"], pod["serviceAccountName"]) == (3, "mine")
    assert pod["containers"][0]["resources"] == {
        "requests": {"cpu": "2", "memory": "192Mi"}, "limits": {"memory": "1Gi"},
    }  # fmt: skip
    assert pod["nodeSelector"] == {"disk": "fast"}
    assert pod["tolerations"][0]["key"] == "gpu"
    environment = {e["name"]: e.get("value", "0") for e in pod["containers"][0]["env"]}
    assert pod["terminationGracePeriodSeconds"] == 120
    assert (
        int(environment["AGENTTEAMS_GRACE_S"] or 0) + int(environment["AGENTTEAMS_DRAIN_DELAY_S"] or 0) < 120
    )
    assert environment["AGENTTEAMS_POOL_TEAM"] == "t"
    assert environment["AGENTTEAMS_SESSION_TARGET"] == "session:1"
    assert next(iter(environment)) == "POD_IP"


def test_a_pod_has_no_value_of_a_secret_and_mounts_only_the_keys_that_are_named() -> None:
    pool = Pool(namespace="n", secrets=[("llm", "apiKey"), ("llm", "org")], secrets_hash="abc")
    template = objects_of(pool)["Deployment"]["spec"]["template"]
    assert template["metadata"]["annotations"] == {"agentteams.dev/secrets-hash": "abc"}
    assert not any("secretKeyRef" in e.get("valueFrom", {}) for e in template["spec"]["containers"][0]["env"])
    (source,) = template["spec"]["volumes"][1]["projected"]["sources"]
    assert [item["path"] for item in source["secret"]["items"]] == ["llm/apiKey", "llm/org"]


def test_only_the_tenants_own_key_and_least_rights_are_in_its_namespace() -> None:
    made = {o["kind"]: o for o in namespace_objects("n", b"agentteams-tenant-key n 00")}
    assert made["Role"]["rules"][0]["verbs"] == ["get", "list", "watch"]
    assert "secrets" not in str(made["Role"]["rules"])
    assert made["Secret"]["data"] == {"key": "YWdlbnR0ZWFtcy10ZW5hbnQta2V5IG4gMDA="}


@pytest.mark.parametrize(
    "wrong", [w for w in WRONG if w.kind == "AgentTeam" and w.late], ids=lambda w: w.field
)
def test_what_the_api_server_cannot_know_is_told_by_accepted(wrong: Wrong) -> None:
    """Expressions, and all of a workflow's third level, which is open in the schema (ADR 0010)."""
    outcome = decided(wrong.spec())
    assert condition(outcome, "Accepted") == ("False", "Invalid")
    assert condition(outcome, "Ready") == ("False", "Invalid")
    assert outcome.status is not None
    assert outcome.status["conditions"][0]["message"].startswith(f"spec.{wrong.field}: ")
