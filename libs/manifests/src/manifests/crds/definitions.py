"""The CustomResourceDefinitions."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from manifests.base import API_VERSION, NAME_PATTERN
from manifests.cel import VALIDATIONS, Cel
from manifests.crds.structural import structural
from manifests.knowledge import KnowledgeBase
from manifests.model import ModelConfig
from manifests.status import AgentTeamStatus, KnowledgeBaseStatus, ModelConfigStatus
from manifests.team import AgentTeam

GROUP, VERSION = API_VERSION.split("/")
_NAME = Cel(
    f"self.metadata.name.matches('{NAME_PATTERN}')",
    "the name must be lower-case letters, digits and '-', at most 63; rename it",
)


def _condition(name: str) -> str:
    return f'.status.conditions[?(@.type=="{name}")]'


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of `kubectl get`; `wide`: only with -o wide."""

    name: str
    path: str
    type: str = "string"
    wide: bool = False
    description: str = ""

    def definition(self) -> dict[str, Any]:
        told: dict[str, Any] = {"name": self.name, "type": self.type, "jsonPath": self.path}
        if self.description:
            told["description"] = self.description
        return told | ({"priority": 1} if self.wide else {})


_READY = Column(name="Ready", path=f"{_condition('Ready')}.status", description="Whether it serves.")
_REASON = Column(name="Reason", path=f"{_condition('Ready')}.reason", description="Why, in a word.")
_MESSAGE = Column(name="Message", path=f"{_condition('Ready')}.message", wide=True)
_AGE = Column(name="Age", path=".metadata.creationTimestamp", type="date")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    model: type[BaseModel]
    status: type[BaseModel]
    plural: str
    short: str
    columns: tuple[Column, ...]
    scale: Mapping[str, str] = field(default_factory=dict)


_KINDS = {
    "ModelConfig": _Kind(
        model=ModelConfig,
        status=ModelConfigStatus,
        plural="modelconfigs",
        short="mc",
        columns=(
            Column(name="Type", path=".spec.type"),
            Column(name="Provider", path=".spec.provider"),
            Column(name="Model", path=".spec.model"),
        ),
    ),
    "KnowledgeBase": _Kind(
        model=KnowledgeBase,
        status=KnowledgeBaseStatus,
        plural="knowledgebases",
        short="kb",
        columns=(
            Column(name="Documents", path=".status.documents", type="integer"),
            Column(name="Pending", path=".status.ingestion.pending", type="integer"),
            Column(name="Failed", path=".status.ingestion.failed", type="integer"),
            Column(name="Quality", path=".status.quality.verdict", description="Good, Degraded or Unknown."),
            Column(name="Chunks", path=".status.chunks", type="integer", wide=True),
            Column(name="nDCG", path=".status.quality.ndcgAt10", wide=True),
            Column(name="Milvus", path=".status.deployment", wide=True),
        ),
    ),
    "AgentTeam": _Kind(
        model=AgentTeam,
        status=AgentTeamStatus,
        plural="agentteams",
        short="at",
        columns=(
            Column(name="Mode", path=".spec.mode"),
            Column(name="Members", path=".status.members", type="integer"),
            Column(name="Revision", path=".status.currentRevision"),
            Column(name="Quality", path=".status.quality.verdict", description="Good, Degraded or Unknown."),
        ),
        scale={
            "specReplicasPath": ".spec.runtime.replicas",
            "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.selector",
        },
    ),
}


def definitions() -> dict[str, dict[str, Any]]:
    """All of them, by the file that each one belongs into."""
    return {f"{GROUP}_{kind.plural}.yaml": manifest(name) for name, kind in _KINDS.items()}


def manifest(name: str) -> dict[str, Any]:
    """The CustomResourceDefinition of a kind."""
    kind = _KINDS[name]
    subresources: dict[str, Any] = {"status": {}}
    if kind.scale:
        subresources["scale"] = dict(kind.scale)
    version = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "additionalPrinterColumns": [
            column.definition() for column in (*kind.columns, _READY, _REASON, _MESSAGE, _AGE)
        ],
        "subresources": subresources,
        "schema": {"openAPIV3Schema": _schema(kind)},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": name,
                "listKind": f"{name}List",
                "plural": kind.plural,
                "singular": name.lower(),
                "shortNames": [kind.short],
                "categories": ["agentteams"],
            },
            "versions": [version],
        },
    }


def _schema(kind: _Kind) -> dict[str, Any]:
    whole = structural(kind.model)
    status = structural(kind.status)
    return {
        "description": whole["description"],
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"description": "Always agentteams.dev/v1alpha1.", "type": "string"},
            "kind": {"description": whole["properties"]["kind"]["enum"][0] + ".", "type": "string"},
            "metadata": {"type": "object"},
            "spec": whole["properties"]["spec"],
            "status": {**status, "description": "What became of it; the operator writes it."},
        },
        VALIDATIONS: [_NAME.validation()],
    }
