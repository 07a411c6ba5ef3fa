"""When an index is looked at, and when it should be another one."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from retrieval.core.index import BuiltIndex, IndexPolicy
from retrieval.core.model import (
    Chunking,
    IndexType,
    KnowledgeBase,
    KnowledgeBaseSpec,
    SearchMode,
)
from retrieval.core.tuning.model import Candidate, Kind, Measurement, TuningLimits, TuningState
from retrieval.core.tuning.policy import fits, policy_text, wanted_index, why_due

NOW = datetime(2026, 1, 1, tzinfo=UTC)
KB = KnowledgeBase(
    tenant="default",
    id="kb",
    spec=KnowledgeBaseSpec(embedding_model="models/m", chunking=Chunking(), search_mode=SearchMode.DENSE),
    dimension=8,
    model_fingerprint="f1",
    revision=1,
    alias="alias",
    collection="c1",
    create_time=NOW,
)
HNSW = BuiltIndex(type=IndexType.HNSW, build_params={"M": 16})
LATER, EARLIER = NOW + timedelta(hours=1), NOW - timedelta(hours=1)
AUTO, MANUAL = IndexPolicy(), IndexPolicy(type=IndexType.IVF_FLAT)


def measured(**more: Any) -> Measurement:
    return replace(
        Measurement(
            collection="c1",
            index=HNSW,
            search_params={"ef": 64},
            chunk_count=3_000,
            segments=1,
            queries=10,
            real_queries=0,
            recall=0.96,
            p50_s=0.001,
            p99_s=0.002,
            curve=(),
            message="",
        ),
        **more,
    )


@pytest.mark.parametrize(
    ("chunks", "state", "result", "tuned_with", "check", "policy", "expected"),
    [
        (1_999, None, None, None, None, AUTO, None),
        (2_000, None, None, None, None, AUTO, "never tuned before"),
        (5_000, TuningState.PENDING, None, None, None, AUTO, None),
        (5_000, TuningState.RUNNING, None, None, EARLIER, AUTO, None),
        (5_999, TuningState.DONE, measured(), AUTO, LATER, AUTO, None),
        (6_000, TuningState.DONE, measured(), AUTO, LATER, AUTO, "grown from 3,000 to 6,000"),
        (6_000, TuningState.DONE, measured(), AUTO, LATER, IndexPolicy(tuning_off=True), None),
        (3_000, TuningState.DONE, measured(), AUTO, EARLIER, AUTO, "checked as scheduled"),
        (3_000, TuningState.DONE, measured(collection="c0"), AUTO, LATER, AUTO, "another one"),
        (3_000, TuningState.DONE, measured(), AUTO, LATER, MANUAL, "policy was changed"),
        (10, TuningState.DONE, measured(), AUTO, LATER, MANUAL, "policy was changed"),
        (10, None, None, None, None, MANUAL, "policy names a type"),
        (10, TuningState.DONE, measured(), MANUAL, LATER, MANUAL, None),
        (5_000, TuningState.FAILED, None, None, LATER, AUTO, None),
        (5_000, TuningState.FAILED, None, None, EARLIER, AUTO, "never tuned before"),
    ],
)
def test_when(
    *,
    chunks: int,
    state: TuningState | None,
    result: Measurement | None,
    tuned_with: IndexPolicy | None,
    check: datetime | None,
    policy: IndexPolicy,
    expected: str | None,
) -> None:
    candidate = Candidate(
        knowledge_base=KB,
        chunks=chunks,
        state=state,
        measured=result,
        policy="" if tuned_with is None else policy_text(tuned_with),
        check_time=check,
    )
    due = why_due(candidate, policy, limits=TuningLimits(), now=NOW)
    if expected is None:
        assert due is None
        return
    assert due is not None
    kind, reason = due
    assert expected in reason
    assert (kind == Kind.CHECK) == (expected == "checked as scheduled")


@pytest.mark.parametrize(
    ("policy", "built", "rows", "expected"),
    [
        (AUTO, HNSW, 10**6, None),
        (AUTO, BuiltIndex(type=IndexType.FLAT), 50_000, ("HNSW", {"M": 16, "efConstruction": 200})),
        (IndexPolicy(type=IndexType.FLAT), BuiltIndex(type=IndexType.FLAT), 50_000, None),
        (MANUAL, HNSW, 10_000, ("IVF_FLAT", {"nlist": 400})),
        (MANUAL, BuiltIndex(type=IndexType.IVF_FLAT, build_params={"nlist": 400}), 30_000, None),
        (
            MANUAL,
            BuiltIndex(type=IndexType.IVF_FLAT, build_params={"nlist": 400}),
            90_000,
            ("IVF_FLAT", {"nlist": 1200}),
        ),
        (
            IndexPolicy(type=IndexType.IVF_FLAT, build_params={"nlist": 400}),
            BuiltIndex(type=IndexType.IVF_FLAT, build_params={"nlist": 400}),
            90_000,
            None,  # it was prescribed
        ),
        (
            IndexPolicy(type=IndexType.HNSW, build_params={"M": 32}),
            HNSW,
            90_000,
            ("HNSW", {"M": 32}),
        ),
    ],
)
def test_another_index(
    policy: IndexPolicy, built: BuiltIndex, rows: int, expected: tuple[str, dict[str, int]] | None
) -> None:
    found = wanted_index(policy, built, rows=rows, segment_rows=rows)
    if expected is None:
        assert found is None
        return
    assert found is not None
    index, why = found
    assert (index.type.name, dict(index.build_params)) == expected
    assert why


def test_whether_the_store_did_what_was_asked() -> None:
    assert fits(HNSW, BuiltIndex(type=IndexType.HNSW, build_params={"M": 16, "efConstruction": 200}))
    assert fits(HNSW, BuiltIndex(type=IndexType.HNSW))  # it does not say
    assert not fits(HNSW, BuiltIndex(type=IndexType.HNSW, build_params={"M": 8}))
    assert not fits(HNSW, BuiltIndex(type=IndexType.FLAT))
