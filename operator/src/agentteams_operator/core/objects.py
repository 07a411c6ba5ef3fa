"""Objects of the API server as the operator keeps them."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from agentteams_operator.core.skeleton import skeleton

MODEL = "ModelConfig"
KNOWLEDGE = "KnowledgeBase"
TEAM = "AgentTeam"
SECRET = "Secret"
CONFIG_MAP = "ConfigMap"
NAMESPACE = "Namespace"
REVISION = "ControllerRevision"
SCALER = "HorizontalPodAutoscaler"
OURS = (MODEL, KNOWLEDGE, TEAM)
SHARED_KINDS = OURS
"""The kinds whose `spec.allowedNamespaces` lets other namespaces in."""
POOL = "Pool"
"""A key that is no object: the orchestrators that the teams of a namespace share."""
CREDENTIALS = "Credentials"
"""A key that is no object: what the embedding service must know of Secrets."""
MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGER = "agentteams-operator"
TEAM_LABEL = "agentteams.dev/team"
"""On what the operator makes for one team: its name. On what it makes for a pool: POOL_LABEL."""
POOL_LABEL = "agentteams.dev/pool"
SHARED = "shared"
SHARED_MODELS = "SharedModels"
"""A key that is no object: what the pods of a namespace must know of models of others."""
CREDENTIALS_LABEL = "agentteams.dev/credentials"
"""On the Secrets for services of the installation."""
SHARED_MODELS_LABEL = "agentteams.dev/shared-models"
"""On the Secret with models of other namespaces."""


class Key(NamedTuple):
    """Which object."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


ALL_CREDENTIALS = Key(CREDENTIALS, "", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What is kept of an object. Of Secrets and ConfigMaps only a hash of each value.

    Attributes:
        version: resourceVersion: equal means unchanged.
        content: spec and status of our own kinds, of revisions what they refer to, status of others; nothing
            of Secrets and ConfigMaps.
        hashes: Of a Secret or ConfigMap: 16 hex digits by key, salted with its uid.
    """

    key: Key
    uid: str
    version: str
    generation: int = 0
    created: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    finalizers: tuple[str, ...] = ()
    deleted_at: str | None = None
    content: Mapping[str, Any] = field(default_factory=dict)
    hashes: Mapping[str, str] = field(default_factory=dict)

    @property
    def spec(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.content.get("spec") or {}
        return found

    @property
    def status(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.content.get("status") or {}
        return found

    def condition(self, kind: str) -> Mapping[str, Any]:
        """A condition, or nothing, as it stands in the status."""
        return next((c for c in self.status.get("conditions", ()) if c.get("type") == kind), {})


def owner_of(one: Stored | None) -> Key | None:
    """For whom the operator made it; None: it is somebody else's."""
    if one is None or one.labels.get(MANAGED_BY) != MANAGER:
        return None
    if TEAM_LABEL in one.labels:
        return Key(TEAM, one.key.namespace, one.labels[TEAM_LABEL])
    if CREDENTIALS_LABEL in one.labels:
        return ALL_CREDENTIALS
    if SHARED_MODELS_LABEL in one.labels:
        return Key(SHARED_MODELS, one.key.namespace, "")
    return Key(POOL, one.key.namespace, "") if POOL_LABEL in one.labels else None


def embeds(one: Stored | None) -> bool:
    """Whether it is a model that the embedding service asks."""
    return one is not None and one.key.kind == MODEL and one.spec.get("type") in ("Embedding", "Rerank")


def judge_of(one: Stored | None) -> Key | None:
    """The ModelConfig that scores a team's answers; None: none does."""
    if one is None or one.key.kind != TEAM:
        return None
    reference = (one.spec.get("evaluation") or {}).get("judgeModelConfigRef") or {}
    if not reference.get("name"):
        return None
    return Key(MODEL, str(reference.get("namespace") or one.key.namespace), str(reference["name"]))


def allowed_of(one: Stored) -> Mapping[str, Any]:
    """What its owner allows others, as it is written; nothing if the kind is not shared."""
    allowed: Mapping[str, Any] = one.spec.get("allowedNamespaces") or {}
    return allowed if one.key.kind in SHARED_KINDS else {}


def selects(one: Stored) -> bool:
    """Whether labels of Namespaces decide who may use it."""
    return bool(allowed_of(one).get("from") == "Selector")


def rolled_out(deployment: Stored) -> bool:
    """Whether all pods of a Deployment are of its newest template."""
    status = deployment.status
    made, updated = status.get("replicas", 0), status.get("updatedReplicas", 0)
    return bool(status.get("observedGeneration", 0) >= deployment.generation and made == updated)


def stored(body: Mapping[str, Any]) -> Stored:
    """What is kept of an object as the API server has it."""
    metadata = body["metadata"]
    kind = str(body["kind"])
    uid = str(metadata["uid"])
    hashes: dict[str, str] = {}
    content: dict[str, Any] = {}
    if kind in (SECRET, CONFIG_MAP):
        hashes = {key: _hash(uid, key, value) for key, value in (body.get("data") or {}).items()}
    elif kind in OURS:
        content = {part: body[part] for part in ("spec", "status") if part in body}
    elif kind == "Deployment":
        content = {"status": body.get("status") or {}}
    elif kind == SCALER:
        # It has no generation, and its status is written every few seconds.
        content = {"written": digest_of(body.get("spec"))}
    elif kind == REVISION:
        content = {"revision": body.get("revision", 0), "spec": skeleton(body.get("data") or {})}
    return Stored(
        key=Key(kind, str(metadata.get("namespace", "")), str(metadata["name"])),
        uid=uid,
        version=str(metadata["resourceVersion"]),
        generation=int(metadata.get("generation", 0)),
        created=str(metadata.get("creationTimestamp") or ""),
        labels=metadata.get("labels") or {},
        annotations={
            name: value
            for name, value in (metadata.get("annotations") or {}).items()
            if name.startswith("agentteams.dev/")
        },
        finalizers=tuple(metadata.get("finalizers") or ()),
        deleted_at=metadata.get("deletionTimestamp"),
        content=content,
        hashes=hashes,
    )


def digest_of(*parts: object) -> str:
    """Differs when one of them does."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _hash(uid: str, key: str, value: str) -> str:
    return hashlib.sha256(f"{uid}/{key}/{value}".encode()).hexdigest()[:16]
