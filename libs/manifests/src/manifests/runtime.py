"""Where a team's runs are worked on. For clusters; local mode has one process for all teams."""

import hashlib
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from manifests.base import (
    LABEL_KEY_PATTERN,
    LABEL_VALUE_PATTERN,
    QUANTITY_PATTERN,
    Model,
    Name,
    Violation,
    refuse,
)
from manifests.cel import Cel, Schema

LabelKey = Annotated[str, StringConstraints(pattern=LABEL_KEY_PATTERN), Schema((("maxLength", 317),))]
LabelValue = Annotated[str, StringConstraints(pattern=LABEL_VALUE_PATTERN), Schema((("maxLength", 63),))]
Quantity = Annotated[str, StringConstraints(pattern=QUANTITY_PATTERN, max_length=32)]


FRONT_SERVICE = "agentteams-orchestrator"
"""The Kubernetes Service of all orchestrators of a namespace: any of them answers for every team."""
SHARED_POOL = "agentteams-pool"
"""The Deployment and Service of the orchestrators that teams without a runtime share."""
_MAX_NAME = 60  # pods and ReplicaSets add to it


def pool_name(team: str) -> str:
    """The Deployment and Service of a team's own orchestrators."""
    name = f"at-{team}"
    if len(name) <= _MAX_NAME:
        return name
    return f"{name[: _MAX_NAME - 9]}-{hashlib.sha256(team.encode()).hexdigest()[:8]}"


class Autoscaling(Model):
    """How many pods, by the runs that they work on."""

    cel: ClassVar[tuple[Cel, ...]] = (
        Cel(
            "self.minReplicas <= self.maxReplicas",
            "must not be more than maxReplicas; lower minReplicas or raise maxReplicas",
            ".minReplicas",
        ),
    )

    type: Literal["HPA", "KEDA"] | None = Field(
        default=None,
        description="Who scales: a HorizontalPodAutoscaler, which needs an adapter that serves the metric "
        "agentteams_active_runs of pods, or a ScaledObject of KEDA, which asks Prometheus. Default: what the "
        "installation says.",
    )
    min_replicas: int = Field(default=1, ge=1, le=1000, description="Fewest pods.")
    max_replicas: int = Field(ge=1, le=1000, description="Most pods.")
    target_active_runs: int = Field(
        default=20, ge=1, le=10_000, description="Active runs of one pod at which another one is added."
    )

    @model_validator(mode="after")
    def _rules(self) -> Self:
        if self.min_replicas > self.max_replicas:
            refuse(
                [
                    Violation(
                        ("minReplicas",),
                        f"minReplicas ({self.min_replicas}) is more than maxReplicas ({self.max_replicas})",
                        "lower minReplicas or raise maxReplicas",
                    )
                ]
            )
        return self


class Resources(Model):
    """What a pod asks for and may take, as in Kubernetes: cpu, memory."""

    requests: dict[Literal["cpu", "memory", "ephemeral-storage"], Quantity] = Field(
        default_factory=dict, description='What a pod is given at least, such as cpu: "250m".'
    )
    limits: dict[Literal["cpu", "memory", "ephemeral-storage"], Quantity] = Field(
        default_factory=dict, description='What a pod may take at most, such as memory: "512Mi".'
    )


class Toleration(Model):
    """A taint that pods of the team put up with."""

    cel: ClassVar[tuple[Cel, ...]] = (
        Cel(
            "self.operator != 'Exists' || !has(self.value) || self.value == ''",
            "must be empty with operator Exists; remove value",
            ".value",
        ),
        Cel(
            "self.operator != 'Equal' || has(self.key)",
            "is needed with operator Equal; add key, or use Exists",
            ".key",
        ),
        Cel(
            "!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
            "is for effect NoExecute only; remove it, or set the effect",
            ".tolerationSeconds",
        ),
    )

    key: LabelKey | None = Field(default=None, description="The taint's key; absent: every key.")
    operator: Literal["Equal", "Exists"] = Field(default="Equal", description="As in Kubernetes.")
    value: LabelValue = Field(default="", description="With Equal: the taint's value.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        default=None, description="Absent: every effect."
    )
    toleration_seconds: int | None = Field(
        default=None, ge=0, le=2_592_000, description="With NoExecute: how long. Absent: for ever."
    )


class Runtime(Model):
    """Pods of the team's own."""

    cel: ClassVar[tuple[Cel, ...]] = (
        Cel(
            "!has(self.replicas) || !has(self.autoscaling)",
            "must not be set together with autoscaling, which decides it; remove replicas, or autoscaling",
            ".replicas",
        ),
    )

    replicas: int | None = Field(
        default=None, ge=0, le=1000, description="Pods. Default: 1. Not together with autoscaling."
    )
    autoscaling: Autoscaling | None = Field(default=None, description="Lets the load say how many pods.")
    service_account_name: Name | None = Field(
        default=None, description="A ServiceAccount of the namespace. Default: one that is made for the team."
    )
    resources: Resources = Field(default_factory=Resources, description="Of each pod.")
    node_selector: dict[LabelKey, LabelValue] = Field(
        default_factory=dict, max_length=32, description="Labels that nodes must have."
    )
    tolerations: tuple[Toleration, ...] = Field(
        default=(), max_length=32, description="Taints of nodes that pods put up with."
    )
    termination_grace_period_seconds: int = Field(
        default=60,
        ge=10,
        le=86_400,
        description="How long a pod that ends may go on with its runs. What is left then goes on in others.",
    )

    @model_validator(mode="after")
    def _rules(self) -> Self:
        refuse(self._violations())
        return self

    def _violations(self) -> Iterator[Violation]:
        if self.replicas is not None and self.autoscaling is not None:
            yield Violation(
                ("replicas",),
                "must not be set together with autoscaling, which decides it",
                "remove replicas, or autoscaling",
            )
        for index, toleration in enumerate(self.tolerations):
            at = ("tolerations", index)
            if toleration.operator == "Exists" and toleration.value:
                yield Violation((*at, "value"), "must be empty with operator Exists", "remove value")
            if toleration.operator == "Equal" and toleration.key is None:
                yield Violation((*at, "key"), "is needed with operator Equal", "add key, or use Exists")
            if toleration.toleration_seconds is not None and toleration.effect != "NoExecute":
                yield Violation(
                    (*at, "tolerationSeconds"), "is for effect NoExecute only", "remove it, or set the effect"
                )
