"""Indexes of vectors: what kinds there are and how one is built."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from retrieval.core.model import IndexType, MetadataField, Place


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
