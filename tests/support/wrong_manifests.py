"""Manifests that are wrong, for all who must refuse them: the loader, the API server, the operator."""

import copy
import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from tests.support.wrong_fields import FIELDS

GOOD: Final[Mapping[str, Mapping[str, Any]]] = {
    "ModelConfig": {
        "type": "Chat",
        "provider": "OpenAICompatible",
        "model": "m",
        "endpoint": {"url": "https://models.example.com/v1"},
    },
    "KnowledgeBase": {"embedding": {"modelConfigRef": {"name": "embed"}}},
    "AgentTeam": {
        "modelConfigRef": {"name": "chat"},
        "members": [{"name": "a"}, {"name": "b"}],
        "knowledge": [{"name": "docs", "knowledgeBaseRef": {"name": "docs"}}],
        "tools": [{"name": "shop", "mcp": {"url": "http://shop/mcp", "allowedTools": ["buy", "look"]}}],
    },
}
REMOVED: Final = object()


@dataclass(frozen=True, slots=True)
class Wrong:
    """A change that makes a good manifest wrong.

    Attributes:
        kind: Of the object.
        changes: Values by path, such as `members[0].name`; REMOVED takes a field away.
        field: Which field the loader names, from spec on; where it is the only thing that is wrong.
        late: The API server cannot know: the operator says so in the condition Accepted.
    """

    kind: str
    changes: Mapping[str, Any]
    field: str
    late: bool = False

    def spec(self) -> dict[str, Any]:
        """The wrong spec."""
        spec = copy.deepcopy(dict(GOOD[self.kind]))
        for path, value in self.changes.items():
            _put(spec, path, value)
        return spec


def _put(spec: dict[str, Any], path: str, value: Any) -> None:
    parts: list[str | int] = [int(i) if i else n for n, i in re.findall(r"([^.\[\]]+)|\[(\d+)\]", path)]
    here: Any = spec
    for part, following in itertools.pairwise(parts):
        if isinstance(part, str) and part not in here:
            here[part] = [] if isinstance(following, int) else {}
        if isinstance(part, int) and part == len(here):
            here.append([] if isinstance(following, int) else {})
        here = here[part]
    last = parts[-1]
    if value is REMOVED:
        del here[last]
    elif isinstance(last, int) and last == len(here):
        here.append(value)
    else:
        here[last] = value


_KEY = {"name": "s", "key": "k"}
_HEADER = {"name": "X-Key", "valueFrom": {"secretKeyRef": _KEY}}
_AUTHORIZATION = {"name": "authorization", "valueFrom": {"secretKeyRef": _KEY}}
_PRICING = {"currency": "USD", "inputPerMillionTokens": "1", "outputPerMillionTokens": "1"}
_EMBEDDING = {"type": "Embedding"}
_BUILT_IN = {"type": "Chat", "provider": "BuiltIn", "model": REMOVED, "endpoint": REMOVED}
_GOOD_SCORES = {"evaluation.thresholds.mrr": "0.7"}
_OPEN_AI = {"provider": "OpenAI", "endpoint": REMOVED}


def _model(field: str, changes: Mapping[str, Any]) -> Wrong:
    return Wrong("ModelConfig", changes, field)


def _team(field: str, changes: Mapping[str, Any], *, late: bool = False) -> Wrong:
    return Wrong("AgentTeam", changes, field, late)


def _flow(field: str, *steps: Mapping[str, Any], late: bool = False, **more: Any) -> Wrong:
    flow = {"steps": list(steps), **more}
    return _team(f"workflow.{field}", {"mode": "Workflow", "workflow": flow}, late=late)


_ABROAD = {"name": "m", "namespace": "A"}
_INJECTION = {"type": "PromptInjection", "action": "Warn"}
_FROM = {"configMapKeyRef": {"name": "c", "key": "k"}}
_STEP = {"name": "s", "member": "a"}


def _third(field: str, **step: Any) -> Wrong:
    """A step of the third level, which the API server does not look at."""
    inner = {"name": "x", "loop": {"steps": [{"name": "y"} | step], "until": "true"}}
    at = f"steps[0].parallel.steps[0].loop.steps[0].{field}".removesuffix(".")
    return _flow(at, {"name": "s", "parallel": {"steps": [inner]}}, late=True)


MODELS = [
    _model("type", {"type": "chat"}),
    _model("type", {"type": REMOVED}),
    _model("nonsense", {"nonsense": 1}),
    _model("model", {"model": REMOVED}),
    _model("model", {"model": ""}),
    _model("model", {**_BUILT_IN, "model": "m"}),
    _model("endpoint", {**_BUILT_IN, "endpoint": {"url": "http://x/v1"}}),
    _model("credentialsSecretKeyRef", {**_BUILT_IN, "credentialsSecretKeyRef": _KEY}),
    _model("headersFrom", {**_BUILT_IN, "headersFrom": [_HEADER]}),
    _model("tls", {**_BUILT_IN, "tls": {"caSecretKeyRef": _KEY}}),
    _model("endpoint", {"endpoint": REMOVED}),
    _model("endpoint", {"provider": "OpenAI", "credentialsSecretKeyRef": _KEY}),
    _model("credentialsSecretKeyRef", _OPEN_AI),
    _model("provider", {**_OPEN_AI, "type": "Rerank", "credentialsSecretKeyRef": _KEY}),
    *[
        _model("endpoint.url", {"endpoint.url": url})
        for url in (
            "ftp://x/v1",
            "https://u:p@x/v1",
            "https://x/v1?k=1",
            "https://x/v1#a",
            "models",
            "https://",
        )
    ],
    _model("parameters", {**_EMBEDDING, "parameters.seed": 1}),
    _model("contextTokens", {**_EMBEDDING, "contextTokens": 4096}),
    _model("contextTokens", {"contextTokens": 255}),
    _model("fallbackRefs", {**_EMBEDDING, "fallbackRefs": [{"name": "other"}]}),
    _model("pricing", {**_EMBEDDING, "pricing": _PRICING}),
    _model("limits.requestsPerMinute", {**_EMBEDDING, "limits.requestsPerMinute": 5}),
    _model("limits.tokensPerMinute", {**_EMBEDDING, "limits.tokensPerMinute": 5000}),
    _model("limits.idleTimeoutSeconds", {**_EMBEDDING, "limits.idleTimeoutSeconds": 5}),
    _model("limits.maxRetries", {"limits.maxRetries": 11}),
    _model("limits.timeoutSeconds", {"limits.timeoutSeconds": "30"}),
    _model("limits.timeoutSeconds", {"limits.timeoutSeconds": 0}),
    _model("limits.maxConcurrent", {"limits.maxConcurrent": 1.5}),
    _model("embedding", {"embedding.dimensions": 8}),
    _model("embedding.dimensions", {**_EMBEDDING, "embedding.dimensions": 0}),
    _model("parameters.temperature", {"parameters.temperature": "2.1"}),
    _model("parameters.temperature", {"parameters.temperature": 1}),
    _model("parameters.temperature", {"parameters.temperature": "hot"}),
    _model("parameters.topP", {"parameters.topP": "-0.1"}),
    _model("pricing.currency", {"pricing": {**_PRICING, "currency": "usd"}}),
    _model("pricing.inputPerMillionTokens", {"pricing": {**_PRICING, "inputPerMillionTokens": "-1"}}),
    _model("headersFrom[1].name", {"headersFrom": [_HEADER, {**_HEADER, "name": "x-key"}]}),
    _model("headersFrom[0].name", {"headersFrom": [{**_HEADER, "name": "Host"}]}),
    _model("headersFrom[0].name", {"headersFrom": [{**_HEADER, "name": "a b"}]}),
    _model("headersFrom[0].name", {"headersFrom": [_AUTHORIZATION], "credentialsSecretKeyRef": _KEY}),
    _model("tls.caSecretKeyRef.key", {"tls": {"caSecretKeyRef": {"name": "s", "key": "../k"}}}),
    _model("fallbackRefs[0].namespace", {"fallbackRefs": [{"name": "other", "namespace": "A"}]}),
    _model("allowedNamespaces.from", {"allowedNamespaces.from": "Any"}),
    _model("allowedNamespaces.selector", {"allowedNamespaces.from": "Selector"}),
    _model(
        "allowedNamespaces.selector.matchLabels",
        {"allowedNamespaces": {"from": "Selector", "selector": {"matchLabels": {}}}},
    ),
    _model("credentialsSecretKeyRef.name", {"credentialsSecretKeyRef": {"name": "S", "key": "k"}}),
]

KNOWLEDGE = [
    Wrong("KnowledgeBase", {"embedding": REMOVED}, "embedding"),
    Wrong("KnowledgeBase", {"embedding.modelConfigRef.name": "Embed"}, "embedding.modelConfigRef.name"),
    Wrong("KnowledgeBase", {"embedding.modelConfigRef.namespace": "A"}, "embedding.modelConfigRef.namespace"),
    Wrong(
        "KnowledgeBase",
        {"retrieval.rerank": {"modelConfigRef": {"name": "r", "namespace": "A"}}},
        "retrieval.rerank.modelConfigRef.namespace",
    ),
    Wrong("KnowledgeBase", {"chunking.maxTokens": 15}, "chunking.maxTokens"),
    Wrong("KnowledgeBase", {"chunking.overlapTokens": 200}, "chunking.overlapTokens"),
    Wrong("KnowledgeBase", {"retrieval.topK": 101}, "retrieval.topK"),
    Wrong("KnowledgeBase", {"allowedNamespaces.from": "Any"}, "allowedNamespaces.from"),
    Wrong("KnowledgeBase", {"allowedNamespaces.from": "Selector"}, "allowedNamespaces.selector"),
    Wrong("AgentTeam", {"allowedNamespaces.from": "Any"}, "allowedNamespaces.from"),
    Wrong(
        "AgentTeam",
        {"members[1]": {"name": "b", "teamRef": {"name": "x", "namespace": "No_Name"}}},
        "members[1].teamRef.namespace",
    ),
    Wrong("AgentTeam", {"allowedNamespaces.from": "Selector"}, "allowedNamespaces.selector"),
    Wrong(
        "AgentTeam",
        {"allowedNamespaces": {"from": "Selector", "selector": {"matchLabels": {}}}},
        "allowedNamespaces.selector.matchLabels",
    ),
    Wrong(
        "KnowledgeBase",
        {"allowedNamespaces": {"from": "All", "selector": {"matchLabels": {"a": "b"}}}},
        "allowedNamespaces.selector",
    ),
    Wrong(
        "KnowledgeBase",
        {"allowedNamespaces": {"from": "Selector", "selector": {"matchLabels": {}}}},
        "allowedNamespaces.selector.matchLabels",
    ),
    Wrong("KnowledgeBase", {"retrieval.minScore": "1.1"}, "retrieval.minScore"),
    Wrong("KnowledgeBase", {"evaluation.schedule": "@daily"}, "evaluation.thresholds"),
    Wrong("KnowledgeBase", {"evaluation.thresholds": {}}, "evaluation.thresholds"),
    Wrong("KnowledgeBase", {"evaluation.thresholds.mrr": "1.01"}, "evaluation.thresholds.mrr"),
    Wrong("KnowledgeBase", {"evaluation.thresholds.ndcgAt10": "-0.1"}, "evaluation.thresholds.ndcgAt10"),
    Wrong("KnowledgeBase", {"evaluation.thresholds.recallAt10": 0.9}, "evaluation.thresholds.recallAt10"),
    Wrong("KnowledgeBase", _GOOD_SCORES | {"evaluation.schedule": "0 0 * * *"}, "evaluation.schedule"),
    Wrong("KnowledgeBase", _GOOD_SCORES | {"evaluation.goldenSet": "x" * 513}, "evaluation.goldenSet"),
    Wrong(
        "KnowledgeBase",
        _GOOD_SCORES | {"evaluation.goldenSet": "g", "evaluation.goldenSetRef.configMapKeyRef": _KEY},
        "evaluation.goldenSet",
    ),
    Wrong(
        "KnowledgeBase",
        _GOOD_SCORES | {"evaluation.goldenSetRef.configMapKeyRef": {"name": "S", "key": "k"}},
        "evaluation.goldenSetRef.configMapKeyRef.name",
    ),
    Wrong("KnowledgeBase", {"retrieval.searchMode": "hybrid"}, "retrieval.searchMode"),
    Wrong("KnowledgeBase", {"deletionPolicy": "Keep"}, "deletionPolicy"),
    Wrong("KnowledgeBase", {"chunking.strategy": "Fixed"}, "chunking.strategy"),
    Wrong("KnowledgeBase", {"tenancy.strategy": "Shared"}, "tenancy.strategy"),
    Wrong("KnowledgeBase", {"tenancy.strategy": "PartitionKey", "index.tuning.enabled": False}, "index"),
    Wrong("KnowledgeBase", {"retrieval.ranker.type": "Weighted"}, "retrieval.ranker.weighted"),
    Wrong(
        "KnowledgeBase",
        {"retrieval.ranker.type": "Weighted", "retrieval.ranker.rrf.k": 10}
        | {"retrieval.ranker.weighted.denseWeight": "0.5"},
        "retrieval.ranker.rrf",
    ),
    Wrong("KnowledgeBase", {"index.policy": "Manual"}, "index.type"),
    Wrong("KnowledgeBase", {"index.type": "HNSW"}, "index.type"),
    Wrong("KnowledgeBase", {"index.searchParams": {"ef": 10}}, "index.searchParams"),
    Wrong(
        "KnowledgeBase",
        {"index.policy": "Manual", "index.type": "HNSW", "index.target.recallPercent": 49},
        "index.target.recallPercent",
    ),
]

TEAMS = [
    _team("modelConfigRef", {"modelConfigRef": REMOVED}),
    _team("mode", {"mode": "coordinate"}),
    _team("members", {"members": []}),
    _team("members[1].name", {"members[1].name": "a"}),
    _team("members[0].name", {"members[0].name": "A"}),
    _team("members[0].name", {"members[0].name": "a" * 64}),
    _team("members[0].knowledge[0]", {"members[0].knowledge": ["other"]}),
    _team("members[0].knowledge[1]", {"members[0].knowledge": ["docs", "docs"]}),
    _team("members[0].tools[0]", {"members[0].tools": ["other"]}),
    _team("members[0].tools[1]", {"members[0].tools": ["shop", "shop"]}),
    *[
        _team("members[0].teamRef", {"members[0].teamRef": {"name": "t"}, f"members[0].{field}": value})
        for field, value in (
            ("instructions", "x"), ("modelConfigRef", {"name": "m"}),
            ("knowledge", ["docs"]), ("tools", ["shop"]),
        )
    ],
    _team("members[0].teamRef", {"members": [{"name": "a", "teamRef": {"name": "t"}}]}),
    _team("members[0].nonsense", {"members[0].nonsense": 1}),
    _team("knowledge[1].name", {"knowledge[1]": {"name": "docs", "knowledgeBaseRef": {"name": "x"}}}),
    _team("knowledge[0].topK", {"knowledge[0].topK": 0}),
    _team("knowledge[0].minScore", {"knowledge[0].minScore": "1.5"}),
    _team("knowledge[0].onEmpty", {"knowledge[0].onEmpty": "Ask"}),
    _team("sharing.evidenceReuse.minSimilarity", {"sharing.evidenceReuse.minSimilarity": "2"}),
    _team("sharing.maxInteractions", {"sharing.maxInteractions": 33}),
    _team("tools[0].mcp.url", {"tools[0].mcp.url": REMOVED}),
    _team("tools[0].mcp.url", {"tools[0].mcp.serviceRef": {"name": "x", "port": 80}}),
    _team("tools[0].mcp.url", {"tools[0].mcp.url": "http://u:p@shop/mcp"}),
    _team("tools[0].mcp.serviceRef.path", {"tools[0].mcp": {
        "serviceRef": {"name": "x", "port": 80, "path": "mcp"}, "allowedTools": ["a"]}}),
    _team("tools[0].mcp.allowedTools", {"tools[0].mcp.allowedTools": []}),
    _team("tools[0].mcp.allowedTools[1]", {"tools[0].mcp.allowedTools": ["buy", "buy"]}),
    _team("tools[0].mcp.requireApproval[0]", {"tools[0].mcp.requireApproval": ["sell"]}),
    _team("tools[0].mcp.headersFrom[0].name", {"tools[0].mcp.headersFrom": [{**_HEADER, "name": "Host"}]}),
    _team("tools[0]", {"tools[0].builtin": "AskUser"}),
    _team("tools[0]", {"tools": [{"name": "none"}]}),
    _team("tools[1].name", {"tools[1]": {"name": "shop", "builtin": "AskUser"}}),
    _team("tools[0].python.module", {"tools": [{"name": "p", "python": {"module": "1x"}}]}),
    _team("approvals.expireAfterHours", {"approvals.expireAfterHours": 0}),
    _team("guardrails.input[1].type", {"guardrails.input": [{"type": "PII", "action": "Warn"}] * 2}),
    _team("guardrails.output[0].type", {"guardrails.output": [_INJECTION]}),
    _team("limits.maxTurns", {"limits.maxTurns": 0}),
    _team("limits.maxCostPerRun", {"limits.maxCostPerRun": "1.1234567"}),
    _team("session.historyRuns", {"session": {"historyRuns": 80, "summary": {"enabled": True}}}),
    _team("session.retentionDays", {"session.retentionDays": 0}),
    _team("answer.schema", {"answer.schema": {"type": "nonsense"}}, late=True),
    _team("knowledge[0].filter", {"knowledge[0].filter": "year = 2020"}, late=True),
    _team("modelConfigRef.namespace", {"modelConfigRef.namespace": "A"}),
    _team("members[0].modelConfigRef.namespace", {"members[0].modelConfigRef": _ABROAD}),
    _team(
        "evaluation.judgeModelConfigRef.namespace",
        {"evaluation": {"judgeModelConfigRef": _ABROAD}},
    ),
    _team("knowledge[0].knowledgeBaseRef.namespace", {"knowledge[0].knowledgeBaseRef.namespace": "A"}),
    _team("knowledge[0].neighbours", {"knowledge[0].neighbours": 6}),
    _team("knowledge[0].maxPerDocument", {"knowledge[0].maxPerDocument": 0}),
    _team("runtime.replicas", {"runtime": {"replicas": 1, "autoscaling": {"maxReplicas": 2}}}),
    _team("runtime.autoscaling.minReplicas", {"runtime.autoscaling": {"minReplicas": 3, "maxReplicas": 2}}),
    _team("runtime.autoscaling.type", {"runtime.autoscaling": {"type": "VPA", "maxReplicas": 2}}),
    _team("runtime.resources.requests.cpu", {"runtime.resources.requests.cpu": "lots"}),
    _team("runtime.terminationGracePeriodSeconds", {"runtime.terminationGracePeriodSeconds": 1}),
    _team("runtime.resources.limits.gpu", {"runtime.resources.limits.gpu": "1"}),
    _team("runtime.nodeSelector.-a", {"runtime.nodeSelector.-a": "b"}),
    _team("runtime.nodeSelector.a", {"runtime.nodeSelector.a": "b/c"}),
    _team("runtime.tolerations[0].key", {"runtime.tolerations": [{"value": "x"}]}),
    _team("runtime.tolerations[0].value", {"runtime.tolerations": [{"operator": "Exists", "value": "x"}]}),
    _team("runtime.tolerations[0].tolerationSeconds", {"runtime.tolerations": [
        {"operator": "Exists", "tolerationSeconds": 5}]}),
    _team("evaluation.samplePercent", {"evaluation.samplePercent": 101}),
    _team("evaluation.maxJudgeCallsPerRun", {"evaluation.maxJudgeCallsPerRun": 0}),
    _team("evaluation.thresholds.grounding", {"evaluation.thresholds.grounding": "1.5"}),
    _team("evaluation.thresholds.faithfulness", {"evaluation.thresholds.faithfulness": "0.8"}),
    _team("evaluation.thresholds.answerRelevance", {"evaluation.thresholds.answerRelevance": "0.8"}),
    _team("suspend", {"suspend": "yes"}),
    _team("instructionsFrom", {"instructions": "", "instructionsFrom": _FROM}),
    _team("instructionsFrom.configMapKeyRef", {"instructionsFrom": {}}),
    _team("instructionsFrom.configMapKeyRef.key", {"instructionsFrom": {"configMapKeyRef": {"name": "c"}}}),
    _team("instructionsFrom.configMapKeyRef.name", {"instructionsFrom.configMapKeyRef": {
        "name": "C_", "key": "k"}}),
    _team("members[0].instructionsFrom", {
        "members[0].instructions": "x", "members[0].instructionsFrom": _FROM}),
    _team("members[0].teamRef", {"members[0].teamRef": {"name": "t"}, "members[0].instructionsFrom": _FROM}),
    _team("workflow", {"mode": "Workflow"}),
    _team("workflow", {"workflow": {"steps": [_STEP]}}),
    _flow("steps"),
    _flow("steps[0]", {"name": "s"}),
    _flow("steps[0]", {"name": "s", "member": "a", "approval": {"message": "?"}}),
    _flow("steps[0].name", {"name": "in", "member": "a"}),
    _flow("steps[0].name", {"name": "S-1", "member": "a"}),
    _flow("steps[1].name", _STEP, _STEP),
    _flow("steps[0].member", {"name": "s", "member": "c"}),
    _flow("steps[0].task", {"name": "s", "approval": {"message": "?"}, "task": "x"}),
    _flow("steps[0].output", {"name": "s", "approval": {"message": "?"}, "output": {"schema": {}}}),
    _flow("steps[0].input", {"name": "s", "approval": {"message": "?"}, "input": "1"}),
    _flow("steps[0].retries", {"name": "s", "approval": {"message": "?"}, "retries": {}}),
    _flow("steps[0].workflow.name", {"name": "s", "workflow": {"name": "d"}}),
    _flow("steps[0].input", {"name": "s", "member": "a", "input": "nothing.here"}, late=True),
    _flow("steps[0].task", {"name": "s", "member": "a", "task": "{{ x"}, late=True),
    _flow("output", _STEP, late=True, output="steps.other.answer"),
    _flow("definitions[0].steps[0].member", _STEP, late=True, definitions=[
        {"name": "d", "steps": [{"name": "x", "member": "c"}]}]),
    _flow("definitions[1].name", _STEP, definitions=[{"name": "d", "steps": [_STEP]}] * 2),
    _flow("definitions[0]", _STEP, late=True, definitions=[
        {"name": "d", "steps": [{"name": "x", "workflow": {"name": "d"}}]}]),
    _flow("steps[0].parallel.steps[0]", {"name": "s", "parallel": {"steps": [{"name": "x"}]}}),
    _flow("steps[0].parallel.steps[0].parallel.steps[0]", {"name": "s", "parallel": {"steps": [
        {"name": "x", "parallel": {"steps": [{"name": "y"}]}}]}}, late=True),
    _third(""),
    _third("", member="a", approval={"message": "?"}),
    _third("member", member="nobody"),
    _third("membr", membr="a"),
    _third("parallel", parallel={"steps": [_STEP]}),
    _third("input", member="a", input="nothing.here"),
    _third("task", member="a", task="{{ x"),
    _third("retries.maxAttempts", member="a", retries={"maxAttempts": "three"}),
    _flow("steps[0].loop.until", {"name": "s", "loop": {
        "steps": [_STEP | {"name": "x"}], "until": "1"}}, late=True),
]  # fmt: skip

WRONG: Final = [*MODELS, *KNOWLEDGE, *TEAMS, *(Wrong(*one) for one in FIELDS)]
