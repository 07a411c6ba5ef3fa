"""The CustomResourceDefinitions on a real API server: what is refused, what is filled in, how it reads."""

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from manifests import load_text
from tests.support.kube import Cluster, KubectlError
from tests.support.wrong_manifests import GOOD, WRONG, Wrong

ROOT = Path(__file__).parents[2]
EXPLAIN_S = 20.0  # its schemas are published a while after the kinds are served

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def refusals(cluster: Cluster) -> dict[int, str]:
    """What the API server says to each wrong manifest, all sent in one go."""
    objects = [manifest(wrong.kind, wrong.spec(), f"case-{i}") for i, wrong in enumerate(WRONG)]
    try:
        create(cluster, *objects)
    except KubectlError as error:
        lines = re.split(r"\n(?=Error from server|The )", str(error))
    else:
        lines = []
    # Unknown fields are told without the object's name.
    unknown = {found[1]: line for line in lines if (found := re.search(r'unknown field "([^"]+)"', line))}
    told = {i: unknown[f"spec.{w.field}"] for i, w in enumerate(WRONG) if f"spec.{w.field}" in unknown}
    return told | {int(found[1]): line for line in lines if (found := re.search(r"case-(\d+)", line))}


def manifest(kind: str, spec: Any, name: str = "x") -> dict[str, Any]:
    return {"apiVersion": "agentteams.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}


def create(cluster: Cluster, *objects: dict[str, Any]) -> str:
    text = "---\n".join(json.dumps(o) + "\n" for o in objects)
    return cluster.kubectl("create", "--dry-run=server", "--validate=strict", "-f", "-", stdin=text)


def case_name(wrong: Wrong) -> str:
    return f"{wrong.kind}-{wrong.field}"


@pytest.mark.parametrize(("number", "wrong"), list(enumerate(WRONG)), ids=[case_name(w) for w in WRONG])
def test_the_api_server_refuses_the_field_that_the_loader_refuses(
    number: int, wrong: Wrong, refusals: dict[int, str]
) -> None:
    """tests/unit/manifests/test_crds.py has the loader's half."""
    if wrong.late:
        assert number not in refusals
        return
    # It names a list where the loader names the item, since CEL cannot point into one.
    named = re.findall(r"\bspec(?:\.\w+|\[\d+\])+", refusals[number])
    assert named
    assert any(f"spec.{wrong.field}".startswith(field) for field in named)


def test_the_good_ones_are_good(cluster: Cluster) -> None:
    for kind, spec in GOOD.items():
        text = yaml.safe_dump(manifest(kind, dict(spec)))
        assert load_text(text, Path("x.yaml")).problems == []
        create(cluster, manifest(kind, dict(spec)))


def test_every_example_is_accepted(cluster: Cluster) -> None:
    seen = 0
    for file in sorted((ROOT / "examples").rglob("*.yaml")):
        objects = [
            o
            for o in yaml.safe_load_all(file.read_text())
            if isinstance(o, dict) and o.get("apiVersion", "").startswith("agentteams.dev/")
        ]
        if objects:
            create(cluster, *objects)
            seen += len(objects)
    assert seen > 10


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("embedding", {"modelConfigRef": {"name": "other"}}),
        ("chunking", {"maxTokens": 300}),
        ("tenancy", {"strategy": "Database"}),
    ],
)
def test_what_would_need_new_vectors_cannot_be_changed(
    cluster: Cluster, namespace: str, field: str, value: Any
) -> None:
    spec = dict(GOOD["KnowledgeBase"])
    cluster.apply(manifest("KnowledgeBase", spec), namespace=namespace)
    cluster.apply(manifest("KnowledgeBase", spec | {"retrieval": {"topK": 4}}), namespace=namespace)
    with pytest.raises(KubectlError, match=f"spec.{field}: Invalid value: cannot be changed: .*make another"):
        cluster.apply(manifest("KnowledgeBase", spec | {field: value}), namespace=namespace)


def test_metadata_fields_can_be_added_only(cluster: Cluster, namespace: str) -> None:
    fields = [{"name": "year", "type": "Int64"}, {"name": "lang", "type": "String"}]
    for wanted in ([], fields[:1], fields, fields[::-1]):
        spec = dict(GOOD["KnowledgeBase"]) | {"schema": {"metadataFields": wanted}}
        cluster.apply(manifest("KnowledgeBase", spec), namespace=namespace)
    for wrong in (fields[:1], [{"name": "year", "type": "Bool"}, fields[1]]):
        spec = dict(GOOD["KnowledgeBase"]) | {"schema": {"metadataFields": wrong}}
        with pytest.raises(KubectlError, match=r"spec\.schema: Invalid value: fields can be added, none can"):
            cluster.apply(manifest("KnowledgeBase", spec), namespace=namespace)
    with pytest.raises(KubectlError, match="fields can be added"):
        cluster.apply(manifest("KnowledgeBase", dict(GOOD["KnowledgeBase"])), namespace=namespace)


def test_a_name_that_would_not_be_a_label_is_refused(cluster: Cluster) -> None:
    for name in ("a.b", "a" * 64):
        with pytest.raises(KubectlError, match="the name must be lower-case letters"):
            create(cluster, manifest("AgentTeam", dict(GOOD["AgentTeam"]), name))


def test_a_full_manifest_in_another_order_is_followed(cluster: Cluster, namespace: str) -> None:
    """Members keep the order of the manifest, though they are a map for the API server."""
    spec = dict(GOOD["AgentTeam"])
    for names in (["b", "a", "c"], ["c", "a", "b"], ["a", "c"]):
        team = manifest("AgentTeam", spec | {"members": [{"name": n} for n in names]})
        cluster.apply(team, namespace=namespace)
        found = cluster.get("at", "x", f"--namespace={namespace}")
        assert [m["name"] for m in found["spec"]["members"]] == names


def test_defaults_are_filled_in_as_the_loader_has_them(cluster: Cluster, namespace: str) -> None:
    for kind, spec in GOOD.items():
        cluster.apply(manifest(kind, dict(spec)), namespace=namespace)
        found = cluster.get(kind, "x", f"--namespace={namespace}")
        read = load_text(yaml.safe_dump(manifest(kind, found["spec"])), Path("x.yaml"))
        written = load_text(yaml.safe_dump(manifest(kind, dict(spec))), Path("x.yaml"))
        assert read.problems == []
        assert read.objects[0].resource.spec == written.objects[0].resource.spec
        assert set(found["spec"]) > set(spec)


def test_status_and_scale_are_subresources(cluster: Cluster, namespace: str) -> None:
    team = manifest("AgentTeam", dict(GOOD["AgentTeam"]) | {"runtime": {"replicas": 1}})
    team["status"] = {"currentRevision": "of the user"}
    cluster.apply(team, namespace=namespace)
    assert "status" not in cluster.get("at", "x", f"--namespace={namespace}")
    cluster.kubectl("scale", "at/x", "--replicas=3", f"--namespace={namespace}")
    found = cluster.get("at", "x", f"--namespace={namespace}")
    assert found["spec"]["runtime"]["replicas"] == 3
    assert found["metadata"]["generation"] == 2


def test_how_it_reads(cluster: Cluster, namespace: str) -> None:
    cluster.apply(manifest("AgentTeam", dict(GOOD["AgentTeam"])), namespace=namespace)
    cluster.apply(manifest("ModelConfig", dict(GOOD["ModelConfig"])), namespace=namespace)
    condition = {
        "type": "Ready", "status": "True", "reason": "Ready", "message": "It serves.",
        "observedGeneration": 1, "lastTransitionTime": "2026-01-01T00:00:00Z",
    }  # fmt: skip
    figures = {"quality": {"verdict": "Good"}, "members": 2, "currentRevision": "0123456789ab"}
    status = {"status": figures | {"conditions": [condition]}}
    where = ["--namespace", namespace]
    cluster.kubectl("patch", "at/x", *where, "--subresource=status", "--type=merge", "-p", json.dumps(status))
    head, row = cluster.kubectl("get", "at", *where).splitlines()
    assert head.split() == ["NAME", "MODE", "MEMBERS", "REVISION", "QUALITY", "READY", "REASON", "AGE"]
    assert row.split()[:7] == ["x", "Coordinate", "2", "0123456789ab", "Good", "True", "Ready"]
    assert "modelconfig.agentteams.dev/x" in cluster.kubectl("get", "agentteams", *where, "-o", "name")
    assert cluster.kubectl("get", "mc", *where).splitlines()[1].split()[:4] == [
        "x", "Chat", "OpenAICompatible", "m",
    ]  # fmt: skip


def test_explain_says_what_the_documentation_says(cluster: Cluster) -> None:
    deadline = time.monotonic() + EXPLAIN_S
    text = ""
    while not text:
        try:
            text = cluster.kubectl("explain", "at.spec.members.knowledge")
        except KubectlError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
    assert "What it may search: names of spec.knowledge." in text
