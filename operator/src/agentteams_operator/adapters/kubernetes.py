"""The API server, for writing (docs/adr/0012-operator-libraries.md)."""

import asyncio
import base64
import json
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from typing import Any

import httpx2
import structlog
from lightkube import ApiError, AsyncClient
from lightkube.core.exceptions import ConfigError
from lightkube.generic_resource import create_namespaced_resource
from lightkube.types import CascadeType, PatchType

from agentteams_operator.core.objects import MANAGER, Key, Stored
from agentteams_operator.core.outcome import Event
from agentteams_operator.core.ports import ApiFailure

log = structlog.get_logger()

_GROUP = "agentteams.dev"
_PLURALS = {
    "ModelConfig": (_GROUP, "v1alpha1", "modelconfigs"),
    "KnowledgeBase": (_GROUP, "v1alpha1", "knowledgebases"),
    "AgentTeam": (_GROUP, "v1alpha1", "agentteams"),
    "Secret": ("", "v1", "secrets"),
    "ConfigMap": ("", "v1", "configmaps"),
    "Service": ("", "v1", "services"),
    "ServiceAccount": ("", "v1", "serviceaccounts"),
    "Deployment": ("apps", "v1", "deployments"),
    "ControllerRevision": ("apps", "v1", "controllerrevisions"),
    "Role": ("rbac.authorization.k8s.io", "v1", "roles"),
    "RoleBinding": ("rbac.authorization.k8s.io", "v1", "rolebindings"),
    "NetworkPolicy": ("networking.k8s.io", "v1", "networkpolicies"),
    "PodDisruptionBudget": ("policy", "v1", "poddisruptionbudgets"),
    "HorizontalPodAutoscaler": ("autoscaling", "v2", "horizontalpodautoscalers"),
    "ScaledObject": ("keda.sh", "v1alpha1", "scaledobjects"),
    "Event": ("events.k8s.io", "v1", "events"),
}
_TIMEOUT_S = 20.0
_UNPROCESSABLE = 422
_MAX_NOTE = 1024
_FORBIDDEN, _TERMINATED = 403, "being terminated"


class Kubernetes:
    """Writes by server-side apply as one field manager."""

    def __init__(self, client: AsyncClient, *, identity: str) -> None:
        self._client = client
        self._identity = identity
        self._resources = _resources()

    async def apply(self, wanted: Mapping[str, Any]) -> Mapping[str, Any]:
        """See the port."""
        try:
            return await self._patch(wanted, wanted, PatchType.APPLY)
        except ApiFailure as error:
            if wanted["kind"] != "ControllerRevision" or error.code != _UNPROCESSABLE:
                raise
        # What it holds cannot be changed, and means the same, since it has the same name: a default was
        # written out, or left out again.
        metadata = {k: v for k, v in wanted["metadata"].items() if k in ("labels", "ownerReferences")}
        change = {"metadata": metadata, "revision": wanted["revision"]}
        return await self._patch(wanted, change, PatchType.MERGE)

    async def _patch(
        self, wanted: Mapping[str, Any], body: Mapping[str, Any], how: PatchType
    ) -> Mapping[str, Any]:
        resource = self._resources[wanted["kind"]]
        metadata = wanted["metadata"]
        with _failures(f"{wanted['kind']} {metadata['namespace']}/{metadata['name']}"):
            async with asyncio.timeout(_TIMEOUT_S):
                made = await self._client.patch(
                    resource, metadata["name"], dict(body), namespace=metadata["namespace"],
                    patch_type=how, field_manager=MANAGER, force=how is PatchType.APPLY,
                )  # fmt: skip
        return _body(made, wanted)

    async def apply_status(self, one: Stored, status: Mapping[str, Any]) -> Mapping[str, Any]:
        """See the port."""
        resource = self._resources[one.key.kind]
        body = {
            "apiVersion": f"{_GROUP}/v1alpha1",
            "kind": one.key.kind,
            # With the uid: a status is never written to another object of the same name.
            "metadata": {"name": one.key.name, "namespace": one.key.namespace, "uid": one.uid},
            "status": dict(status),
        }
        with _failures(f"the status of {one.key}"):
            async with asyncio.timeout(_TIMEOUT_S):
                made = await self._client.patch(
                    resource.Status, one.key.name, body, namespace=one.key.namespace,
                    patch_type=PatchType.APPLY, field_manager=f"{MANAGER}-status", force=True,
                )  # fmt: skip
        return _body(made, body)

    async def set_finalizers(self, one: Stored, ours: tuple[str, ...]) -> None:
        """See the port."""
        others = [name for name in one.finalizers if not name.startswith(f"{_GROUP}/")]
        # With the version: what somebody else adds in between is not lost, but a conflict.
        body = {"metadata": {"uid": one.uid, "resourceVersion": one.version, "finalizers": [*others, *ours]}}
        with _failures(f"the finalizers of {one.key}"):
            async with asyncio.timeout(_TIMEOUT_S):
                await self._client.patch(
                    self._resources[one.key.kind], one.key.name, body, namespace=one.key.namespace,
                    patch_type=PatchType.MERGE, field_manager=MANAGER,
                )  # fmt: skip

    async def delete(self, key: Key) -> None:
        """See the port."""
        try:
            with _failures(str(key)):
                async with asyncio.timeout(_TIMEOUT_S):
                    await self._client.delete(
                        self._resources[key.kind],
                        key.name,
                        namespace=key.namespace,
                        cascade=CascadeType.BACKGROUND,
                    )
        except ApiFailure as error:
            if error.code != 404:
                raise

    async def tell(self, one: Stored, event: Event) -> None:
        """See the port."""
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        body = {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": f"{one.key.name}.{uuid.uuid4().hex[:16]}", "namespace": one.key.namespace},
            "eventTime": now,
            "type": event.type,
            "reason": event.reason,
            "action": "Reconcile",
            "note": event.message[:_MAX_NOTE],
            "reportingController": f"{_GROUP}/operator",
            "reportingInstance": self._identity[:128],
            "regarding": {
                "apiVersion": f"{_GROUP}/v1alpha1",
                "kind": one.key.kind,
                "namespace": one.key.namespace,
                "name": one.key.name,
                "uid": one.uid,
                "resourceVersion": one.version,
            },
        }
        event_resource = self._resources["Event"]
        try:
            with _failures(f"an event of {one.key}"):
                async with asyncio.timeout(_TIMEOUT_S):
                    await self._client.create(event_resource.from_dict(body))
        except ApiFailure as error:
            if error.code == _FORBIDDEN and _TERMINATED in str(error):
                return  # the events of a namespace that goes, go with it
            log.warning("event_not_written", object=str(one.key), reason=event.reason, error=str(error))

    async def secret(self, namespace: str, name: str) -> Mapping[str, bytes]:
        """See the port."""
        with _failures(f"Secret {namespace}/{name}"):
            async with asyncio.timeout(_TIMEOUT_S):
                found = await self._client.get(self._resources["Secret"], name, namespace=namespace)
        data: Mapping[str, str] = found.get("data") or {}
        return {key: base64.b64decode(value) for key, value in data.items()}

    async def serves(self, kind: str) -> bool:
        """See Discovery."""
        try:
            with _failures(f"whether there are {kind}s"):
                async with asyncio.timeout(_TIMEOUT_S):
                    async for _ in self._client.list(
                        self._resources[kind], namespace="default", chunk_size=1
                    ):
                        break
        except ApiFailure as error:
            if error.code == 404:  # of the kind: a namespace that is missing has an empty list
                return False
            raise
        return True

    async def config_map(self, namespace: str, name: str) -> Mapping[str, str]:
        """See the port."""
        with _failures(f"ConfigMap {namespace}/{name}"):
            async with asyncio.timeout(_TIMEOUT_S):
                found = await self._client.get(self._resources["ConfigMap"], name, namespace=namespace)
        data: Mapping[str, str] = found.get("data") or {}
        return data


@cache
def _resources() -> dict[str, Any]:
    """Once a process: lightkube knows each kind by one class."""
    return {
        kind: create_namespaced_resource(group, version, kind, plural)
        for kind, (group, version, plural) in _PLURALS.items()
    }


def _body(made: Mapping[str, Any], wanted: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"apiVersion": wanted["apiVersion"], "kind": wanted["kind"], **made}


@contextmanager
def _failures(what: str) -> Iterator[None]:
    """Errors of the client as ours."""
    try:
        yield
    except ApiError as error:
        raise ApiFailure(f"{what}: {error.status.message}", int(error.status.code or 0)) from error
    except httpx2.HTTPStatusError as error:
        raise ApiFailure(f"{what}: {error}", error.response.status_code) from error
    except (httpx2.HTTPError, ConfigError, OSError, TimeoutError, json.JSONDecodeError) as error:
        raise ApiFailure(f"{what}: the API server does not answer: {type(error).__name__}") from error
