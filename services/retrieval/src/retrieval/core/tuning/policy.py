"""When an index is looked at, and when it should be another one."""

import json
from datetime import datetime

import capacity
from retrieval.core.index import DEFAULT_INDEX, BuiltIndex, IndexPolicy
from retrieval.core.model import IndexType
from retrieval.core.tuning.model import Candidate, Kind, TuningLimits, TuningState

_GROWN = 2
_FIRST_ROWS = 10_000


def policy_text(policy: IndexPolicy) -> str:
    """To see whether it has changed: what tuning depends on."""
    return json.dumps(
        {
            "type": policy.type,
            "build": dict(policy.build_params),
            "search": dict(policy.search_params),
            "target": policy.target_recall_percent,
        },
        sort_keys=True,
    )


def why_due(
    candidate: Candidate, policy: IndexPolicy, *, limits: TuningLimits, now: datetime
) -> tuple[Kind, str] | None:
    """What is to be done now, and why; None: nothing."""
    waits = candidate.check_time is not None and candidate.check_time > now
    changed = bool(candidate.policy) and candidate.policy != policy_text(policy)
    why = None
    if candidate.state in (TuningState.PENDING, TuningState.RUNNING):
        pass
    elif changed:
        why = Kind.TUNE, "the index policy was changed"
    elif candidate.state == TuningState.FAILED and waits:
        pass
    elif not candidate.policy and policy.type is not None:
        why = Kind.TUNE, "the index policy names a type"
    elif not policy.tuning_off and candidate.chunks >= limits.min_chunks:
        why = _why_measured(candidate) or (None if waits else (Kind.CHECK, "checked as scheduled"))
    return why


def _why_measured(candidate: Candidate) -> tuple[Kind, str] | None:
    """What was measured does not hold any more."""
    measured = candidate.measured
    if measured is None:
        return Kind.TUNE, "never tuned before"
    if measured.collection != candidate.knowledge_base.collection:
        return Kind.TUNE, "the collection is another one"
    if candidate.chunks >= _GROWN * max(1, measured.chunk_count):
        return Kind.TUNE, f"grown from {measured.chunk_count:,} to {candidate.chunks:,} chunks"
    return None


def wanted_index(
    policy: IndexPolicy, built: BuiltIndex, *, rows: int, segment_rows: int
) -> tuple[BuiltIndex, str] | None:
    """Another index than the one that is built, and why; None: it may stay."""
    recall = policy.target_recall_percent / 100
    if policy.type is not None:
        params = policy.build_params or _params(policy.type, segment_rows, recall)
        if policy.type != built.type:
            asked = f"the index policy asks for {policy.type.name}, not {built.type.name}"
            return BuiltIndex(type=policy.type, build_params=params), asked
        for name, value in policy.build_params.items():
            if built.build_params.get(name) != value:
                shown = (
                    f"the index policy asks for {name} {value}, not {built.build_params.get(name, 'unset')}"
                )
                return BuiltIndex(type=policy.type, build_params=params), shown
        if policy.build_params:
            return None
    why = capacity.outgrown(
        capacity.IndexType(built.type), built.build_params, rows=rows, segment_rows=segment_rows
    )
    if not why:
        return None
    type_ = built.type
    if type_ == IndexType.FLAT:
        if policy.type == IndexType.FLAT:
            return None
        type_ = IndexType(capacity.choose_index(rows=rows, recall=recall)[0])
    return BuiltIndex(type=type_, build_params=_params(type_, segment_rows, recall)), why


def first_index(policy: IndexPolicy) -> BuiltIndex:
    """Of a collection that is still empty; what does not fit it later is built anew."""
    if policy.type is None:
        return DEFAULT_INDEX
    return BuiltIndex(
        type=policy.type, build_params=policy.build_params or _params(policy.type, _FIRST_ROWS, 0.95)
    )


def fits(wanted: BuiltIndex, built: BuiltIndex) -> bool:
    """Whether the store has built what it was asked for."""
    return wanted.type == built.type and all(
        built.build_params.get(name, value) == value for name, value in wanted.build_params.items()
    )


def _params(type_: IndexType, segment_rows: int, recall: float) -> dict[str, int]:
    return capacity.build_params(capacity.IndexType(type_), segment_rows=segment_rows, recall=recall)
