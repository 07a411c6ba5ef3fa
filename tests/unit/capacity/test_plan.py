"""The planner: what it says, and why."""

import pytest

from capacity import (
    BadInput,
    Deployment,
    IndexType,
    Shape,
    Wanted,
    build_params,
    choose_index,
    make_plan,
    memory_of,
    outgrown,
    parse_bytes,
    parse_count,
    parse_share,
    segments_of,
    show_bytes,
)

GIB = 1024**3
BARE = Shape(dimension=768, bytes_per_row=0, text_bytes=0)


def test_a_segment_of_768_elements_holds_350_000_rows() -> None:
    assert BARE.segment_rows == 349_525
    assert [segments_of(rows, BARE) for rows in (10**6, 10**7, 10**8)] == [3, 29, 287]


@pytest.mark.parametrize("rows", [10**6, 10**7, 10**8])
def test_nlist_follows_the_segment_and_not_the_collection(rows: int) -> None:
    plan = make_plan(Wanted(rows=rows, shape=BARE, index=IndexType.IVF_FLAT))
    assert plan.params == {"nlist": 2365}


@pytest.mark.parametrize(("segment_rows", "nlist"), [(0, 4), (1, 4), (10_000, 400), (10**12, 65_536)])
def test_nlist_is_what_milvus_takes(segment_rows: int, nlist: int) -> None:
    assert build_params(IndexType.IVF_SQ8, segment_rows=segment_rows) == {"nlist": nlist}


def test_more_recall_needs_more_links() -> None:
    assert build_params(IndexType.HNSW, segment_rows=1, recall=0.95)["M"] == 16
    assert build_params(IndexType.HNSW, segment_rows=1, recall=0.98)["M"] == 32


@pytest.mark.parametrize(
    ("rows", "index"), [(None, IndexType.HNSW), (9_000, IndexType.FLAT), (10**6, IndexType.HNSW)]
)
def test_the_type_goes_by_rows(rows: int | None, index: IndexType) -> None:
    assert choose_index(rows=rows)[0] == index


@pytest.mark.parametrize(
    ("type_", "nlist", "segment_rows", "outgrows"),
    [
        (IndexType.IVF_FLAT, 400, 10_000, False),
        (IndexType.IVF_FLAT, 400, 35_000, False),
        (IndexType.IVF_FLAT, 400, 40_000, True),
        (IndexType.IVF_SQ8, 400, 2_500, True),
        (IndexType.HNSW, 0, 10**6, False),
        (IndexType.FLAT, 0, 10**6, True),
    ],
)
def test_an_index_is_outgrown_by_a_factor_of_2(
    type_: IndexType, nlist: int, segment_rows: int, outgrows: bool
) -> None:
    assert bool(outgrown(type_, {"nlist": nlist}, rows=segment_rows, segment_rows=segment_rows)) == outgrows


def test_memory_part_by_part() -> None:
    shape = Shape(dimension=100, bytes_per_row=1000, text_bytes=500)
    rows = 1_000_000
    flat = memory_of(rows, shape, IndexType.FLAT, {})
    hnsw = memory_of(rows, shape, IndexType.HNSW, {"M": 16})
    small = memory_of(rows, shape, IndexType.IVF_SQ8, {"nlist": 4})
    assert flat.index == 0
    # 32 links on the ground floor, about one above.
    assert 4 * 32 * rows < hnsw.index < 4 * 50 * rows
    assert small.vectors * 4 == hnsw.vectors
    assert hnsw.total == hnsw.vectors + hnsw.index + hnsw.scalars + hnsw.keywords + hnsw.growing
    assert memory_of(rows, shape, IndexType.FLAT, {}, growing=False).growing == 0
    wordless = Shape(dimension=100, bytes_per_row=1000, text_bytes=0)
    assert memory_of(rows, wordless, IndexType.FLAT, {}).keywords == 0


@pytest.mark.parametrize(
    ("rows", "replicas", "node_gib", "deployment"),
    [
        (50_000, 1, 16, Deployment.LITE),
        (50_000, 2, 16, Deployment.DISTRIBUTED),
        (100_001, 1, 16, Deployment.STANDALONE),
        (1_000_000, 1, 16, Deployment.STANDALONE),
        (10_000_000, 1, 16, Deployment.DISTRIBUTED),
        (10_000_000, 1, 128, Deployment.STANDALONE),
    ],
)
def test_the_kind_of_milvus(rows: int, replicas: int, node_gib: int, deployment: Deployment) -> None:
    plan = make_plan(
        Wanted(rows=rows, shape=Shape(dimension=768), replicas=replicas, node_bytes=node_gib * GIB)
    )
    assert plan.deployment == deployment
    assert any(str(deployment) in reason for reason in plan.reasons) or deployment == Deployment.DISTRIBUTED


def test_query_nodes_stay_below_the_load_limit_with_room_for_a_compaction() -> None:
    plan = make_plan(Wanted(rows=10_000_000, shape=Shape(dimension=768), replicas=2))
    one = make_plan(Wanted(rows=10_000_000, shape=Shape(dimension=768)))
    assert plan.memory_bytes == 2 * one.memory_bytes
    assert plan.memory_bytes / (plan.nodes * 16 * GIB) <= 0.7
    assert plan.nodes == 2 * one.nodes
    assert "above 90% Milvus loads nothing more" in " ".join(plan.reasons)


def test_recall_that_one_byte_an_element_cannot_promise_is_refused() -> None:
    wanted = Wanted(rows=10**6, shape=BARE, recall=0.99, index=IndexType.IVF_SQ8)
    with pytest.raises(BadInput, match=r"index IVF_SQ8: .* take IVF_FLAT, or a recall of at most 0.95"):
        make_plan(wanted)


@pytest.mark.parametrize("text", ["10M", "10m", "1e7", "10_000_000", "10,000,000", " 10000k ", "1.0E+7"])
def test_counts_as_people_write_them(text: str) -> None:
    assert parse_count("--vectors", text) == 10_000_000


@pytest.mark.parametrize("text", ["", "-1", "0", "1.5", "ten", "10Q", "1e400", "nan", "1e16", "1e-3"])
def test_other_counts_are_refused_by_name(text: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse_count("--vectors", text)
    assert caught.value.field == "--vectors"
    assert caught.value.value == text
    assert "must be" in caught.value.fix


@pytest.mark.parametrize(
    ("text", "value"), [("1400", 1400), ("4k", 4000), ("16Gi", 16 * GIB), ("16GiB", 16 * GIB)]
)
def test_sizes(text: str, value: int) -> None:
    assert parse_bytes("--node-memory", text) == value


@pytest.mark.parametrize(("text", "value"), [("0.95", 0.95), (".95", 0.95), ("95%", 0.95)])
def test_shares(text: str, value: float) -> None:
    assert parse_share("--recall", text, smallest=0.5, largest=0.999) == pytest.approx(value)


@pytest.mark.parametrize("text", ["95", "1", "0.2", "x", "-0.9", "0.9k"])
def test_other_shares_are_refused(text: str) -> None:
    with pytest.raises(BadInput, match=r"--recall .*: must be 0.5 to 0.999"):
        parse_share("--recall", text, smallest=0.5, largest=0.999)


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0 B"), (1536, "1.5 KiB"), (45.21 * GIB, "45.2 GiB"), (2000 * GIB, "1.95 TiB")]
)
def test_bytes_are_shown_with_three_digits(value: float, text: str) -> None:
    assert show_bytes(value) == text
