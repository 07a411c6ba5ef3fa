"""A plan: what to deploy for a number of vectors, and why."""

import math
from dataclasses import dataclass
from enum import StrEnum

from capacity.index import QUANTISED_RECALL, IndexType, build_params, choose_index
from capacity.memory import MAX_SEGMENT_BYTES, Memory, Shape, memory_of, segments_of, stored_bytes
from capacity.units import BadInput, show_bytes, show_count

GIB = 1024**3
LOAD_LIMIT = 0.90  # Milvus loads no further segment above it
# A compacted segment is loaded before those that it replaces are released, so some room stays free.
USABLE = 0.70
LITE_ROWS = 100_000
LITE_US_A_ROW = 0.33  # of every search, in one Python loop, whatever the index
_IDLE_BYTES = GIB // 2  # a Standalone with nothing in it
_LARGEST_MACHINE = 128 * GIB


class Deployment(StrEnum):
    """The kinds of Milvus."""

    LITE = "Lite"
    STANDALONE = "Standalone"
    DISTRIBUTED = "Distributed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is to be planned for.

    Attributes:
        recall: At 10, 0.5 to 0.999.
        replicas: Copies in memory: throughput, and answers while a node is lost.
        node_bytes: Memory of one query node, or of the Standalone's machine.
        index: None: chosen.
    """

    rows: int
    shape: Shape
    recall: float = 0.95
    replicas: int = 1
    node_bytes: int = 16 * GIB
    index: IndexType | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """Another index for the same rows.

    Attributes:
        note: What speaks for or against it.
    """

    index: IndexType
    memory_bytes: int
    nodes: int
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to deploy.

    Attributes:
        memory: Of one replica.
        memory_bytes: Of all replicas.
        segments: Of one replica, once compacted.
        nodes: Query nodes; 1 for Lite and Standalone.
        reasons: Sentences, most important first.
    """

    wanted: Wanted
    index: IndexType
    params: dict[str, int]
    segment_rows: int
    segments: int
    memory: Memory
    memory_bytes: int
    stored_bytes: int
    deployment: Deployment
    nodes: int
    reasons: tuple[str, ...]
    alternatives: tuple[Alternative, ...]


def make_plan(wanted: Wanted) -> Plan:
    """The plan.

    Raises:
        BadInput: The wishes exclude one another.
    """
    shape = wanted.shape
    index, why = _index(wanted)
    segments = segments_of(wanted.rows, shape)
    params, memory = _built(wanted, index)
    total = memory.total * wanted.replicas
    deployment, nodes, reasons = _deployment(wanted, memory.total)
    return Plan(
        wanted=wanted,
        index=index,
        params=params,
        segment_rows=shape.segment_rows,
        segments=segments,
        memory=memory,
        memory_bytes=total,
        stored_bytes=stored_bytes(wanted.rows, shape, memory),
        deployment=deployment,
        nodes=nodes,
        reasons=(
            f"{index.name}: {why}",
            *_build_reason(index, params, min(wanted.rows, shape.segment_rows)),
            f"{show_count(segments)} segments: a row of {show_bytes(shape.row_bytes)} makes "
            f"{show_count(shape.segment_rows)} rows in one of {show_bytes(MAX_SEGMENT_BYTES)}",
            *reasons,
        ),
        alternatives=tuple(_alternatives(wanted, index)),
    )


def nodes_for(total_bytes: int, *, node_bytes: int) -> int:
    """Nodes that hold so much and stay well below Milvus' limit."""
    return max(1, math.ceil(total_bytes / (node_bytes * USABLE)))


def _index(wanted: Wanted) -> tuple[IndexType, str]:
    if wanted.index is None:
        return choose_index(rows=wanted.rows, recall=wanted.recall)
    if wanted.index.is_quantised and wanted.recall > QUANTISED_RECALL:
        raise BadInput(
            "index",
            wanted.index.name,
            f"keeps one byte of each element and does not reach recall {wanted.recall:g} for certain; "
            f"take {'IVF_FLAT' if wanted.index.is_ivf else 'HNSW'}, or a recall of at most "
            f"{QUANTISED_RECALL:g}",
        )
    return wanted.index, "as asked for"


def _build_reason(index: IndexType, params: dict[str, int], segment_rows: int) -> list[str]:
    if not index.is_ivf:
        return []
    return [
        f"nlist {params['nlist']}: 4 times the root of the {segment_rows:,} rows of one segment; Milvus "
        "clusters every segment by itself, so it does not follow the whole collection"
    ]


def _built(wanted: Wanted, index: IndexType) -> tuple[dict[str, int], Memory]:
    params = build_params(
        index, segment_rows=min(wanted.rows, wanted.shape.segment_rows), recall=wanted.recall
    )
    return params, memory_of(wanted.rows, wanted.shape, index, params)


def _deployment(wanted: Wanted, replica_bytes: int) -> tuple[Deployment, int, list[str]]:
    rows, node = wanted.rows, wanted.node_bytes
    floor_ms = rows * LITE_US_A_ROW / 1000
    if rows <= LITE_ROWS and wanted.replicas == 1:
        return (
            Deployment.LITE,
            1,
            [
                f"Lite: every search goes through all rows once, {floor_ms:.0f} ms for these, and one after "
                "the other. For more than a few callers at once take Standalone"
            ],
        )
    not_lite = (
        f"not Lite: each of its searches would take at least {floor_ms:,.0f} ms, one after the other"
        if rows > LITE_ROWS
        else "not Lite: it has no replicas"
    )
    needed = math.ceil((replica_bytes + _IDLE_BYTES) / USABLE)
    if wanted.replicas == 1 and needed <= node:
        return (
            Deployment.STANDALONE,
            1,
            [
                not_lite,
                f"Standalone: {show_bytes(replica_bytes)} fit into one machine of {show_bytes(node)} with "
                f"{1 - USABLE:.0%} to spare; when it must answer while a node is lost, take Distributed "
                "with 2 replicas",
            ],
        )
    # With one node only, its loss would be an outage and a roll-out too.
    per_replica = nodes_for(replica_bytes, node_bytes=node)
    nodes = max(2, per_replica * wanted.replicas)
    reasons = [
        not_lite,
        f"{nodes} query nodes of {show_bytes(node)}: {show_bytes(replica_bytes * wanted.replicas)} at "
        f"no more than {USABLE:.0%} each; above {LOAD_LIMIT:.0%} Milvus loads nothing more, and a compacted "
        "segment is loaded before the ones that it replaces are released",
    ]
    if wanted.replicas == 1:
        reasons.append(
            "with 1 replica the segments of a lost node cannot be found until others have loaded them"
        )
        if needed <= _LARGEST_MACHINE:
            reasons.append(f"or one Standalone with at least {show_bytes(needed)} of memory")
    return Deployment.DISTRIBUTED, nodes, reasons


def _alternatives(wanted: Wanted, chosen: IndexType) -> list[Alternative]:
    found = []
    for index in IndexType:
        if index == chosen:
            continue
        _, memory = _built(wanted, index)
        total = memory.total * wanted.replicas
        found.append(
            Alternative(
                index=index,
                memory_bytes=total,
                nodes=nodes_for(memory.total, node_bytes=wanted.node_bytes) * wanted.replicas,
                note=_note(index, wanted),
            )
        )
    return found


def _note(index: IndexType, wanted: Wanted) -> str:
    if index == IndexType.FLAT:
        return f"exact; compares all {show_count(wanted.rows)} rows for every search"
    if index.is_quantised and wanted.recall > QUANTISED_RECALL:
        return f"recall {wanted.recall:g} is not certain with one byte an element"
    if index.is_quantised:
        return "a quarter of the vectors' memory; tune it to see whether the recall is reached"
    if index == IndexType.IVF_FLAT:
        return "built in half the time; slower at the same recall"
    return "the quickest at the same recall"
