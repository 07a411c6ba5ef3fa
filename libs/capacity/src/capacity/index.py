"""Which index, built how. What was measured stands in docs/capacity.md."""

import math
from collections.abc import Mapping
from enum import IntEnum

BuildParams = Mapping[str, int]

MAX_NLIST = 65_536  # what Milvus takes
_FLAT_ROWS = 10_000  # compared one by one in 3 ms, and exact
_EF_CONSTRUCTION = 200
_FACTOR = 2.0


class IndexType(IntEnum):
    """The kinds that can be planned. Same numbers as on the wire."""

    FLAT = 1
    IVF_FLAT = 2
    IVF_SQ8 = 3
    HNSW = 4
    HNSW_SQ = 5

    @property
    def is_ivf(self) -> bool:
        """Whether it has clusters."""
        return self in (IndexType.IVF_FLAT, IndexType.IVF_SQ8)

    @property
    def is_graph(self) -> bool:
        """Whether it has links."""
        return self in (IndexType.HNSW, IndexType.HNSW_SQ)

    @property
    def is_quantised(self) -> bool:
        """Whether a vector takes one byte an element."""
        return self in (IndexType.IVF_SQ8, IndexType.HNSW_SQ)


# Above this recall they flatten: what one byte an element has lost, no search parameter brings back.
QUANTISED_RECALL = 0.95


def nlist_of(segment_rows: int) -> int:
    """4 times the root of a segment's rows: Milvus trains each segment by itself, however large the whole."""
    return max(1, min(MAX_NLIST, round(4 * math.sqrt(max(1, segment_rows)))))


def build_params(type_: IndexType, *, segment_rows: int, recall: float = 0.95) -> dict[str, int]:
    """The numbers to build the index with.

    Args:
        segment_rows: Rows of one full segment.
        recall: What searches must reach.
    """
    if type_.is_ivf:
        return {"nlist": nlist_of(segment_rows)}
    if type_.is_graph:
        # M = 16 reached .977 at 500,000 rows and M = 32 .997, both with ef = 256.
        return {"M": 16 if recall <= 0.97 else 32, "efConstruction": _EF_CONSTRUCTION}
    return {}


def choose_index(*, rows: int | None, recall: float = 0.95) -> tuple[IndexType, str]:
    """The type and the reason for it. `rows` None: unknown, so one that bears growing."""
    if rows is not None and rows <= _FLAT_ROWS:
        return IndexType.FLAT, f"up to {_FLAT_ROWS:,} rows an exact comparison takes about 3 ms"
    reason = "the quickest at the same recall when it was measured, and it needs no training as it grows"
    if recall > 0.97:
        reason += f"; M = 32, since recall {recall:.0%} is out of reach of M = 16"
    return IndexType.HNSW, reason


def outgrown(type_: IndexType, params: BuildParams, *, rows: int, segment_rows: int) -> str:
    """Why it should be built anew; empty if it need not."""
    if type_ == IndexType.FLAT and rows > 2 * _FLAT_ROWS:
        return f"{rows:,} rows are too many to compare one by one"
    if not type_.is_ivf:
        return ""
    built, wanted = params.get("nlist", 0), nlist_of(segment_rows)
    if built * _FACTOR <= wanted or wanted * _FACTOR <= built:
        return f"nlist is {built}, and {segment_rows:,} rows in a segment want {wanted}"
    return ""
