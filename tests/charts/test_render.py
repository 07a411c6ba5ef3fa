"""What the charts render: valid for several versions of Kubernetes, restricted, least privilege."""

import base64
import copy
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentteams_operator.specs.pool import PART_OF, Pool
from tests.support.helm import CHART, CRDS, HelmError, helm, render

GOLDEN = Path(__file__).parent / "golden"
KEYS = {"gateway": {"apiKeysSecret": "agentteams-api-keys"}}
# Kinds of others' operators, which no schema of Kubernetes knows.
FOREIGN = {"Cluster", "Milvus", "ScaledObject", "PodMonitor", "PrometheusRule"}
API = {f"Deployment/agentteams-{name}" for name in ("operator", "embedding", "evaluation")}
VERSIONS = ["1.29", "1.33", "1.37"]
EXTERNAL = {
    "database": {"type": "External", "external": {"sessionSecret": "a", "catalogueSecret": "b"}},
    "milvus": {"type": "External", "uri": "https://milvus.example:19530", "tokenSecret": "milvus"},
}

Rendered = list[dict[str, Any]]


def name(one: Mapping[str, Any]) -> str:
    return f"{one['kind']}/{one['metadata']['name']}"


def named(objects: Rendered, wanted: str) -> dict[str, Any]:
    (found,) = [one for one in objects if name(one) == wanted]
    return found


def pods(objects: Rendered) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    for one in objects:
        if one["kind"] in ("Deployment", "StatefulSet", "Job"):
            template = one["spec"]["template"]
            yield name(one), template["spec"], template["metadata"]["labels"]


@pytest.mark.parametrize("profile", ["small", "production"])
def test_what_a_profile_renders_is_what_was_reviewed(profile: str) -> None:
    objects = copy.deepcopy(render(profile, values=KEYS))
    for one in objects:
        for part in ("data", "stringData"):
            if one["kind"] == "Secret" and part in one:
                one[part] = {key: "(made at install)" for key in one[part]}
    text = yaml.safe_dump_all(objects, sort_keys=False, width=110)
    golden = GOLDEN / f"{profile}.yaml"
    if os.environ.get("GOLDEN") == "write":
        golden.write_text(text)
    assert text == golden.read_text(), "if that is meant: GOLDEN=write pytest tests/charts, and read the diff"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("profile", ["small", "production"])
def test_every_object_is_valid(profile: str, version: str) -> None:
    for one in render(profile, values=KEYS, version=f"{version}.0"):
        if one["kind"] not in FOREIGN:
            kubernetes_validate.validate(one, version, strict=True)


def check(objects: Rendered) -> None:
    """What holds whatever the values are."""
    assert not [n for n, count in Counter(map(name, objects)).items() if count > 1]
    accounts = {one["metadata"]["name"] for one in objects if one["kind"] == "ServiceAccount"}
    workloads = {n.split("/")[1] for n, _, _ in pods(objects)}
    for which, pod, labels in pods(objects):
        assert pod["securityContext"]["runAsNonRoot"], which
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, which
        assert pod.get("serviceAccountName", "default") in accounts | {"default"}, which
        may_call = pod["automountServiceAccountToken"]
        assert may_call == (which in API)
        for container in pod["containers"]:
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"], which
            assert not security["allowPrivilegeEscalation"], which
            assert security["capabilities"] == {"drop": ["ALL"]}, which
            assert container["resources"]["limits"]["memory"], which
            volumes = {volume["name"] for volume in pod["volumes"]}
            volumes |= {"data"} if which.startswith("StatefulSet") else set()
            assert {mount["name"] for mount in container["volumeMounts"]} == volumes, which
            for variable in container.get("env", []):
                assert "valueFrom" not in variable, f"{which}: secrets are files"
        policies = [one for one in objects if one["kind"] == "NetworkPolicy"]
        selecting = [p for p in policies if p["spec"]["podSelector"]["matchLabels"].items() <= labels.items()]
        assert len(selecting) == 1 or not policies, which
    for one in objects:
        if one["kind"] in ("HorizontalPodAutoscaler", "ScaledObject"):
            target = one["spec"]["scaleTargetRef"]["name"]
            assert target in workloads
            assert "replicas" not in named(objects, f"Deployment/{target}")["spec"]
        if one["kind"] == "PodDisruptionBudget":
            assert one["metadata"]["name"] in workloads


SCALERS = st.sampled_from(["None", "HPA", "KEDA"])
COMPONENTS = ["gateway", "session", "retrieval", "ingest", "embedding", "evaluation"]
SCALED = st.builds(lambda kind, n: {"replicas": n, "autoscaling": {"type": kind}}, SCALERS, st.integers(0, 9))
S3 = {"url": "s3://b/p", "s3Secret": "s3", "s3Endpoint": "http://s3:9000"}
VALUES = st.fixed_dictionaries(
    {component: SCALED for component in COMPONENTS}
    | {
        "database": st.sampled_from([{"type": "BuiltIn"}, {"type": "CloudNativePG"}, EXTERNAL["database"]]),
        "milvus": st.sampled_from([{"type": "Lite"}, {"type": "Operator"}, EXTERNAL["milvus"]]),
        "originals": st.sampled_from([S3, {"accessMode": "ReadWriteMany"}]),
        "networkPolicies": st.builds(lambda on: {"enabled": on}, st.booleans()),
        "tolerations": st.sampled_from([[], [{"key": "agents", "operator": "Exists"}]]),
        "nodeSelector": st.sampled_from([{}, {"pool": "agents"}]),
        "otlpEndpoint": st.sampled_from(["", "collector:4317"]),
        "podAnnotations": st.sampled_from([{}, {"a": "b"}]),
    }
)


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(VALUES)
def test_whatever_the_values_the_rules_hold(values: dict[str, Any]) -> None:
    values["gateway"] |= KEYS["gateway"]
    objects = render(values=values)
    check(objects)
    for one in objects:
        if one["kind"] not in FOREIGN:
            kubernetes_validate.validate(one, "1.36", strict=True)


def test_the_calls_that_are_allowed_are_those_of_the_architecture() -> None:
    objects = render("production", values=KEYS)
    labels = {n.split("/")[1]: found for n, _, found in pods(objects)}
    labels["orchestrators"] = Pool(namespace="acme").selector  # the operator's pods

    def peers(rules: list[dict[str, Any]], side: str) -> set[str]:
        found = set()
        for rule in rules:
            for peer in rule.get(side, []):
                wanted = peer.get("podSelector", {}).get("matchLabels")
                if wanted:
                    found |= {n for n, has in labels.items() if wanted.items() <= has.items()}
        return found

    def of(component: str) -> tuple[set[str], set[str]]:
        spec = named(objects, f"NetworkPolicy/agentteams-{component}")["spec"]
        return peers(spec["ingress"], "from"), peers(spec["egress"], "to")

    assert of("gateway")[1] == {"orchestrators", "agentteams-session"}
    callers = {"orchestrators", "agentteams-evaluation", "agentteams-operator", "agentteams-gateway"}
    assert of("session") == (callers, set())
    assert of("retrieval") == ({"orchestrators", "agentteams-operator"}, {"agentteams-embedding"})
    assert of("ingest") == (set(), {"agentteams-embedding"})
    callers = {"orchestrators", "agentteams-retrieval", "agentteams-ingest", "agentteams-evaluation"}
    assert of("embedding")[0] == callers
    assert of("evaluation") == (set(), {"orchestrators", "agentteams-session", "agentteams-embedding"})
    assert of("operator") == (set(), {"agentteams-retrieval", "agentteams-session"})


def test_only_what_calls_models_reaches_the_outside_and_never_cloud_metadata() -> None:
    outside = {}
    for one in render("production", values=KEYS):
        if one["kind"] == "NetworkPolicy":
            blocks = [
                p["ipBlock"] for rule in one["spec"]["egress"] for p in rule.get("to", []) if "ipBlock" in p
            ]
            outside[one["metadata"]["name"]] = blocks
            never = {"0.0.0.0/0": ["169.254.0.0/16"], "::/0": ["fe80::/10", "fd00:ec2::254/128"]}
            assert all(block["except"] == never[block["cidr"]] for block in blocks)
    assert {n for n, blocks in outside.items() if blocks} == {
        "agentteams-embedding", "agentteams-operator", "agentteams-retrieval", "agentteams-ingest",
        "agentteams-evaluation",
    }  # fmt: skip


def test_secrets_are_made_by_the_chart_or_named_never_given() -> None:
    for profile, expected in (("small", 4), ("production", 1)):
        objects = render(profile, values=KEYS)
        secrets = [one for one in objects if one["kind"] == "Secret"]
        assert len(secrets) == expected
        key = base64.b64decode(named(objects, "Secret/agentteams-identity-key")["data"]["key"])
        assert len(key) >= 32
        values = [v for one in secrets for v in (one.get("stringData") or one["data"]).values()]
        passwords = [re.sub(r".*:(.*)@.*", r"\1", v) for v in values]
        rest = yaml.safe_dump_all([one for one in objects if one["kind"] != "Secret"])
        assert not [p for p in passwords if p in rest]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"sesion": {"replicas": 1}}, "sesion"),
        ({"session": {"replicas": "two"}}, "/session/replicas"),
        ({"session": {"replicas": -1}}, "/session/replicas"),
        ({"milvus": {"type": "Cloud"}}, "'Lite', 'Operator', 'External'"),
        ({"milvus": {"type": "External"}}, "milvus.uri"),
        ({"database": {"type": "External"}}, "database.external."),
        (
            {"session": {"autoscaling": {"type": "HPA", "minReplicas": 5, "maxReplicas": 2}}},
            "minReplicas (5)",
        ),
        ({"embedding": {"builtin": {"url": "http://m"}}}, "embedding.builtin.model"),
        ({"embedding": {"builtin": {"url": "http://m", "model": "m", "modelClaim": "c"}}}, "both set"),
        ({"session": {"env": {"AGENTTEAMS_IDENTITY_KEY_FILE": "/tmp/k"}}}, "identity.existingSecret"),
        ({"operator": {"env": {"AGENTTEAMS_IDENTITY_KEY_FILE": "/tmp/k"}}}, "identity.existingSecret"),
        ({"ingest": {"env": {"AGENTTEAMS_PORT": "1"}}}, "ingest.env: AGENTTEAMS_PORT is set by the chart"),
        ({"session": {"env": {"AGENTTEAMS_SESSION_DATABASE_URL": "postgresql://u:p@h/d"}}}, "session.env"),
        ({"session": {"env": {"KEY": {"valueFrom": "x"}}}}, "session.env.KEY: is a map"),
        ({"originals": {"url": "gs://bucket"}}, "originals.url"),
        ({"milvus": {"type": "External", "uri": "milvus:19530"}}, "milvus.uri"),
        ({"milvus": {"uri": "http://milvus:19530"}}, "milvus.uri is only for milvus.type External"),
        ({"orchestrator": {"builtin": {"url": "http://m/v1"}}}, "orchestrator.builtin.model"),
        ({"database": {"type": "CloudNativePG", "instances": 0}}, "/database/instances"),
        ({"operator": {"quotas": {"tems": 1}}}, 'operator.quotas: there is none for "tems"; there are teams'),
        ({"operator": {"quotas": {"teams": "many"}}}, "operator.quotas.teams: many is no number"),
        ({"operator": {"quotas": {"teams": -1}}}, "operator.quotas.teams: -1 is no whole number"),
        ({"operator": {"quotas": {"teams": 1.5}}}, "operator.quotas.teams: 1.5 is no whole number"),
        ({"operator": {"quotas": {"concurrent-runs": 99999999999}}}, "operator.quotas.concurrent-runs"),
        (
            {"session": {"autoscaling": {"type": "KEDA"}}, "metrics": {"prometheusUrl": ""}},
            "metrics.prometheusUrl: session.autoscaling.type KEDA",
        ),
    ],
)
def test_values_that_would_not_work_are_refused_by_name(values: dict[str, Any], words: str) -> None:
    with pytest.raises(HelmError) as caught:
        render(values=values)
    assert words in str(caught.value)


def test_numbers_of_an_environment_are_written_as_they_are() -> None:
    given = {"A": 2_000_000, "B": 0.25, "C": True, "D": "x=1"}
    objects = render(values={"session": {"env": given}})
    (container,) = named(objects, "Deployment/agentteams-session")["spec"]["template"]["spec"]["containers"]
    env = {one["name"]: one["value"] for one in container["env"]}
    assert {name: env[name] for name in given} == {"A": "2000000", "B": "0.25", "C": "true", "D": "x=1"}


def test_the_crds_are_rendered_to_the_letter() -> None:
    objects = render(chart=CRDS)
    files = [yaml.safe_load(file.read_text()) for file in sorted((CRDS / "files").glob("*.yaml"))]
    assert sorted(map(name, objects)) == sorted(map(name, files))
    assert {name(one): one for one in objects} == {name(one): one for one in files}


def test_the_metrics_of_every_pod_are_read() -> None:
    monitor = named(render("production", values=KEYS), "PodMonitor/agentteams")["spec"]
    assert monitor["selector"] == {"matchLabels": PART_OF}
    assert monitor["namespaceSelector"] == {"any": True}
    for which, pod, labels in pods(render("production", values=KEYS)):
        if which.startswith("Deployment"):
            assert labels.items() >= PART_OF.items(), which
            assert "metrics" in [port["name"] for port in pod["containers"][0]["ports"]], which


def test_autoscalers_ask_for_metrics_that_services_have() -> None:
    documented = (Path(__file__).parents[2] / "docs" / "telemetry.md").read_text()
    asked = set()
    for one in render("production", values=KEYS):
        if one["kind"] == "ScaledObject":
            query = one["spec"]["triggers"][0]["metadata"]["query"]
            asked |= {n.removesuffix("_bucket") for n in re.findall(r"agentteams_[a-z_]+", query)}
    assert len(asked) == 6
    assert {metric for metric in asked if f"`{metric}`" not in documented} == set()


@pytest.mark.parametrize("chart", [CHART, CRDS])
def test_helm_has_nothing_to_say(chart: Path) -> None:
    said = helm("lint", "--strict", str(chart))
    assert "[ERROR]" not in said
    assert "[WARNING]" not in said
