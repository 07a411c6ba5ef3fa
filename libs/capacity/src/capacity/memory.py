"""What rows take, part by part. All in bytes."""

import math
from dataclasses import dataclass

from capacity.index import BuildParams, IndexType

MAX_SEGMENT_BYTES = 1024 * 1024 * 1024  # dataCoord.segment.maxSize
# What is inserted is kept raw until its segment is sealed, at this part of a full one.
_SEAL_SHARE = 0.23
# Per row, whatever is in it: two system fields, the place in the primary key's index, the key again.
_ROW_OVERHEAD = 140
# Copies of what a segment was made of, freed late or never by the allocator.
_SLACK = 1.1
_TERM_BYTES = 8  # a posting: row and weight
_BYTES_A_TERM = 10  # of text, counting a repeated word once
# The index, the log it was built from, and one generation of both that is not collected yet.
_KEPT_GENERATIONS = 2
_ELEMENT = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What one row is like.

    Attributes:
        dimension: Elements of the vector.
        bytes_per_row: All other fields of a row: text, title, metadata.
        text_bytes: Of these, what is searched by words; 0: no BM25.
    """

    dimension: int
    bytes_per_row: int = 1_400
    text_bytes: int = 1_000

    @property
    def vector_bytes(self) -> int:
        """Of one raw vector."""
        return self.dimension * _ELEMENT

    @property
    def row_bytes(self) -> int:
        """Of one raw row."""
        return self.vector_bytes + self.bytes_per_row

    @property
    def segment_rows(self) -> int:
        """Rows of a full segment: 349,525 of 768 elements and nothing else."""
        return max(1, MAX_SEGMENT_BYTES // self.row_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What a loaded collection takes.

    Attributes:
        vectors: The vectors as the index holds them.
        index: Links of a graph; ids and centroids of clusters.
        scalars: All other fields, and what every row costs.
        keywords: The BM25 index.
        growing: What is not sealed yet, at most.
    """

    vectors: int
    index: int
    scalars: int
    keywords: int
    growing: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.vectors + self.index + self.scalars + self.keywords + self.growing


def segments_of(rows: int, shape: Shape) -> int:
    """Full segments, once compaction has merged the small ones."""
    return math.ceil(rows / shape.segment_rows)


def memory_of(
    rows: int, shape: Shape, type_: IndexType, params: BuildParams, *, shards: int = 1, growing: bool = True
) -> Memory:
    """Memory of one replica.

    Args:
        shards: Each has one growing segment.
        growing: Whether rows are still written; without, everything is sealed.
    """
    element = 1 if type_.is_quantised else _ELEMENT
    extra = 0.0
    if type_.is_graph:
        m = params.get("M", 16)
        # 2 M links of 4 bytes on the ground floor, M on each higher one, a counter and a label.
        extra = rows * (8 * m + 4 * m / max(1, m - 1) + 12)
    elif type_.is_ivf:
        centroids = max(1, segments_of(rows, shape)) * params.get("nlist", 128)
        extra = rows * 8 + min(centroids, rows) * shape.vector_bytes
    unsealed = min(rows, shards * _SEAL_SHARE * MAX_SEGMENT_BYTES / shape.row_bytes) if growing else 0
    return Memory(
        vectors=round(rows * shape.dimension * element * _SLACK),
        index=round(extra * _SLACK),
        scalars=round(rows * (shape.bytes_per_row + _ROW_OVERHEAD) * _SLACK),
        keywords=round(rows * shape.text_bytes / _BYTES_A_TERM * _TERM_BYTES),
        growing=round(unsealed * shape.row_bytes),
    )


def stored_bytes(rows: int, shape: Shape, memory: Memory) -> int:
    """In the object store: logs and indexes, with what compaction has left and nobody has collected yet."""
    return _KEPT_GENERATIONS * (rows * shape.row_bytes + memory.vectors + memory.index + memory.keywords)
