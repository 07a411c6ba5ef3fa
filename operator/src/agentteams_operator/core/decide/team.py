"""An AgentTeam: what serves, what would, and what is missing."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from agentteams_operator.core.conditions import Verdict, conditions, no, ready, unknown, yes
from agentteams_operator.core.decide.allowed import accepted, allowed_status
from agentteams_operator.core.decide.model_config import resolved_refs, secret_hash
from agentteams_operator.core.objects import KNOWLEDGE, MODEL, Key, Stored, rolled_out
from agentteams_operator.core.outcome import Event, Outcome, transitions
from agentteams_operator.core.reading import Read
from agentteams_operator.specs.pool import Pool, one_scaler, pool_objects
from agentteams_operator.specs.revision import controller_revision, numbers, owner_reference, revision_name
from agentteams_operator.specs.scaling import HPA, SCALED_OBJECT, scaling_of
from agentteams_operator.specs.settings import PoolSettings
from manifests import AgentTeam

HISTORY = 10
_AGAIN_S, _NO_KEDA_S = 600.0, 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedServing:
    """What is known of the revision that serves, which is not the newest. Attributes as of ObservedTeam."""

    secrets: Mapping[str, Stored]
    keys: Sequence[tuple[str, str]]
    broken: Sequence[tuple[str, str]]
    models: Sequence[Stored]
    knowledge: Sequence[Stored]


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedTeam:
    """What is known of an AgentTeam.

    Attributes:
        models: The ModelConfigs that it can reach and that are there.
        knowledge: Likewise its KnowledgeBases.
        owned: What the operator made for it.
        pool: The Deployment that serves it; None: it is not there yet.
        pool_secrets: Name and key of all that its own pods have mounted.
        serving: Of the revision that serves, if it is another one.
        compiled: The team with the texts of ConfigMaps, whose spec a revision has; None: as it is written.
        keda: Whether the cluster has KEDA.
        allowed: Tenants that may ask it, besides its own.
        incomplete: A text is missing, so that nobody can tell the revision.
        missing: Kinds of which something that it names is not there, or must not be used.
    """

    one: Stored
    read: Read
    secrets: Mapping[str, Stored]
    keys: Sequence[tuple[str, str]]
    broken: Sequence[tuple[str, str]]
    models: Sequence[Stored]
    knowledge: Sequence[Stored]
    owned: Sequence[Stored]
    pool: Stored | None
    pool_secrets: Sequence[tuple[str, str]] = ()
    pool_secrets_hash: str = ""
    serving: ObservedServing | None = None
    compiled: Stored | None = None
    incomplete: bool = False
    missing: Collection[str] = ()
    keda: bool = False
    allowed: Sequence[str] = ()

    @property
    def wanted(self) -> AgentTeam | None:
        """What is asked for; None: nobody can tell, or it is not allowed."""
        team = self.read.resource
        known = isinstance(team, AgentTeam) and not self.incomplete and not self.read.over
        return team if isinstance(team, AgentTeam) and known else None


def decide_team(seen: ObservedTeam, settings: PoolSettings, now: datetime) -> Outcome:
    """Revision, own pods, status."""
    one, team = seen.one, seen.wanted
    before = one.status
    parts = (
        accepted(seen.read, seen.allowed),
        resolved_refs(one.key.namespace, seen.secrets, seen.keys, seen.broken),
        _others_ready("ModelsReady", "ModelNotReady", seen.models, missing=MODEL in seen.missing),
        _others_ready(
            "KnowledgeReady", "KnowledgeNotReady", seen.knowledge, missing=KNOWLEDGE in seen.missing
        ),
    )
    wanted = team.revision if team is not None else before.get("updatedRevision", "")
    can_serve = team is not None and all(part.holds for part in parts)
    current = wanted if can_serve else before.get("currentRevision", "")
    progressing = _progressing(seen, current, parts)
    status: dict[str, Any] = {"observedGeneration": one.generation}
    if current:
        status["currentRevision"] = current
    if wanted:
        status["updatedRevision"] = wanted
    status["members"] = len(one.spec.get("members") or ())
    if seen.keys:
        status["secretHash"] = secret_hash(seen.secrets, seen.keys)
    status |= _replicas(seen, team)
    status |= allowed_status(seen.allowed)
    verdicts = [*parts, progressing, *_scaled(seen, team, settings), _ready(seen, wanted, current, parts)]
    status["conditions"] = conditions(
        verdicts, before.get("conditions", ()), generation=one.generation, now=now
    )
    objects, gone = _objects(seen, settings, wanted, current)
    return Outcome(
        status=status,
        objects=tuple(objects),
        gone=tuple(gone),
        events=_events(before, status),
        again_s=_NO_KEDA_S if any(v.reason == "KedaNotInstalled" for v in verdicts) else _AGAIN_S,
    )


def _others_ready(kind: str, reason: str, others: Sequence[Stored], *, missing: bool = False) -> Verdict:
    waiting = [one for one in others if one.condition("Ready").get("status") != "True"]
    if not waiting and missing:
        return unknown(kind, "NotAsked", "one that is named is not there, or not for this namespace")
    if not waiting:
        return yes(kind, "AllReady" if others else "NoneNeeded")
    first = waiting[0]
    why = first.condition("Ready")
    told = f"{why['reason']}: {why['message']}" if why else "the operator has not looked at it yet"
    more = f" (and {len(waiting) - 1} more)" if len(waiting) > 1 else ""
    return no(kind, reason, f'{first.key.kind} "{first.key.name}" is not ready: {told}{more}')


def _progressing(seen: ObservedTeam, current: str, parts: Sequence[Verdict]) -> Verdict:
    missing = next((part for part in parts if not part.holds), None)
    if missing is not None:
        return no("Progressing", "Waiting", f"{missing.type} is not True: {missing.message}")
    if seen.pool is None or not rolled_out(seen.pool):
        return yes("Progressing", "RollingOut", "pods of the orchestrator are made or replaced")
    return no("Progressing", "UpToDate", f"revision {current} serves")


def _ready(seen: ObservedTeam, wanted: str, current: str, parts: Sequence[Verdict]) -> Verdict:
    if seen.one.spec.get("suspend"):
        return no("Ready", "Suspended", "spec.suspend: the team begins no runs; set it to false")
    missing = next((part for part in parts if not part.holds), None)
    if missing is not None and (not current or (current == wanted and seen.wanted is not None)):
        return ready(parts, "")  # there is no other revision that could serve instead
    lost = _lost(seen) if missing is not None else None
    if missing is not None and lost is not None:
        words = f"revision {current}, the last good one, cannot serve either: {lost.message}; "
        return no("Ready", lost.reason, f"{words}the newest waits: {missing.message}")
    if seen.pool is None or not seen.pool.status.get("availableReplicas"):
        where = "the orchestrator" if seen.pool is None else f"Deployment {seen.pool.key.name}"
        return no("Ready", "NoReplica", f"no pod of {where} is ready; kubectl get pods says why")
    if missing is not None:
        return yes(
            "Ready", "LastGoodServes", f"revision {current} serves; the newest waits: {missing.message}"
        )
    return yes("Ready", "Ready", f"revision {current} serves")


def _scaled(seen: ObservedTeam, team: AgentTeam | None, settings: PoolSettings) -> Sequence[Verdict]:
    if team is None or team.spec.runtime is None:
        return ()
    wanted = scaling_of(team.spec.runtime, settings, shared=False)
    if wanted is None:
        return ()
    if wanted.by == "KEDA" and not seen.keda:
        words = (
            "the cluster has no ScaledObjects of keda.sh/v1alpha1, so that a HorizontalPodAutoscaler scales "
            "instead; install KEDA, or set spec.runtime.autoscaling.type: HPA"
        )
        return [no("Autoscaled", "KedaNotInstalled", words)]
    return [yes("Autoscaled", SCALED_OBJECT if wanted.by == "KEDA" else HPA)]


def _lost(seen: ObservedTeam) -> Verdict | None:
    """What the serving revision itself has lost."""
    served = seen.serving
    if served is None:
        return None
    parts = (
        resolved_refs(seen.one.key.namespace, served.secrets, served.keys, served.broken),
        _others_ready("ModelsReady", "ModelNotReady", served.models),
        _others_ready("KnowledgeReady", "KnowledgeNotReady", served.knowledge),
    )
    return next((part for part in parts if not part.holds), None)


def _replicas(seen: ObservedTeam, team: AgentTeam | None) -> dict[str, Any]:
    """For the scale subresource: of its own pods only."""
    if team is None or team.spec.runtime is None:
        return {}
    found = seen.pool.status if seen.pool is not None else {}
    selector = Pool(namespace=seen.one.key.namespace, team=seen.one.key.name).selector
    return {
        "replicas": found.get("replicas", 0),
        "readyReplicas": found.get("readyReplicas", 0),
        "selector": ",".join(f"{name}={value}" for name, value in sorted(selector.items())),
    }


def _objects(
    seen: ObservedTeam, settings: PoolSettings, wanted: str, current: str
) -> tuple[list[dict[str, Any]], list[Key]]:
    one, team = seen.one, seen.wanted
    revisions = [o for o in seen.owned if o.key.kind == "ControllerRevision"]
    if team is None:
        return [], []  # what there is goes on, until somebody can tell what is wanted
    name = revision_name(one.key.name, wanted)
    known = numbers(revisions)
    highest = max(known.values(), default=0)
    number = known[name] if name in known and known[name] == highest else highest + 1
    objects = [controller_revision(seen.compiled or one, wanted, number)]
    if team.spec.runtime is not None:
        pool = Pool(
            namespace=one.key.namespace,
            team=one.key.name,
            owner=[owner_reference(one)],
            runtime=team.spec.runtime,
            secrets=seen.pool_secrets,
            secrets_hash=seen.pool_secrets_hash,
            keda=seen.keda,
        )
        objects += one_scaler(pool_objects(pool, settings), seen.owned)
    kept = {name, revision_name(one.key.name, current)}
    old = sorted((o for o in revisions if o.key.name not in kept), key=lambda o: known[o.key.name])
    gone = [o.key for o in old[: max(0, len(old) + len(kept) - HISTORY)]]
    made = {(o["kind"], o["metadata"]["name"]) for o in objects}
    gone += [
        o.key
        for o in seen.owned
        if o.key.kind != "ControllerRevision" and (o.key.kind, o.key.name) not in made
    ]
    return objects, gone


def _events(before: Mapping[str, Any], status: Mapping[str, Any]) -> tuple[Event, ...]:
    told = list(transitions(before, status))
    was, now = before.get("currentRevision"), status.get("currentRevision")
    if was and now and was != now:
        told.append(Event("RevisionServing", f"revision {now} serves instead of {was}"))
    if before.get("secretHash", status.get("secretHash")) != status.get("secretHash"):
        told.append(Event("SecretRotated", "a Secret that the team names has changed"))
    return tuple(told)
