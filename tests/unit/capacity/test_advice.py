"""When a collection is too large for its Milvus."""

from datetime import timedelta

import pytest

from capacity import Deployment, IndexType, Memory, Shape, advise, memory_of

GIB = 1024**3


def _memory(rows: int) -> Memory:
    return memory_of(rows, Shape(dimension=384), IndexType.HNSW, {"M": 16})


@pytest.mark.parametrize(
    ("rows", "p50_ms", "at_risk", "text"),
    [
        (10_000, None, False, ""),
        (10_000, 20, False, ""),
        (10_000, 150, True, "move to Milvus Standalone: half of the searches took over 150 ms"),
        (60_000, None, True, "plan the move to Milvus Standalone, before 100,000 rows"),
        (100_001, None, True, "move to Milvus Standalone: Milvus Lite goes through all 100,001 rows"),
    ],
)
def test_lite(rows: int, p50_ms: int | None, at_risk: bool, text: str) -> None:
    advice = advise(
        deployment=Deployment.LITE,
        rows=rows,
        memory=_memory(rows),
        p50=None if p50_ms is None else timedelta(milliseconds=p50_ms),
    )
    assert advice.at_risk == at_risk
    assert advice.text.startswith(text)
    assert bool(advice.text) == bool(text)


@pytest.mark.parametrize(("gib", "at_risk"), [(16, False), (5, True), (None, False)])
def test_a_server_with_known_memory(gib: int | None, at_risk: bool) -> None:
    advice = advise(
        deployment=Deployment.STANDALONE,
        rows=1_000_000,
        memory=_memory(1_000_000),
        node_bytes=None if gib is None else gib * GIB,
    )
    assert advice.at_risk == at_risk
    assert ("Add query nodes or memory" in advice.text) == at_risk


@pytest.mark.parametrize(("used_gib", "at_risk"), [(None, False), (11, False), (11.5, True), (15, True)])
def test_a_server_that_other_collections_fill(used_gib: float | None, at_risk: bool) -> None:
    advice = advise(
        deployment=Deployment.STANDALONE,
        rows=1_000,
        memory=_memory(1_000),
        node_bytes=16 * GIB,
        used_bytes=None if used_gib is None else round(used_gib * GIB),
    )
    assert advice.at_risk == at_risk
    assert ("of the 16 GiB that Milvus has: above 90% it loads nothing more" in advice.text) == at_risk


def test_slow_searches_on_a_server_are_no_risk_but_are_told() -> None:
    advice = advise(
        deployment=Deployment.DISTRIBUTED,
        rows=1_000_000,
        memory=_memory(1_000_000),
        p50=timedelta(milliseconds=250),
    )
    assert not advice.at_risk
    assert "half of the searches take over 250 ms" in advice.text
