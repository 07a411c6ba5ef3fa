"""Reads what is wanted and prints the plan."""

from agentteams_cli.console import Output
from capacity import (
    BadInput,
    IndexType,
    Plan,
    Shape,
    Wanted,
    make_plan,
    parse_bytes,
    parse_count,
    parse_share,
    show_bytes,
    show_count,
)

_TEXT_SHARE = 0.7  # of a row's other bytes
_MAX_DIMENSION = 32_768  # what Milvus takes


def plan_of(
    *,
    vectors: str,
    dim: str,
    recall: str,
    replicas: str,
    bytes_per_row: str,
    node_memory: str,
    index: str,
    keywords: bool,
) -> Plan:
    """The plan for what was typed.

    Raises:
        BadInput: Names the option, what was given, and what would be right.
    """
    row_bytes = parse_bytes("--bytes-per-row", bytes_per_row, largest=1024**2)
    shape = Shape(
        dimension=parse_count("--dim", dim, largest=_MAX_DIMENSION),
        bytes_per_row=row_bytes,
        text_bytes=round(row_bytes * _TEXT_SHARE) if keywords else 0,
    )
    return make_plan(
        Wanted(
            rows=parse_count("--vectors", vectors, largest=10**11),
            shape=shape,
            recall=parse_share("--recall", recall, smallest=0.5, largest=0.999),
            replicas=parse_count("--replicas", replicas, largest=64),
            node_bytes=parse_bytes("--node-memory", node_memory, smallest=1024**3, largest=16 * 1024**4),
            index=_index(index),
        )
    )


def show(output: Output, plan: Plan) -> None:
    """A table, the reasons, and what else could be taken."""
    output.json(_as_dict(plan))
    wanted, memory = plan.wanted, plan.memory
    params = ", ".join(f"{name} {value}" for name, value in plan.params.items())
    parts = (
        ("vectors", memory.vectors),
        ("index", memory.index),
        ("other fields", memory.scalars),
        ("keywords", memory.keywords),
        ("growing", memory.growing),
    )
    output.table(
        ("", ""),
        (
            (
                "for",
                f"{show_count(wanted.rows)} vectors of {wanted.shape.dimension}, recall {wanted.recall:g}",
            ),
            ("Milvus", str(plan.deployment)),
            ("index", f"{plan.index.name}  {params}".rstrip()),
            ("segments", f"{show_count(plan.segments)} of {show_count(plan.segment_rows)} rows"),
            (
                "memory",
                f"{show_bytes(plan.memory_bytes)} for {wanted.replicas} "
                f"{'replica' if wanted.replicas == 1 else 'replicas'}",
            ),
            *((f"  {name}", show_bytes(part)) for name, part in parts),
            ("query nodes", f"{plan.nodes} of {show_bytes(wanted.node_bytes)}"),
            ("object store", show_bytes(plan.stored_bytes)),
        ),
    )
    output.line()
    output.line("Why", "bold")
    for reason in plan.reasons:
        output.line(f"- {reason}")
    output.line()
    output.line("Instead", "bold")
    output.table(
        ("index", "memory", "nodes", ""),
        [(o.index.name, show_bytes(o.memory_bytes), str(o.nodes), o.note) for o in plan.alternatives],
        right=("memory", "nodes"),
    )
    output.line()
    output.line(
        "Search parameters are not planned: the service measures them (`agentteams tune`). "
        "Memory is estimated: leave room.",
        "dim",
    )


def _index(text: str) -> IndexType | None:
    if not text:
        return None
    try:
        return IndexType[text.strip().upper()]
    except KeyError:
        raise BadInput("--index", text, f"must be one of {', '.join(i.name for i in IndexType)}") from None


def _as_dict(plan: Plan) -> dict[str, object]:
    wanted, memory = plan.wanted, plan.memory
    return {
        "vectors": wanted.rows,
        "dimension": wanted.shape.dimension,
        "recall": wanted.recall,
        "replicas": wanted.replicas,
        "deployment": str(plan.deployment),
        "index": plan.index.name,
        "build_params": plan.params,
        "segments": plan.segments,
        "rows_per_segment": plan.segment_rows,
        "memory_bytes": plan.memory_bytes,
        "memory": {
            "vectors": memory.vectors,
            "index": memory.index,
            "other_fields": memory.scalars,
            "keywords": memory.keywords,
            "growing": memory.growing,
        },
        "query_nodes": plan.nodes,
        "node_memory_bytes": wanted.node_bytes,
        "object_store_bytes": plan.stored_bytes,
        "reasons": list(plan.reasons),
        "alternatives": [
            {"index": o.index.name, "memory_bytes": o.memory_bytes, "query_nodes": o.nodes, "note": o.note}
            for o in plan.alternatives
        ],
    }
