"""NetworkPolicies of the chart and of pools: they allow the calls of docs/architecture.md and no others."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agentteams_operator.specs.pool import Pool, pool_objects
from agentteams_operator.specs.settings import PoolSettings
from tests.support.helm import render

ARCHITECTURE = Path(__file__).parents[2] / "docs" / "architecture.md"
SYSTEM, TENANT = "agentteams-system", "acme"
KEYS = {"gateway": {"apiKeysSecret": "keys"}}
# Pods that are not named as their service is.
_SERVICE_OF = {
    "ingest": "retrieval", "database": "SQL", "session-database": "SQL", "catalogue-database": "SQL",
    "milvus-lite": "Milvus", "milvus": "Milvus",
}  # fmt: skip
# Pods of others' operators: what their policies, which are not ours, would select.
_FOREIGN = {
    "session-database": ({"cnpg.io/cluster": "agentteams-session"}, 5432),
    "catalogue-database": ({"cnpg.io/cluster": "agentteams-catalogue"}, 5432),
    "milvus": (
        {"app.kubernetes.io/instance": "agentteams-milvus", "app.kubernetes.io/name": "milvus"},
        19530,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Someone:
    """A pod. `port`: where it is called; 0: nowhere."""

    name: str
    namespace: str
    labels: Mapping[str, str]
    port: int

    @property
    def service(self) -> str:
        return _SERVICE_OF.get(self.name, self.name)


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    assert set(selector) <= {"matchLabels"}, "matchExpressions: teach this test about them"
    return bool(selector.get("matchLabels", {}).items() <= labels.items())


def matches(peer: Mapping[str, Any], one: Someone, namespace: str) -> bool:
    if "ipBlock" in peer:
        return False  # networks outside
    if "namespaceSelector" in peer:
        if not selects(peer["namespaceSelector"], {"kubernetes.io/metadata.name": one.namespace}):
            return False
    elif one.namespace != namespace:
        return False
    return selects(peer.get("podSelector", {}), one.labels)


def allows(
    policies: Sequence[Mapping[str, Any]], mine: Someone, other: Someone, port: int, side: str
) -> bool:
    """Whether the policies of `mine` allow the other on that side; without any, everybody is."""
    direction, peers = ("ingress", "from") if side == "Ingress" else ("egress", "to")
    chosen = [
        policy
        for policy in policies
        if policy["metadata"]["namespace"] == mine.namespace
        and selects(policy["spec"]["podSelector"], mine.labels)
        and side in policy["spec"]["policyTypes"]
    ]
    return not chosen or any(
        ("ports" not in rule or port in [p["port"] for p in rule["ports"]])
        and (peers not in rule or any(matches(p, other, mine.namespace) for p in rule[peers]))
        for policy in chosen
        for rule in policy["spec"].get(direction, ())
    )


def pods(objects: list[dict[str, Any]]) -> Iterator[Someone]:
    served = {}
    for one in objects:
        if one["kind"] == "Service":
            selector = tuple(sorted(one["spec"]["selector"].items()))
            served[selector] = one["spec"]["ports"][0]["port"]
    for one in objects:
        if one["kind"] in ("Deployment", "StatefulSet", "Job"):
            labels = one["spec"]["template"]["metadata"]["labels"]
            port = next((p for s, p in served.items() if dict(s).items() <= labels.items()), 0)
            namespace = one["metadata"].get("namespace", SYSTEM)
            name = labels["app.kubernetes.io/name"].removeprefix("agentteams-")
            yield Someone(name=name, namespace=namespace, labels=labels, port=port)


def world(profile: str) -> tuple[list[Someone], list[dict[str, Any]]]:
    """All pods, and all policies."""
    chart = render(profile, values=KEYS)
    settings = PoolSettings(image="o", system_namespace=SYSTEM)
    pools = [
        dict(one)
        for pool in (Pool(namespace=TENANT), Pool(namespace=TENANT, team="t"))
        for one in pool_objects(pool, settings)
    ]
    everybody = {(one.name, one.namespace, str(one.labels)): one for one in pods([*chart, *pools])}
    found = list(everybody.values())
    if profile == "production":
        found += [
            Someone(name=name, namespace=SYSTEM, labels=labels, port=port)
            for name, (labels, port) in _FOREIGN.items()
        ]
    policies = [one for one in (*chart, *pools) if one["kind"] == "NetworkPolicy"]
    for one in policies:
        one["metadata"].setdefault("namespace", SYSTEM)
    return found, policies


def may_call(policies: list[dict[str, Any]], caller: Someone, callee: Someone, port: int) -> bool:
    return allows(policies, caller, callee, port, "Egress") and allows(
        policies, callee, caller, port, "Ingress"
    )


def table(services: set[str]) -> set[tuple[str, str]]:
    """Who calls whom of these, by docs/architecture.md; without what is outside of the cluster."""
    rows = re.findall(r"^\| `([a-z]+)` \| [^|]* \| [^|]* \| ([^|]*) \|$", ARCHITECTURE.read_text(), re.M)
    assert len(rows) >= 6, "the table of services is not found"
    known = services | {"other orchestrators"}
    return {
        (caller, "orchestrator" if callee == "other orchestrators" else callee)
        for caller, calls in rows
        # "orchestrator for golden sets" is a call of orchestrator.
        for callee in (one.strip().partition(" for ")[0] for one in re.split("[,;]", calls))
        if caller in services and callee in known
    }


@pytest.mark.parametrize("profile", ["small", "production"])
def test_the_calls_of_the_architecture_are_allowed_and_no_others(profile: str) -> None:
    everybody, policies = world(profile)
    assert {"ingest", "migrate", "gateway", "operator"} <= {one.name for one in everybody}
    allowed = {
        (caller.service, callee.service)
        for caller in everybody
        for callee in everybody
        if callee.port and may_call(policies, caller, callee, callee.port)
    }
    # Databases of others have no policy of ours that would say what they may call.
    allowed = {pair for pair in allowed if pair[0] not in ("SQL", "Milvus")}
    # The jobs prepare databases for session and retrieval.
    assert {pair for pair in allowed if pair[0] == "migrate"} == {("migrate", "SQL")}
    services = {one.service for one in everybody}
    assert {pair for pair in allowed if pair[0] != "migrate"} == table(services)


@pytest.mark.parametrize("profile", ["small", "production"])
def test_strangers_reach_the_gateway_only_and_monitoring_the_metrics_only(profile: str) -> None:
    everybody, policies = world(profile)
    ours = [one for one in everybody if one.name not in _FOREIGN]
    strangers = [
        Someone(name="stranger", namespace=namespace, labels={"app": "shop"}, port=0)
        for namespace in (SYSTEM, TENANT, "elsewhere", "monitoring")
    ]
    reached = {
        callee.name
        for caller in strangers
        for callee in ours
        if callee.port and may_call(policies, caller, callee, callee.port)
    }
    assert reached == {"gateway"}
    monitoring = strangers[-1]
    unseen = [one.name for one in ours if not may_call(policies, monitoring, one, 9090)]
    assert unseen == []


def test_a_tenants_orchestrators_are_called_by_those_of_its_namespace_only() -> None:
    everybody, policies = world("small")
    orchestrator = next(one for one in everybody if one.name == "orchestrator")
    foreign = Someone(name="orchestrator", namespace="other", labels=orchestrator.labels, port=50054)
    assert allows(policies, orchestrator, orchestrator, 50054, "Ingress")
    assert not allows(policies, orchestrator, foreign, 50054, "Ingress")
