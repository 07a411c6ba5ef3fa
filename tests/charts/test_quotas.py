"""Quotas of the chart reach those who hold to them."""

import json
from typing import Any, get_args

import pytest

from agentteams_operator.core.quotas import Limited
from tests.support.helm import render

KEYS = {"gateway": {"apiKeysSecret": "keys"}}
_SESSION = "AGENTTEAMS_SESSION_MAX_CONCURRENT_RUNS"


def variables(workload: str, quotas: dict[str, Any]) -> dict[str, str]:
    objects = render(values=KEYS | {"operator": {"quotas": quotas}})
    (one,) = [o for o in objects if o["kind"] == "Deployment" and o["metadata"]["name"] == workload]
    (container,) = one["spec"]["template"]["spec"]["containers"]
    return {e["name"]: e.get("value", "") for e in container["env"]}


@pytest.mark.parametrize("most", [0, 20, 2_000_000])
def test_the_session_service_goes_by_the_default_until_the_operator_has_told_it(most: int) -> None:
    quotas = {"teams": 3, "concurrent-runs": most}
    assert variables("agentteams-session", quotas)[_SESSION] == str(most)
    assert json.loads(variables("agentteams-operator", quotas)["AGENTTEAMS_QUOTAS"]) == quotas


def test_without_a_default_there_is_no_limit() -> None:
    assert _SESSION not in variables("agentteams-session", {"teams": 3})


def test_all_that_the_operator_limits_can_be_set() -> None:
    quotas: dict[str, Any] = dict.fromkeys(get_args(Limited), 2_147_483_647)
    assert json.loads(variables("agentteams-operator", quotas)["AGENTTEAMS_QUOTAS"]) == quotas
