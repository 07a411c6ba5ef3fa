"""A ModelConfig: is it valid, are its references there, does its endpoint answer."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from agentteams_operator.core.conditions import Verdict, conditions, no, ready, unknown, yes
from agentteams_operator.core.decide.allowed import accepted, allowed_status
from agentteams_operator.core.objects import SECRET, Key, Stored
from agentteams_operator.core.outcome import Outcome, transitions
from agentteams_operator.core.ports import Probe
from agentteams_operator.core.reading import Read

PROBE_S = 600.0
PROBE_FAILED_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedModel:
    """What is known of a ModelConfig.

    Attributes:
        secrets: The Secrets that it names: those that are there.
        keys: Name and key of all that it takes from Secrets.
        broken: What is wrong with its fallbacks, in words; each with its reason.
        probe: How the endpoint answered; None: it was not asked, since something is missing.
        allowed: Tenants that may use it, besides its own.
    """

    one: Stored
    read: Read
    secrets: Mapping[str, Stored]
    keys: Sequence[tuple[str, str]]
    broken: Sequence[tuple[str, str]] = ()
    probe: Probe | None = None
    allowed: Sequence[str] = ()


def decide_model(seen: ObservedModel, now: datetime) -> Outcome:
    """The status of a ModelConfig."""
    resolved = resolved_refs(seen.one.key.namespace, seen.secrets, seen.keys, seen.broken)
    parts = (accepted(seen.read, seen.allowed), resolved, _reachable(seen))
    verdicts = (*parts, ready(parts, "The endpoint answers."))
    generation = seen.one.generation
    status: dict[str, Any] = {
        "observedGeneration": generation,
        "conditions": conditions(
            verdicts, seen.one.status.get("conditions", ()), generation=generation, now=now
        ),
    }
    status |= allowed_status(seen.allowed)
    if seen.keys:
        status["secretHash"] = secret_hash(seen.secrets, seen.keys)
    if seen.probe is not None and seen.probe.dimensions is not None:
        status["probedDimensions"] = seen.probe.dimensions
    reached = seen.probe is not None and seen.probe.reached
    return Outcome(
        status=status,
        events=transitions(seen.one.status, status),
        again_s=PROBE_S if reached or seen.probe is None else PROBE_FAILED_S,
    )


def resolved_refs(
    namespace: str,
    secrets: Mapping[str, Stored],
    keys: Sequence[tuple[str, str]],
    broken: Sequence[tuple[str, str]],
) -> Verdict:
    """The condition ResolvedRefs."""
    for name, key in keys:
        found = secrets.get(name)
        if found is None:
            message = f'no Secret "{name}" in namespace "{namespace}"; create it with the key "{key}"'
            return no("ResolvedRefs", "SecretNotFound", message)
        if key not in found.hashes:
            have = ", ".join(sorted(found.hashes)) or "nothing"
            message = f'the Secret "{name}" has no key "{key}", but {have}; add it, or name one of those'
            return no("ResolvedRefs", "SecretKeyNotFound", message)
    if broken:
        reason, message = broken[0]
        more = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
        return no("ResolvedRefs", reason, message + more)
    return yes("ResolvedRefs", "AllFound")


def secret_hash(secrets: Mapping[str, Stored], keys: Sequence[tuple[str, str]]) -> str:
    """16 hex digits that change with any of the values."""
    parts = [
        f"{name}/{key}={secrets[name].hashes.get(key, '') if name in secrets else ''}"
        for name, key in sorted(set(keys))
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def secrets_of(names: Sequence[tuple[str, str]], namespace: str) -> list[Key]:
    """The Secrets that are named."""
    return [Key(SECRET, namespace, name) for name in sorted({name for name, _ in names})]


def _reachable(seen: ObservedModel) -> Verdict:
    probe = seen.probe
    if probe is None:
        return unknown("Reachable", "NotProbed", "not asked before the rest is in order")
    wanted = seen.one.spec.get("embedding", {}).get("dimensions")
    if probe.reached and wanted and probe.dimensions and probe.dimensions != wanted:
        message = (
            f"spec.embedding.dimensions: is {wanted}, and the endpoint's vectors have {probe.dimensions}; "
            "correct it, or leave it out"
        )
        return no("Reachable", "DimensionMismatch", message)
    return Verdict("Reachable", "True" if probe.reached else "False", probe.reason, probe.message)
