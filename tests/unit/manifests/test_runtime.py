"""spec.runtime and spec.suspend: their fields, and what is refused."""

from pathlib import Path

import pytest

from manifests import AgentTeam, load_text, pool_name

TEAM = """\
apiVersion: agentteams.dev/v1alpha1
kind: AgentTeam
metadata: {name: helpdesk}
spec:
  modelConfigRef: {name: chat}
  members: [{name: agent}]
  runtime: RUNTIME
"""


def load(runtime: str) -> AgentTeam:
    content = load_text(TEAM.replace("RUNTIME", runtime), Path("t.yaml"))
    assert content.problems == []
    team = content.objects[0].resource
    assert isinstance(team, AgentTeam)
    return team


def test_all_fields() -> None:
    runtime = load(
        """
    autoscaling: {minReplicas: 2, maxReplicas: 9, targetActiveRuns: 30}
    serviceAccountName: helpdesk
    resources: {requests: {cpu: 250m, memory: 512Mi}, limits: {memory: 1Gi}}
    nodeSelector: {topology.kubernetes.io/zone: a}
    tolerations:
    - {key: agents, operator: Exists, effect: NoExecute, tolerationSeconds: 60}
    terminationGracePeriodSeconds: 120"""
    ).spec.runtime
    assert runtime is not None
    assert runtime.autoscaling is not None
    assert (runtime.replicas, runtime.autoscaling.max_replicas) == (None, 9)
    assert runtime.resources.limits == {"memory": "1Gi"}
    assert runtime.tolerations[0].toleration_seconds == 60


def test_pods_do_not_make_another_revision() -> None:
    plain, own = load("null"), load("{replicas: 3}")
    assert own.revision == plain.revision
    assert plain.spec.runtime is None


def test_a_pool_has_a_name_that_fits_and_is_its_own() -> None:
    assert pool_name("support") == "at-support"
    long, other = pool_name("a" * 62 + "b"), pool_name("a" * 62 + "c")
    assert len(long) == 60
    assert long != other


@pytest.mark.parametrize(
    ("runtime", "field", "words"),
    [
        ("{replicas: -1}", "replicas", "0"),
        ("{replicas: 2, autoscaling: {maxReplicas: 3}}", "replicas", "remove replicas"),
        ("{autoscaling: {minReplicas: 4, maxReplicas: 3}}", "autoscaling.minReplicas", "lower"),
        ("{resources: {requests: {cpu: lots}}}", "resources.requests.cpu", "500m"),
        ("{nodeSelector: {zone: 'a b'}}", "nodeSelector.zone", "label's value"),
        ("{tolerations: [{operator: Exists, value: x}]}", "tolerations[0].value", "remove"),
        ("{tolerations: [{value: x}]}", "tolerations[0].key", "Exists"),
        ("{tolerations: [{key: x, tolerationSeconds: 3}]}", "tolerations[0].tolerationSeconds", "NoExecute"),
        ("{terminationGracePeriodSeconds: 1}", "terminationGracePeriodSeconds", "10"),
    ],
)
def test_what_is_refused_says_where_and_how_to_mend_it(runtime: str, field: str, words: str) -> None:
    (problem,) = load_text(TEAM.replace("RUNTIME", runtime), Path("t.yaml")).problems
    assert problem.field == f"spec.runtime.{field}"
    assert words in f"{problem.message} {problem.fix}"
