"""What a number of vectors needs in Milvus."""

from capacity.advice import Advice, advise
from capacity.index import BuildParams, IndexType, build_params, choose_index, outgrown
from capacity.memory import Memory, Shape, memory_of, segments_of, stored_bytes
from capacity.plan import Alternative, Deployment, Plan, Wanted, make_plan
from capacity.units import BadInput, parse_bytes, parse_count, parse_share, show_bytes, show_count

__all__ = [
    "Advice",
    "Alternative",
    "BadInput",
    "BuildParams",
    "Deployment",
    "IndexType",
    "Memory",
    "Plan",
    "Shape",
    "Wanted",
    "advise",
    "build_params",
    "choose_index",
    "make_plan",
    "memory_of",
    "outgrown",
    "parse_bytes",
    "parse_count",
    "parse_share",
    "segments_of",
    "show_bytes",
    "show_count",
    "stored_bytes",
]
