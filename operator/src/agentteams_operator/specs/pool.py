"""Orchestrators: a namespace's shared pool, or a team's own."""

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agentteams_operator.core.objects import (
    MANAGED_BY,
    MANAGER,
    POOL_LABEL,
    SHARED,
    TEAM_LABEL,
    Stored,
)
from agentteams_operator.specs.scaling import (
    HPA,
    SCALED_OBJECT,
    SCALERS,
    Scaling,
    horizontal_pod_autoscaler,
    scaled_object,
    scaling_of,
)
from agentteams_operator.specs.settings import PoolSettings
from manifests import FRONT_SERVICE, SHARED_POOL, Runtime, pool_name

APP = "agentteams-orchestrator"
IDENTITY = "agentteams-identity"
IDENTITY_KEY = "key"
PORT, METRICS_PORT = 50054, 9090
NAME_LABEL = _NAME = "app.kubernetes.io/name"
PART_OF = {"app.kubernetes.io/part-of": "agentteams"}  # what the chart's PodMonitor looks for
_SERVICES = {"session": 50053, "retrieval": 50052, "embedding": 50051}  # what orchestrators call
_SECRETS, _IDENTITY_DIR = "/run/agentteams/secrets", "/run/agentteams/identity"
_GRACE_S = 60
_LAST_S = 15  # of the grace period: for what comes after the runs

Spec = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """One pool.

    Attributes:
        team: Empty: the one that the namespace shares.
        owner: Owner references; none for the shared pool.
        runtime: What the team asks for.
        secrets: Name and key of all that is mounted.
        secrets_hash: Changes with any of their values, and rolls the pods.
        identity_hash: Likewise of the tenant's key.
        keda: The cluster has KEDA; without it a HorizontalPodAutoscaler stands in.
    """

    namespace: str
    team: str = ""
    owner: Sequence[Mapping[str, Any]] = ()
    runtime: Runtime = field(default_factory=Runtime)
    secrets: Sequence[tuple[str, str]] = ()
    secrets_hash: str = ""
    identity_hash: str = ""
    keda: bool = False

    @property
    def name(self) -> str:
        return pool_name(self.team) if self.team else SHARED_POOL

    @property
    def selector(self) -> dict[str, str]:
        mine = {TEAM_LABEL: self.team} if self.team else {POOL_LABEL: SHARED}
        return {_NAME: APP, **mine}

    def scaling(self, settings: PoolSettings) -> Scaling | None:
        """Who says how many pods there are; None: nobody."""
        return scaling_of(self.runtime, settings, shared=not self.team)


def pool_objects(pool: Pool, settings: PoolSettings) -> Iterator[Spec]:
    """Deployment, Service, disruption budget, network policy, and an autoscaler where one is asked for."""
    yield _deployment(pool, settings)
    yield _object(
        pool, "v1", "Service", pool.name,
        spec={"selector": pool.selector, "ports": [_service_port()], "type": "ClusterIP"},
    )  # fmt: skip
    yield _object(
        pool, "policy/v1", "PodDisruptionBudget", pool.name,
        spec={"maxUnavailable": 1, "selector": {"matchLabels": pool.selector}},
    )  # fmt: skip
    if settings.network.enabled:
        yield _network_policy(pool, settings)
    scaling = pool.scaling(settings)
    if scaling is None:
        return
    if scaling.by == "KEDA" and pool.keda:
        spec = scaled_object(pool.namespace, pool.name, scaling, settings)
        yield _object(pool, "keda.sh/v1alpha1", SCALED_OBJECT, pool.name, spec=spec)
    else:
        spec = horizontal_pod_autoscaler(pool.name, scaling)
        yield _object(pool, "autoscaling/v2", HPA, pool.name, spec=spec)


def one_scaler(objects: Iterable[Spec], owned: Sequence[Stored]) -> list[Spec]:
    """Without a scaler for as long as one of the other kind is there: never do two scale the same pods."""
    there = {one.key.kind for one in owned if one.key.kind in SCALERS}
    return [o for o in objects if o["kind"] not in SCALERS or there <= {o["kind"]}]


def namespace_objects(
    namespace: str, identity: bytes, calls: Mapping[str, bytes] | None = None
) -> Iterator[Spec]:
    """What all pools of a namespace share: the tenant's keys, the account of the pods, the front Service.

    `calls`: by namespace, the key for calls of its teams.
    """
    pool = Pool(namespace=namespace)
    keys = {IDENTITY_KEY: identity, **{f"call-{owner}": key for owner, key in (calls or {}).items()}}
    # Not stringData: nobody would own it, and drift would stay.
    data = {name: base64.b64encode(key).decode() for name, key in keys.items()}
    yield _object(pool, "v1", "Secret", IDENTITY, type="Opaque", data=data)
    yield _object(pool, "v1", "ServiceAccount", SHARED_POOL, automountServiceAccountToken=False)
    read = ["get", "list", "watch"]
    kinds = ["agentteams", "knowledgebases", "modelconfigs"]
    rules = [
        {"apiGroups": ["agentteams.dev"], "resources": kinds, "verbs": read},
        {"apiGroups": ["apps"], "resources": ["controllerrevisions"], "verbs": read},
    ]
    yield _object(pool, "rbac.authorization.k8s.io/v1", "Role", SHARED_POOL, rules=rules)
    yield _object(
        pool, "rbac.authorization.k8s.io/v1", "RoleBinding", SHARED_POOL,
        roleRef={"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": SHARED_POOL},
        subjects=[{"kind": "ServiceAccount", "name": SHARED_POOL, "namespace": namespace}],
    )  # fmt: skip
    yield _object(
        pool, "v1", "Service", FRONT_SERVICE,
        spec={"selector": {_NAME: APP}, "ports": [_service_port()], "type": "ClusterIP"},
    )  # fmt: skip


def _object(pool: Pool, api_version: str, kind: str, name: str, **content: Any) -> Spec:
    mine = {TEAM_LABEL: pool.team} if pool.team else {POOL_LABEL: SHARED}
    metadata: Spec = {
        "name": name,
        "namespace": pool.namespace,
        "labels": {_NAME: APP, MANAGED_BY: MANAGER, **mine},
    }
    if pool.owner:
        metadata["ownerReferences"] = [dict(one) for one in pool.owner]
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **content}


def _deployment(pool: Pool, settings: PoolSettings) -> Spec:
    runtime = pool.runtime
    spec: Spec = {
        "selector": {"matchLabels": pool.selector},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
        "revisionHistoryLimit": 3,
        "template": {
            "metadata": {
                "labels": {**pool.selector, **PART_OF, MANAGED_BY: MANAGER},
                "annotations": _hashes(pool),
            },
            "spec": _pod(pool, settings),
        },
    }
    # Left out where an autoscaler decides it: else each would undo what the other did.
    if pool.scaling(settings) is None:
        default = settings.replicas if not pool.team else 1
        spec["replicas"] = default if runtime.replicas is None else runtime.replicas
    return _object(pool, "apps/v1", "Deployment", pool.name, spec=spec)


def _hashes(pool: Pool) -> dict[str, str]:
    found = {
        "agentteams.dev/secrets-hash": pool.secrets_hash,
        "agentteams.dev/identity-hash": pool.identity_hash,
    }
    return {name: value for name, value in found.items() if value}


def _pod(pool: Pool, settings: PoolSettings) -> Spec:
    runtime = pool.runtime
    grace_s = runtime.termination_grace_period_seconds or _GRACE_S
    pod: Spec = {
        "serviceAccountName": runtime.service_account_name or SHARED_POOL,
        "automountServiceAccountToken": True,
        "terminationGracePeriodSeconds": grace_s,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "runAsGroup": 65532,
            "fsGroup": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": key,
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": pool.selector},
            }
            for key in ("kubernetes.io/hostname", "topology.kubernetes.io/zone")
        ],
        "containers": [_container(pool, settings, grace_s)],
        "volumes": _volumes(pool),
    }
    if runtime.node_selector:
        pod["nodeSelector"] = dict(runtime.node_selector)
    if runtime.tolerations:
        pod["tolerations"] = [
            one.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=False)
            for one in runtime.tolerations
        ]
    return pod


def _container(pool: Pool, settings: PoolSettings, grace_s: int) -> Spec:
    resources = pool.runtime.resources
    environment = {
        **settings.environment,
        "AGENTTEAMS_HOST": "0.0.0.0",  # all addresses of the pod: a NetworkPolicy says who may come
        "AGENTTEAMS_PORT": str(PORT),
        "AGENTTEAMS_METRICS_PORT": str(METRICS_PORT),
        "AGENTTEAMS_MANIFESTS_CLUSTER": "true",
        "AGENTTEAMS_IDENTITY_KEY_FILE": f"{_IDENTITY_DIR}/{IDENTITY_KEY}",
        "AGENTTEAMS_SECRETS_DIR": _SECRETS,
        "AGENTTEAMS_TEAMS_TARGET": f"{{service}}.{{namespace}}.svc:{PORT}",
        "AGENTTEAMS_DRAIN_DELAY_S": "5",
        "AGENTTEAMS_GRACE_S": str(max(1, grace_s - _LAST_S)),
    }
    if pool.team:
        environment["AGENTTEAMS_POOL_TEAM"] = pool.team
    variables: list[Spec] = [{"name": name, "value": value} for name, value in sorted(environment.items())]
    ip = {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.podIP"}}
    variables.insert(0, {"name": "POD_IP", "valueFrom": ip})  # before what refers to it
    variables.append({"name": "AGENTTEAMS_ADVERTISE_ADDRESS", "value": f"$(POD_IP):{PORT}"})
    probe = {"grpc": {"port": PORT, "service": ""}, "timeoutSeconds": 5}
    return {
        "name": "orchestrator",
        "image": settings.image,
        "imagePullPolicy": settings.pull_policy,
        "env": variables,
        "ports": [
            {"name": "grpc", "containerPort": PORT, "protocol": "TCP"},
            {"name": "metrics", "containerPort": METRICS_PORT, "protocol": "TCP"},
        ],
        "startupProbe": {**probe, "periodSeconds": 1, "failureThreshold": 60},
        "readinessProbe": {**probe, "periodSeconds": 5, "failureThreshold": 2},
        "livenessProbe": {
            "tcpSocket": {"port": PORT},
            "periodSeconds": 20,
            "timeoutSeconds": 5,
            "failureThreshold": 3,
        },
        "resources": {
            "requests": {**settings.requests, **resources.requests},
            "limits": {**settings.limits, **resources.limits},
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "identity", "mountPath": _IDENTITY_DIR, "readOnly": True},
            {"name": "secrets", "mountPath": _SECRETS, "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},
        ],
    }


def _volumes(pool: Pool) -> list[Spec]:
    names = sorted({name for name, _ in pool.secrets})
    sources = [
        {
            "secret": {
                "name": name,
                "items": [{"key": key, "path": f"{name}/{key}"} for n, key in pool.secrets if n == name],
                # One that is missing is a condition of its own; the other teams go on.
                "optional": True,
            }
        }
        for name in names
    ]
    return [
        {"name": "identity", "secret": {"secretName": IDENTITY, "defaultMode": 0o440}},
        {"name": "secrets", "projected": {"sources": sources, "defaultMode": 0o440}},
        {"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}},
    ]


def _network_policy(pool: Pool, settings: PoolSettings) -> Spec:
    installation = {"matchLabels": {"kubernetes.io/metadata.name": settings.system_namespace}}

    def system(name: str) -> Spec:
        """Pods of the chart."""
        return {"namespaceSelector": installation, "podSelector": {"matchLabels": {**PART_OF, _NAME: name}}}

    orchestrators = {"podSelector": {"matchLabels": {_NAME: APP}}}
    grpc, metrics = {"port": PORT, "protocol": "TCP"}, {"port": METRICS_PORT, "protocol": "TCP"}
    dns = [{"port": 53, "protocol": protocol} for protocol in ("UDP", "TCP")]
    allowed = settings.network
    ingress: list[Spec] = [
        {"from": [system("gateway"), system("evaluation"), orchestrators], "ports": [grpc]}
    ]
    egress: list[Spec] = [
        *(
            {"to": [system(name)], "ports": [{"port": port, "protocol": "TCP"}]}
            for name, port in _SERVICES.items()
        ),
        {"to": [{"podSelector": {}}]},  # other orchestrators, and MCP servers of the namespace
    ]
    # A rule without peers would let everybody through.
    if allowed.metrics_from:
        ingress.append({"from": list(allowed.metrics_from), "ports": [metrics]})
    if allowed.dns:
        egress.insert(0, {"to": list(allowed.dns), "ports": dns})
    if allowed.model_endpoints:
        egress.append({"to": [{"ipBlock": block} for block in allowed.model_endpoints]})
    spec = {
        "podSelector": {"matchLabels": pool.selector},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": ingress,
        "egress": egress,
    }
    return _object(pool, "networking.k8s.io/v1", "NetworkPolicy", pool.name, spec=spec)


def _service_port() -> Spec:
    return {"name": "grpc", "port": PORT, "targetPort": "grpc", "protocol": "TCP", "appProtocol": "grpc"}


def digest(value: object) -> str:
    """16 hex digits of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
