"""A KnowledgeBase: what the retrieval service has of it, and what is left outside when it goes."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from agentteams_operator.core.conditions import Verdict, conditions, no, ready, unknown, yes
from agentteams_operator.core.decide.model_config import resolved_refs
from agentteams_operator.core.decide.quality import (
    capacity_figures,
    index_figures,
    quality_events,
    quality_figures,
    quality_verdict,
)
from agentteams_operator.core.objects import Stored
from agentteams_operator.core.outcome import Event, Outcome, transitions
from agentteams_operator.core.ports import KnowledgeState
from agentteams_operator.core.reading import Read

FINALIZER = "agentteams.dev/knowledge"
TIMEOUT_ANNOTATION = "agentteams.dev/deletion-timeout-seconds"
DELETION_TIMEOUT_S = 3600.0
_MOST_DIGITS = 7
_QUIET_S, _WATCHED_S, _BUSY_S, _FAILED_S = 600.0, 60.0, 10.0, 15.0
_FIGURES = (
    "documents", "chunks", "deployment", "embedding", "ingestion", "index", "quality", "segments", "memory"
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedKnowledge:
    """What is known of a KnowledgeBase.

    Attributes:
        state: What the retrieval service says; None: it was not asked, or did not answer.
        refused: Why the retrieval service refuses the spec.
        silent: Why it does not answer.
        golden_set_problem: Why it did not get the golden set; a reason, and words.
    """

    one: Stored
    read: Read
    broken: Sequence[tuple[str, str]] = ()
    state: KnowledgeState | None = None
    refused: str = ""
    silent: str = ""
    golden_set_problem: tuple[str, str] | None = None

    @property
    def watched(self) -> bool:
        """Whether its quality is."""
        return bool(self.one.spec.get("evaluation"))


def wants_deletion(one: Stored) -> bool:
    """Whether what lies outside the cluster goes with the object."""
    return bool(one.spec.get("deletionPolicy") == "Delete")


def decide_knowledge(seen: ObservedKnowledge, now: datetime) -> Outcome:
    """The status of a KnowledgeBase, and whether its deletion waits for the retrieval service."""
    one, state = seen.one, seen.state
    parts = (
        no("Accepted", "Refused", seen.refused) if seen.refused else seen.read.accepted,
        resolved_refs(one.key.namespace, {}, (), seen.broken),
        _connected(seen),
    )
    verdicts = [*parts, *(_state_verdicts(state) if state is not None else ())]
    unset = seen.golden_set_problem
    if unset is not None and parts[1].holds:
        # Not one of `parts`: searches need no golden set.
        verdicts[1] = no("ResolvedRefs", *unset)
    if seen.watched:
        verdicts.append(quality_verdict(state, unset))
    message = f"{state.documents} documents can be found" if state is not None else ""
    verdicts.append(ready(parts, message))
    status: dict[str, Any] = {"observedGeneration": one.generation}
    if state is not None:
        status |= _figures(state)
    else:
        status |= {field: one.status[field] for field in _FIGURES if field in one.status}
    status["conditions"] = conditions(
        verdicts, one.status.get("conditions", ()), generation=one.generation, now=now
    )
    again_s = _QUIET_S
    if seen.silent or seen.refused:
        again_s = _FAILED_S
    elif state is not None and (state.pending or state.tuning or _soon_evaluated(seen)):
        again_s = _BUSY_S
    elif seen.watched:
        again_s = _WATCHED_S
    return Outcome(
        status=status,
        finalizers=(FINALIZER,) if wants_deletion(one) else (),
        events=(*transitions(one.status, status), *quality_events(one.status, status)),
        again_s=again_s,
    )


def decide_deletion(one: Stored, failure: str, now: datetime) -> Outcome:
    """After the retrieval service was told to delete: empty failure means it did, or there was nothing."""
    if not failure:
        return Outcome(finalizers=())
    deleted = datetime.fromisoformat(str(one.deleted_at))
    timeout_s, wrong = _timeout_s(one)
    if now - deleted >= timedelta(seconds=timeout_s):
        message = (
            f"after {timeout_s:.0f} s its documents and vectors are left where they are ({failure}); make a "
            "KnowledgeBase of the same name with deletionPolicy: Delete and delete it, to be rid of them"
        )
        return Outcome(finalizers=(), events=(Event("KeptOutside", message, "Warning"),))
    waits = no("Ready", "DeletionWaits", f"its documents could not be deleted yet: {failure}{wrong}")
    status = {key: value for key, value in one.status.items() if key != "conditions"}
    before = one.status.get("conditions", ())
    others = [c for c in before if c.get("type") != "Ready"]
    status["conditions"] = [
        *others, *conditions([waits], before, generation=one.generation, now=now)
    ]  # fmt: skip
    return Outcome(status=status, events=transitions(one.status, status), again_s=_BUSY_S)


def _timeout_s(one: Stored) -> tuple[float, str]:
    """How long a deletion may wait, and what is wrong with what the object says about it."""
    said = one.annotations.get(TIMEOUT_ANNOTATION)
    if said is None:
        return DELETION_TIMEOUT_S, ""
    if said.isascii() and said.isdigit() and len(said) <= _MOST_DIGITS:  # and never for ever
        return float(said), ""
    words = f'annotation {TIMEOUT_ANNOTATION} is "{said[:40]}", which is no number of seconds below 10000000'
    return DELETION_TIMEOUT_S, f"; {words}, so that it waits for {DELETION_TIMEOUT_S:.0f} s at most"


def _connected(seen: ObservedKnowledge) -> Verdict:
    if seen.silent:
        return no("Connected", "NoAnswer", f"{seen.silent}; see the retrieval service and its Milvus")
    if seen.state is None:
        return unknown("Connected", "NotAsked", "not asked before the rest is in order")
    return yes("Connected", "Connected", seen.state.deployment)


def _state_verdicts(state: KnowledgeState) -> Sequence[Verdict]:
    index = yes("IndexReady", "Built")
    if state.tuning:
        index = yes("IndexReady", "Tuning", "it is being measured; searches go on")
    elif state.tuning_failure:
        index = yes("IndexReady", "TuningFailed", f"the former parameters stay: {state.tuning_failure}")
    at_risk = (
        yes("CapacityAtRisk", "WillNotFit", state.capacity_advice)
        if state.capacity_advice
        else no("CapacityAtRisk", "Fits", "")
    )
    return index, at_risk


def _figures(state: KnowledgeState) -> dict[str, Any]:
    return {
        "documents": state.documents,
        "chunks": state.chunks,
        "deployment": state.deployment,
        "embedding": {
            "model": state.model,
            "dimensions": state.dimensions,
            "fingerprint": state.fingerprint,
        },
        "ingestion": {"pending": state.pending, "failed": state.failed, "lastError": state.last_error},
        **({"index": index_figures(state.index)} if state.index is not None else {}),
        **({"quality": quality_figures(state.quality)} if state.quality is not None else {}),
        **capacity_figures(state),
    }


def _soon_evaluated(seen: ObservedKnowledge) -> bool:
    """Whether scores are under way: there is a golden set, and documents."""
    if not seen.watched or seen.state is None or seen.golden_set_problem is not None:
        return False
    quality = seen.state.quality
    return quality is None or (quality.evaluated_at is None and seen.state.documents > 0)
