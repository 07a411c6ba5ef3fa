"""One wrong value for fields that the table of wrong manifests has for no other reason.

Kind, changes, field, and whether the API server cannot know it.
"""

from collections.abc import Mapping
from typing import Any, Final

_AUTOSCALING = {"minReplicas": 1, "maxReplicas": 2}
_STEP = {"name": "s", "member": "a"}


def _flow(**step: Any) -> Mapping[str, Any]:
    return {"mode": "Workflow", "workflow": {"steps": [_STEP | step]}}


def _service(**ref: Any) -> Mapping[str, Any]:
    service = {"name": "tools", "port": 80} | ref
    return {"tools[0].mcp": {"serviceRef": service, "allowedTools": ["a"]}}


_TEAM: list[tuple[Mapping[str, Any], str]] = [
    ({"description": "x" * 5000}, "description"),
    ({"approvals.allowedUsers": ["a", ""]}, "approvals.allowedUsers[1]"),
    ({"knowledge[0].search": "Sometimes"}, "knowledge[0].search"),
    ({"knowledge[0].searchMode": "dense"}, "knowledge[0].searchMode"),
    ({"knowledge[0].knowledgeBaseRef.name": "A b"}, "knowledge[0].knowledgeBaseRef.name"),
    ({"limits.maxConcurrentRuns": 0}, "limits.maxConcurrentRuns"),
    ({"limits.maxTokensPerRun": 0}, "limits.maxTokensPerRun"),
    ({"limits.maxToolCalls": -1}, "limits.maxToolCalls"),
    ({"limits.runTimeoutSeconds": 0}, "limits.runTimeoutSeconds"),
    ({"modelConfigRef.name": "A b"}, "modelConfigRef.name"),
    ({"members[0].modelConfigRef": {"name": "A b"}}, "members[0].modelConfigRef.name"),
    ({"members[0].teamRef": {"name": "A b"}}, "members[0].teamRef.name"),
    ({"sharing.memberInteractions": "All"}, "sharing.memberInteractions"),
    ({"sharing.evidenceReuse.policy": "Sometimes"}, "sharing.evidenceReuse.policy"),
    ({"sharing.evidenceReuse.scope": "World"}, "sharing.evidenceReuse.scope"),
    ({"session.userMemory": "Maybe"}, "session.userMemory"),
    ({"session.summary.enabled": "yes"}, "session.summary.enabled"),
    ({"session.summary.triggerTokens": 0}, "session.summary.triggerTokens"),
    (
        {"runtime.autoscaling": _AUTOSCALING | {"targetActiveRuns": 0}},
        "runtime.autoscaling.targetActiveRuns",
    ),
    ({"runtime.autoscaling": {"maxReplicas": 0}}, "runtime.autoscaling.maxReplicas"),
    ({"runtime.serviceAccountName": "A b"}, "runtime.serviceAccountName"),
    ({"runtime.tolerations": [{"key": "k", "operator": "Is"}]}, "runtime.tolerations[0].operator"),
    ({"runtime.tolerations": [{"key": "k", "effect": "Never"}]}, "runtime.tolerations[0].effect"),
    ({"tools": [{"name": "ask", "builtin": "Nonsense"}]}, "tools[0].builtin"),
    ({"tools[0].mcp.transport": "Pigeon"}, "tools[0].mcp.transport"),
    ({"tools[0].mcp.timeoutSeconds": 0}, "tools[0].mcp.timeoutSeconds"),
    (_service(name="A b"), "tools[0].mcp.serviceRef.name"),
    (_service(port=0), "tools[0].mcp.serviceRef.port"),
    (
        {"tools": [{"name": "p", "python": {"module": "m", "timeoutSeconds": 0}}]},
        "tools[0].python.timeoutSeconds",
    ),
    (
        {"evaluation": {"judgeModelConfigRef": {"name": "A b"}}},
        "evaluation.judgeModelConfigRef.name",
    ),
    ({"evaluation": {"scoreSuspicious": "often"}}, "evaluation.scoreSuspicious"),
    ({"evaluation": {"schedule": "@yearly"}}, "evaluation.schedule"),
    (
        {"evaluation": {"goldenSetRef": {"configMapKeyRef": {"name": "A b", "key": "a"}}}},
        "evaluation.goldenSetRef.configMapKeyRef.name",
    ),
    (
        {"evaluation": {"goldenSetRef": {"configMapKeyRef": {"name": "a", "key": "A b"}}}},
        "evaluation.goldenSetRef.configMapKeyRef.key",
    ),
    (
        {"evaluation": {"thresholds": {"sourcesFound": "2"}}},
        "evaluation.thresholds.sourcesFound",
    ),
    (
        {"evaluation": {"thresholds": {"factsPresent": "-1"}}},
        "evaluation.thresholds.factsPresent",
    ),
    (
        {"evaluation": {"thresholds": {"retrievalRelevance": "2"}}},
        "evaluation.thresholds.retrievalRelevance",
    ),
    (_flow(timeoutSeconds=0), "workflow.steps[0].timeoutSeconds"),
    (_flow(onFailure="Ignore"), "workflow.steps[0].onFailure"),
    (_flow(retries={"backoffSeconds": -1}), "workflow.steps[0].retries.backoffSeconds"),
]

_KNOWLEDGE: list[tuple[Mapping[str, Any], str]] = [
    ({"index.policy": "Self"}, "index.policy"),
    ({"index.tuning.enabled": "yes"}, "index.tuning.enabled"),
    ({"retrieval.ranker.type": "Best"}, "retrieval.ranker.type"),
    ({"retrieval.ranker.rrf.k": 0}, "retrieval.ranker.rrf.k"),
    (
        {"retrieval.ranker.type": "Weighted", "retrieval.ranker.weighted.denseWeight": "2"},
        "retrieval.ranker.weighted.denseWeight",
    ),
    (
        {"retrieval.rerank": {"modelConfigRef": {"name": "r"}, "candidates": 0}},
        "retrieval.rerank.candidates",
    ),
    ({"retrieval.rerank": {"modelConfigRef": {"name": "A b"}}}, "retrieval.rerank.modelConfigRef.name"),
    ({"schema.metadataFields": [{"name": "A b", "type": "Bool"}]}, "schema.metadataFields[0].name"),
    ({"schema.metadataFields": [{"name": "a", "type": "Text"}]}, "schema.metadataFields[0].type"),
    ({"sources": [{"name": "A b", "folder": {"path": "d"}}]}, "sources[0].name"),
    ({"sources": [{"name": "a", "folder": {"path": ""}}]}, "sources[0].folder.path"),
    (
        {"sources": [{"name": "a", "folder": {"path": "d"}, "deletePolicy": "Never"}]},
        "sources[0].deletePolicy",
    ),
    (
        {"sources": [{"name": "a", "folder": {"path": "d"}, "intervalSeconds": 0}]},
        "sources[0].intervalSeconds",
    ),
]

_MODEL: list[tuple[Mapping[str, Any], str]] = [
    ({"parameters.maxOutputTokens": 0}, "parameters.maxOutputTokens"),
    ({"parameters.seed": "x"}, "parameters.seed"),
    ({"fallbackRefs": [{"name": "A b"}]}, "fallbackRefs[0].name"),
    ({"tls": {"caSecretKeyRef": {"name": "A b", "key": "k"}}}, "tls.caSecretKeyRef.name"),
    ({"credentialsSecretKeyRef": {"name": "s", "key": "../k"}}, "credentialsSecretKeyRef.key"),
    (
        {"pricing": {"currency": "USD", "inputPerMillionTokens": "1", "outputPerMillionTokens": "-1"}},
        "pricing.outputPerMillionTokens",
    ),
]

_LATE: list[tuple[Mapping[str, Any], str]] = [
    (_flow(output={"schema": {"type": "nonsense"}}), "workflow.steps[0].output.schema"),
    (
        {
            "mode": "Workflow",
            "workflow": {
                "steps": [{"name": "s", "workflow": {"name": "d"}}],
                "definitions": [{"name": "d", "steps": [_STEP], "output": "steps.other.answer"}],
            },
        },
        "workflow.definitions[0].output",
    ),
]

FIELDS: Final[list[tuple[str, Mapping[str, Any], str, bool]]] = [
    *(("AgentTeam", changes, field, False) for changes, field in _TEAM),
    *(("AgentTeam", changes, field, True) for changes, field in _LATE),
    *(("KnowledgeBase", changes, field, False) for changes, field in _KNOWLEDGE),
    *(("ModelConfig", changes, field, False) for changes, field in _MODEL),
]
