"""The chart's NetworkPolicy settings reach the orchestrators that the operator makes."""

import json
from collections.abc import Mapping
from typing import Any

import kubernetes_validate
import pytest

from agentteams_operator.specs.pool import Pool, pool_objects
from agentteams_operator.specs.settings import PoolNetwork, PoolSettings
from tests.support.helm import render

KEYS = {"gateway": {"apiKeysSecret": "keys"}}
MONITORING = [{"namespaceSelector": {"matchLabels": {"team": "sre"}}}]
NODE_DNS = [{"ipBlock": {"cidr": "169.254.20.10/32"}}]
INSIDE = [{"cidr": "10.0.0.0/8"}]


def chart(policies: Mapping[str, Any]) -> list[dict[str, Any]]:
    return list(render(values=KEYS | {"networkPolicies": dict(policies)}))


def pool_policies(policies: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of both kinds of pools, of an operator that has what the chart gives it."""
    (operator,) = [
        one for one in chart(policies)
        if (one["kind"], one["metadata"]["name"]) == ("Deployment", "agentteams-operator")
    ]  # fmt: skip
    (container,) = operator["spec"]["template"]["spec"]["containers"]
    given = {e["name"]: e.get("value", "") for e in container["env"]}["AGENTTEAMS_POOL_NETWORK"]
    settings = PoolSettings(image="o", network=PoolNetwork.model_validate(json.loads(given)))
    pools = (Pool(namespace="n"), Pool(namespace="n", team="t"))
    found = [dict(one) for pool in pools for one in pool_objects(pool, settings)]
    return [one for one in found if one["kind"] == "NetworkPolicy"]


def rules(policy: Mapping[str, Any], port: int) -> list[Any]:
    """Peers of the rules that name that port; 0: of those that name none."""
    spec = policy["spec"]
    return [
        peer
        for rule in (*(spec["ingress"] or ()), *(spec["egress"] or ()))
        if port in {p["port"] for p in rule.get("ports", [{"port": 0}])}
        for peer in rule.get("from", rule.get("to"))
    ]


def test_pools_allow_what_the_chart_allows() -> None:
    given = {"metricsFrom": MONITORING, "dns": NODE_DNS, "modelEndpoints": INSIDE}
    pools = pool_policies(given)
    assert len(pools) == 2
    embedding = [o for o in chart(given) if o["metadata"]["name"] == "agentteams-embedding"]
    (workload,) = [o for o in embedding if o["kind"] == "NetworkPolicy"]
    for one in (*pools, workload):
        kubernetes_validate.validate(one, "1.36", strict=True)
        assert rules(one, 9090) == MONITORING
        assert rules(one, 53) == NODE_DNS
        assert [{"ipBlock": block} for block in INSIDE] == [p for p in rules(one, 0) if "ipBlock" in p]


def test_without_policies_pools_have_none() -> None:
    assert pool_policies({"enabled": False}) == []


def test_nobody_is_nobody() -> None:
    """A rule without peers lets everybody through: an empty list makes no rule."""
    nobody: dict[str, Any] = {"metricsFrom": [], "dns": [], "modelEndpoints": []}
    for one in (*pool_policies(nobody), *(o for o in chart(nobody) if o["kind"] == "NetworkPolicy")):
        assert rules(one, 9090) == []
        assert rules(one, 53) == []
        assert [p for p in rules(one, 0) if "ipBlock" in p] == []
        for rule in one["spec"]["egress"] or ():
            assert rule.get("to") or {p["port"] for p in rule["ports"]} == {443, 6443}, "the API server alone"


def test_cloud_metadata_is_not_among_the_networks_by_default() -> None:
    for one in pool_policies({}):
        blocks = [p["ipBlock"] for p in rules(one, 0) if "ipBlock" in p]
        assert [block["except"] for block in blocks] == [
            ["169.254.0.0/16"],
            ["fe80::/10", "fd00:ec2::254/128"],
        ]


def test_a_setting_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="modelEndpoint"):
        PoolNetwork.model_validate({"modelEndpoint": INSIDE})
