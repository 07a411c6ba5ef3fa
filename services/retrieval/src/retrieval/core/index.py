"""Indexes of vectors: what kinds there are and how one is built."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from retrieval.core.model import IndexPolicy, IndexType, MetadataField, Place

__all__ = ["BUILD_PARAMS", "DEFAULT_INDEX", "SEARCH_PARAMS", "BuiltIndex", "CollectionSpec", "IndexPolicy"]

_IVF = (IndexType.IVF_FLAT, IndexType.IVF_SQ8)
_HNSW = (IndexType.HNSW, IndexType.HNSW_SQ)
BUILD_PARAMS: Mapping[IndexType, Mapping[str, tuple[int, int]]] = (
    {type_: {"nlist": (1, 65_536)} for type_ in _IVF}
    | {type_: {"M": (4, 64), "efConstruction": (8, 512)} for type_ in _HNSW}
    | {IndexType.FLAT: {}}
)
"""What an index can be built with: least and most, as every supported Milvus takes it."""
SEARCH_PARAMS: Mapping[IndexType, Mapping[str, tuple[int, int]]] = (
    {type_: {"nprobe": (1, 65_536)} for type_ in _IVF}
    | {type_: {"ef": (1, 32_768)} for type_ in _HNSW}
    | {IndexType.FLAT: {}}
)
"""What it can be searched with, likewise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltIndex:
    """An index as it is, or is to be, built: nlist of IVF; M and efConstruction of HNSW."""

    type: IndexType
    build_params: Mapping[str, int] = field(default_factory=dict)


DEFAULT_INDEX = BuiltIndex(type=IndexType.HNSW, build_params={"M": 16, "efConstruction": 200})


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionSpec:
    """A collection as it is to be made. `fields` are those that rows may have in their metadata."""

    place: Place
    dimension: int
    fields: Sequence[MetadataField] = ()
    index: BuiltIndex = DEFAULT_INDEX


_MEASURED_LIMIT = 10


def for_limit(search_params: Mapping[str, int], limit: int) -> Mapping[str, int]:
    """Parameters that were tuned for ten, for more: those farther away lie in more clusters."""
    if limit <= _MEASURED_LIMIT or "nprobe" not in search_params:
        return search_params
    wider = math.ceil(search_params["nprobe"] * math.sqrt(limit / _MEASURED_LIMIT))
    return {**search_params, "nprobe": wider}
