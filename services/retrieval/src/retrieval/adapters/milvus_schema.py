"""Collections of chunks in Milvus: their fields, indexes and alias.

All functions block; they run in a thread.
"""

import json
from collections.abc import Mapping
from typing import Any

from pymilvus import CollectionSchema, DataType, Function, FunctionType, MilvusClient
from pymilvus.exceptions import MilvusException

from retrieval.adapters.milvus_errors import COLLECTION_NOT_FOUND
from retrieval.adapters.milvus_rows import LOOSE, METADATA, SCOPE, SPARSE, TEXT_MAX_BYTES, VECTOR, WORDS
from retrieval.core.index import BuiltIndex, CollectionSpec
from retrieval.core.model import IndexType, Place, Segments

SPARSE_SEARCH_PARAMS: dict[str, Any] = {"metric_type": "BM25"}

_ID_MAX_BYTES = 128
_ANY_DIMENSION = 8  # where only names matter
_BUILD_PARAMS = ("nlist", "M", "efConstruction")
_SEALED = ("Sealed", "Flushing", "Flushed")
_MIN_INDEXED_ROWS = 1_024  # of a smaller segment Milvus builds no index
_MIN_EF = 128  # recall@10 of .98 at 100,000 rows


def ensure(
    client: MilvusClient, spec: CollectionSpec, *, sparse: bool, loose: bool, timeout_s: float
) -> bool:
    """Creates, indexes, loads and names it, each only if that is missing; whether it was created."""
    place = spec.place
    created = not client.has_collection(place.collection, timeout=timeout_s)
    if created:
        _create(client, spec, sparse=sparse, loose=loose, timeout_s=timeout_s)
    # Also when the collection is there: a crash may have come between the two.
    sparse = sparse and SPARSE in _fields(client, place.collection, timeout_s=timeout_s)
    _create_missing_indexes(client, spec, sparse=sparse, timeout_s=timeout_s)
    client.load_collection(place.collection, timeout=timeout_s)
    if place.alias:
        point_alias(client, place.alias, place.collection, timeout_s=timeout_s)
    return created


def lacking(
    client: MilvusClient, place: Place, *, sparse: bool, loose: bool, timeout_s: float
) -> frozenset[str]:
    """Fields that `ensure` would make and that are not there."""
    made = _schema(client, place, dimension=_ANY_DIMENSION, sparse=sparse, loose=loose)
    wanted = {str(field.name) for field in made.fields} | ({LOOSE} if loose else set())
    return frozenset(wanted) - _fields(client, place.collection, timeout_s=timeout_s)


def _fields(client: MilvusClient, collection: str, *, timeout_s: float) -> frozenset[str]:
    described = client.describe_collection(collection, timeout=timeout_s)
    names = {str(field["name"]) for field in described["fields"]}
    return frozenset(names | {LOOSE} if described["enable_dynamic_field"] else names)


def _create(
    client: MilvusClient, spec: CollectionSpec, *, sparse: bool, loose: bool, timeout_s: float
) -> None:
    # Session: what this process wrote, its next search finds; Bounded would not (0 of 10 on 2.3.5).
    client.create_collection(
        spec.place.collection,
        schema=_schema(client, spec.place, dimension=spec.dimension, sparse=sparse, loose=loose),
        consistency_level="Session",
        timeout=timeout_s,
    )


def _schema(
    client: MilvusClient, place: Place, *, dimension: int, sparse: bool, loose: bool
) -> CollectionSchema:
    schema = client.create_schema(auto_id=False, enable_dynamic_field=loose)
    schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=_ID_MAX_BYTES)
    if place.scope:
        schema.add_field(SCOPE, DataType.VARCHAR, is_partition_key=True, max_length=512)
    schema.add_field("document", DataType.VARCHAR, max_length=1024)
    schema.add_field("title", DataType.VARCHAR, max_length=1024)
    schema.add_field("version", DataType.VARCHAR, max_length=64)
    schema.add_field("ordinal", DataType.INT64)
    schema.add_field("location", DataType.VARCHAR, max_length=4096)
    schema.add_field(METADATA, DataType.JSON)
    schema.add_field("text", DataType.VARCHAR, max_length=TEXT_MAX_BYTES)
    schema.add_field(VECTOR, DataType.FLOAT_VECTOR, dim=dimension)
    if sparse:
        # The analyzer only parts them at the spaces: core/words.py says why the words are made here.
        schema.add_field(WORDS, DataType.VARCHAR, max_length=TEXT_MAX_BYTES, enable_analyzer=True)
        schema.add_field(SPARSE, DataType.SPARSE_FLOAT_VECTOR)
        schema.add_function(
            Function(
                name="bm25",
                function_type=FunctionType.BM25,
                input_field_names=[WORDS],
                output_field_names=[SPARSE],
            )
        )
    return schema


def _create_missing_indexes(
    client: MilvusClient, spec: CollectionSpec, *, sparse: bool, timeout_s: float
) -> None:
    """The spec's for vectors, an inverted one for words."""
    collection = spec.place.collection
    present = set(client.list_indexes(collection, timeout=timeout_s))
    build_params: dict[str, Any] = dict(spec.index.build_params)
    if spec.index.type == IndexType.HNSW_SQ:
        build_params["sq_type"] = "SQ8"  # there are others, of six bits and of sixteen
    for field, index_type, metric, build in (
        (VECTOR, spec.index.type.name, "COSINE", build_params),
        (SPARSE, "SPARSE_INVERTED_INDEX", "BM25", {}),
    ):
        if field in present or (field == SPARSE and not sparse):
            continue
        params = client.prepare_index_params()
        # Nested: Lite silently drops flat ones, servers take both.
        params.add_index(
            field, index_type=index_type, metric_type=metric, index_name=field, params={"params": build}
        )
        client.create_index(collection, params, timeout=timeout_s, sync=False)  # load waits


def index_of(client: MilvusClient, collection: str, *, timeout_s: float) -> BuiltIndex:
    """As the server describes it: parameters flat and as strings, or nested, as it pleases."""
    described = client.describe_index(collection, VECTOR, timeout=timeout_s)
    params = described.get("params", described)
    if isinstance(params, str):
        params = json.loads(params)
    return BuiltIndex(
        type=IndexType[described["index_type"]],
        build_params={name: int(params[name]) for name in _BUILD_PARAMS if name in params},
    )


def segments(client: MilvusClient, collection: str, *, timeout_s: float) -> Segments:
    """The sealed ones, and which of them query nodes have loaded with their index."""
    sealed = {
        segment.segment_id: segment.num_rows
        for segment in client.list_persistent_segments(collection, timeout=timeout_s)
        if segment.state.name in _SEALED
    }
    described = client.describe_index(collection, VECTOR, timeout=timeout_s)
    exact = described["index_type"] == IndexType.FLAT.name
    loaded = {
        segment.segment_id: bool(segment.index_name) or exact or segment.num_rows < _MIN_INDEXED_ROWS
        for segment in client.list_loaded_segments(collection, timeout=timeout_s)
        if segment.state.name in _SEALED
    }
    return Segments(
        count=len(sealed),
        rows=sum(sealed.values()),
        indexed=int(described["indexed_rows"]),
        pending=int(described["pending_index_rows"]),
        served=sum(rows for segment, rows in sealed.items() if loaded.get(segment)),
        layout=frozenset(loaded),
    )


def point_alias(client: MilvusClient, alias: str, collection: str, *, timeout_s: float) -> None:
    """Creates or moves the alias; a no-op if it points there."""
    try:
        client.create_alias(collection, alias, timeout=timeout_s)
    except MilvusException:
        client.alter_alias(collection, alias, timeout=timeout_s)


def drop(client: MilvusClient, collection: str, *, alias: str, timeout_s: float) -> None:
    """Removes what is there of both. Alias first: Standalone keeps a dangling one otherwise."""
    if not client.has_collection(collection, timeout=timeout_s):
        return
    if alias and _target(client, alias, timeout_s=timeout_s) == collection:
        client.drop_alias(alias, timeout=timeout_s)
    client.drop_collection(collection, timeout=timeout_s)


def dense_search_params(limit: int, wanted: Mapping[str, int]) -> dict[str, Any]:
    """ef must not be below the limit."""
    params = dict(wanted)
    params["ef"] = max(wanted.get("ef", _MIN_EF), limit)
    return {"metric_type": "COSINE", "params": params}


def _target(client: MilvusClient, alias: str, *, timeout_s: float) -> str:
    """What the alias points at. 2.3 cannot list the aliases of a collection in a database."""
    try:
        return str(client.describe_collection(alias, timeout=timeout_s)["collection_name"])
    except MilvusException as error:
        if error.code == COLLECTION_NOT_FOUND:
            return ""
        raise


def ensure_database(client: MilvusClient, database: str, timeout_s: float) -> None:
    """Creates it if it is not there; another process may be doing the same."""
    if database in client.list_databases(timeout=timeout_s):
        return
    try:
        client.create_database(database, timeout=timeout_s)
    except MilvusException:
        if database not in client.list_databases(timeout=timeout_s):
            raise


def drop_empty_database(client: MilvusClient, database: str, timeout_s: float) -> None:
    """Milvus refuses to drop one that another process has just put a collection into."""
    if client.list_collections(timeout=timeout_s):
        return
    try:
        client.drop_database(database, timeout=timeout_s)
    except MilvusException:
        if not client.list_collections(timeout=timeout_s):
            raise
