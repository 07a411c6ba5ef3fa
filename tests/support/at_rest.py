"""Objects of all kinds in all states that last, for tests of an operator that has nothing to do."""

import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

from agentteams.retrieval.v1 import index_pb2, quality_pb2
from agentteams.session.v1 import scores_pb2

from manifests import AgentTeam
from tests.support.kube import Cluster
from tests.support.kube_state import Api, conditions, eventually
from tests.support.operator_process import WAIT_S, FakeEndpoint, model
from tests.support.retrieval_stub import RetrievalStub
from tests.support.session_stub import SessionStub

GROUP = "agentteams.dev/v1alpha1"
_ABOVE = quality_pb2.Quality.REASON_ABOVE_THRESHOLDS
_KEY = {"secretKeyRef": {"name": "llm", "key": "apiKey"}}
_NOWHERE = FakeEndpoint()
_NOWHERE.url = "http://127.0.0.1:9/v1"
_SECRET: dict[str, Any] = {"credentialsSecretKeyRef": _KEY["secretKeyRef"]}
_QUERIES = "queries: [{query: Is it warm, relevant: [a.md]}]"
_QUESTIONS = "questions: [{question: Is it warm, facts: [it is]}]"
_SET = {"goldenSetRef": {"configMapKeyRef": {"name": "texts", "key": "questions.yaml"}}}
_QUERY_SET = {"goldenSetRef": {"configMapKeyRef": {"name": "texts", "key": "queries.yaml"}}}


def team(name: str, **spec: Any) -> dict[str, Any]:
    """Of one member."""
    given = {"modelConfigRef": {"name": "chat"}, "members": [{"name": "a"}]}
    return {"apiVersion": GROUP, "kind": "AgentTeam", "metadata": {"name": name}, "spec": given | spec}


def settle(
    cluster: Cluster, owner: str, user: str, *, endpoint: FakeEndpoint, retrieval: RetrievalStub,
    session: SessionStub,
) -> None:  # fmt: skip
    """Applies it all, in one namespace and in one that uses it, and waits until each is as it stays."""
    retrieval.said.index_status.type = index_pb2.INDEX_TYPE_HNSW
    retrieval.said.documents.ready = 3
    retrieval.said.capacity.memory_bytes = 5 << 20
    retrieval.said.capacity.milvus_memory_bytes = 8 << 30
    quality = retrieval.said.quality
    quality.state, quality.reason = quality_pb2.Quality.STATE_GOOD, _ABOVE
    quality.scores.finish_time.GetCurrentTime()
    manifests = _theirs(endpoint)
    scored = next(one for one in manifests if one["metadata"]["name"] == "scored")
    session.scores = [
        scores_pb2.RevisionQuality(
            team_revision=AgentTeam.model_validate_json(json.dumps(scored)).revision,
            sampled_runs=12,
            faithfulness=0.25,
        )
    ]
    session.scores[0].newest_time.GetCurrentTime()
    with closing(Api(cluster)) as api:
        cluster.apply(*manifests, namespace=owner)
        _await(api, owner, {"agentteams/late": ("Ready", "Ready")})
        cluster.apply(team("late", modelConfigRef={"name": "later"}), namespace=owner)
        cluster.apply(*_ours(owner), namespace=user)
        _await(api, owner, _OWNER)
        _await(api, user, _USER)


def _await(api: Api, namespace: str, wanted: Mapping[str, tuple[str, str]]) -> None:
    seen: dict[str, Mapping[str, str]] = {}

    def so() -> bool:
        for plural in {name.partition("/")[0] for name in wanted}:
            for item in api.items(f"{GROUP}/{plural}", namespace):
                seen[f"{plural}/{item['metadata']['name']}"] = conditions(item)
        return all(seen.get(name, {}).get(kind) == reason for name, (kind, reason) in wanted.items())

    try:
        eventually(so, "all as it stays", WAIT_S)
    except AssertionError as error:
        raise AssertionError(f"{error}: {seen}") from error


_OWNER: Mapping[str, tuple[str, str]] = {
    "modelconfigs/chat": ("Ready", "Ready"),
    "modelconfigs/embed": ("Ready", "Ready"),
    "modelconfigs/down": ("Ready", "NoAnswer"),
    "knowledgebases/docs": ("QualityDegraded", "AboveThresholds"),
    "agentteams/shared": ("Ready", "Ready"),
    "agentteams/scored": ("QualityDegraded", "BelowThresholds"),
    "agentteams/scaled": ("Autoscaled", "HorizontalPodAutoscaler"),
    "agentteams/late": ("Ready", "LastGoodServes"),
    "agentteams/broken": ("Ready", "ModelConfigNotFound"),
}
_USER: Mapping[str, tuple[str, str]] = {
    "agentteams/caller": ("Ready", "Ready"),
    "agentteams/own": ("Ready", "Ready"),
}


def _theirs(endpoint: FakeEndpoint) -> Sequence[Mapping[str, Any]]:
    evaluation = {
        "judgeModelConfigRef": {"name": "chat"}, **_SET,
        "thresholds": {"faithfulness": "0.5", "factsPresent": "0.5"},
    }  # fmt: skip
    headers = [{"name": "Authorization", "valueFrom": _KEY}]
    tool = {"url": "http://127.0.0.1:9/mcp", "allowedTools": ["buy"], "headersFrom": headers}
    text = {"configMapKeyRef": {"name": "texts", "key": "brief"}}
    texts = {"brief": "Be brief.", "queries.yaml": _QUERIES, "questions.yaml": _QUESTIONS}
    knowledge = {
        "embedding": {"modelConfigRef": {"name": "embed"}}, "deletionPolicy": "Delete",
        "evaluation": {**_QUERY_SET, "thresholds": {"mrr": "0.5"}},
    }  # fmt: skip
    return (
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "llm"}, "stringData": {"apiKey": "sk"}},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "texts"}, "data": texts},
        model(endpoint, "chat", **_SECRET, allowedNamespaces={"from": "All"}),
        model(endpoint, "embed", type="Embedding", **_SECRET),
        model(_NOWHERE, "down"),
        {"apiVersion": GROUP, "kind": "KnowledgeBase", "metadata": {"name": "docs"}, "spec": knowledge},
        team(
            "shared", instructionsFrom=text, allowedNamespaces={"from": "All"},
            knowledge=[{"name": "docs", "knowledgeBaseRef": {"name": "docs"}}],
            tools=[{"name": "shop", "mcp": tool}],
        ),
        team("scored", runtime={"replicas": 1}, evaluation=evaluation),
        team("scaled", runtime={"autoscaling": {"maxReplicas": 3}}),
        team("late"),
        team("broken", modelConfigRef={"name": "missing"}),
    )  # fmt: skip


def _ours(owner: str) -> Sequence[Mapping[str, Any]]:
    theirs = {"name": "chat", "namespace": owner}
    nested = {"name": "theirs", "teamRef": {"name": "shared", "namespace": owner}}
    return (
        team("caller", modelConfigRef=theirs, members=[{"name": "a"}, nested]),
        team("own", modelConfigRef=theirs, runtime={"replicas": 2}),
    )
