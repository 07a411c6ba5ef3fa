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


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexPolicy:
    """What the index of a knowledge base should be.

    Attributes:
        type: None: chosen by size and by what the deployed Milvus has.
        build_params: Only with a type; empty: by rows per segment.
        search_params: Only with a type; empty: tuned by measurement.
        target_recall_percent: Recall at 10 that tuning must reach.
        tuning_off: No tuning by itself.
    """

    type: IndexType | None = None
    build_params: Mapping[str, int] = field(default_factory=dict)
    search_params: Mapping[str, int] = field(default_factory=dict)
    target_recall_percent: int = 95
    tuning_off: bool = False
