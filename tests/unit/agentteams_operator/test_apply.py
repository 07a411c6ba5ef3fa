"""What the operator made is written again when somebody else has changed it, and only then."""

from collections.abc import Mapping
from typing import Any

import pytest

from agentteams_operator.core.apply import Applier
from agentteams_operator.core.cache import Cache
from agentteams_operator.core.objects import Key, Stored
from agentteams_operator.core.outcome import Outcome
from tests.support.no_api import NoApi

LABELS = {"app.kubernetes.io/managed-by": "agentteams-operator", "agentteams.dev/team": "t"}
TEAM = Stored(key=Key("AgentTeam", "n", "t"), uid="t", version="1")
SCALER = {
    "kind": "HorizontalPodAutoscaler",
    "metadata": {"name": "at-t", "namespace": "n", "labels": LABELS},
    "spec": {"maxReplicas": 3},
}
DEPLOYMENT = {
    "kind": "Deployment",
    "metadata": {"name": "at-t", "namespace": "n", "labels": LABELS},
    "spec": {"replicas": 1},
}


class Api(NoApi):
    """Takes what is applied, and counts it."""

    def __init__(self) -> None:
        self.applied = 0

    async def apply(self, wanted: Mapping[str, Any]) -> Mapping[str, Any]:
        self.applied += 1
        return as_it_is(wanted, self.applied)


def as_it_is(wanted: Mapping[str, Any], version: int, **changed: Any) -> dict[str, Any]:
    """As the API server has it; only a Deployment has a generation."""
    generation = {"generation": 1} if wanted["kind"] == "Deployment" else {}
    given = {"uid": "u", "resourceVersion": str(version)} | generation
    metadata = wanted["metadata"] | given | changed.pop("metadata", {})
    return {**wanted, **changed, "metadata": metadata}


@pytest.mark.parametrize(
    ("wanted", "change", "again"),
    [
        (SCALER, {"status": {"currentMetrics": [{"type": "Pods"}]}}, False),
        (SCALER, {"spec": {"maxReplicas": 9}}, True),
        (SCALER, {"metadata": {"labels": LABELS | {"agentteams.dev/team": "u"}}}, True),
        (DEPLOYMENT, {"status": {"replicas": 1}}, False),
        (DEPLOYMENT, {"metadata": {"generation": 2}}, True),
        (DEPLOYMENT, {"metadata": {"labels": LABELS | {"agentteams.dev/team": "u"}}}, True),
    ],
    ids=["its status", "its spec", "its owner", "a status", "a spec", "an owner"],
)
async def test_what_others_write_is_answered_only_where_it_is_ours(
    wanted: Mapping[str, Any], change: Mapping[str, Any], again: bool
) -> None:
    """An autoscaler writes its status every few seconds for ever: no answer to that may be a write."""
    api, cache = Api(), Cache(lambda _: None)
    applier = Applier(api=api, cache=cache)
    for _ in range(2):
        await applier.apply(TEAM, Outcome(objects=(wanted,)))
    assert api.applied == 1
    cache.put(as_it_is(wanted, 7, **change))
    await applier.apply(TEAM, Outcome(objects=(wanted,)))
    assert api.applied == (2 if again else 1)
