"""Collections of chunks in Milvus: their fields, indexes, alias, and what a server can do.

All functions block; they run in a thread.
"""

import json
import re
from typing import Any

import grpc
from pymilvus import (
    AnnSearchRequest,
    DataType,
    Function,
    FunctionType,
    MilvusClient,
    RRFRanker,
)
from pymilvus.exceptions import MilvusException

from retrieval.core.model import Capabilities

VECTOR = "vector"
SPARSE = "sparse"
# Always given: Lite returns every field, vectors too, when they are not.
OUTPUT_FIELDS = ["document", "title", "ordinal", "text", "location"]
SPARSE_SEARCH_PARAMS: dict[str, Any] = {"metric_type": "BM25"}

TEXT_MAX_BYTES = 65_535  # Milvus' own bound of a VARCHAR
_HNSW = {"M": 16, "efConstruction": 200}
_MIN_EF = 128  # recall@10 of .98 at 100,000 rows
_BM25_SINCE = (2, 5)
_PROBED = "agentteams_probe_of_a_collection_that_is_not_there"


def probe(client: MilvusClient, *, timeout_s: float) -> Capabilities:
    """Asks the version, and tries a hybrid search on nothing: only servers that have it know the call."""
    version = str(client.get_server_version(timeout=timeout_s))
    if "lite" in version.lower():
        number = version.rpartition("-")[2]
        return Capabilities(
            deployment=f"Lite {number}",
            sparse=_has_hybrid(client, timeout_s=timeout_s),
            flush_after_ingest=True,
        )
    found = re.search(r"(\d+)\.(\d+)", version)
    # 2.4 has hybrid search but no BM25 function.
    recent = found is not None and (int(found[1]), int(found[2])) >= _BM25_SINCE
    return Capabilities(
        deployment=f"{_deploy_mode(client, timeout_s=timeout_s)} {version.lstrip('v')}",
        sparse=recent and _has_hybrid(client, timeout_s=timeout_s),
        flush_after_ingest=False,
    )


def create(client: MilvusClient, collection: str, *, dimension: int, sparse: bool, timeout_s: float) -> None:
    """The collection without its indexes."""
    schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=64)
    schema.add_field("document", DataType.VARCHAR, max_length=1024)
    schema.add_field("title", DataType.VARCHAR, max_length=1024)
    schema.add_field("version", DataType.VARCHAR, max_length=64)
    schema.add_field("ordinal", DataType.INT64)
    schema.add_field("location", DataType.VARCHAR, max_length=4096)
    text: dict[str, Any] = {"max_length": TEXT_MAX_BYTES}
    schema.add_field("text", DataType.VARCHAR, **(text | ({"enable_analyzer": True} if sparse else {})))
    schema.add_field(VECTOR, DataType.FLOAT_VECTOR, dim=dimension)
    if sparse:
        schema.add_field(SPARSE, DataType.SPARSE_FLOAT_VECTOR)
        schema.add_function(
            Function(
                name="bm25",
                function_type=FunctionType.BM25,
                input_field_names=["text"],
                output_field_names=[SPARSE],
            )
        )
    # Session: what this process wrote, its next search finds; Bounded would not (0 of 10 on 2.3.5).
    client.create_collection(collection, schema=schema, consistency_level="Session", timeout=timeout_s)


def create_missing_indexes(client: MilvusClient, collection: str, *, sparse: bool, timeout_s: float) -> None:
    """HNSW for vectors, an inverted index for words."""
    present = set(client.list_indexes(collection, timeout=timeout_s))
    for field, index_type, metric, build in (
        (VECTOR, "HNSW", "COSINE", _HNSW),
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


def point_alias(client: MilvusClient, alias: str, collection: str, *, timeout_s: float) -> None:
    """Creates or moves the alias; a no-op if it points there."""
    try:
        client.create_alias(collection, alias, timeout=timeout_s)
    except MilvusException:
        client.alter_alias(collection, alias, timeout=timeout_s)


def drop(client: MilvusClient, collection: str, *, alias: str | None, timeout_s: float) -> None:
    """Removes what is there of both."""
    there = client.has_collection(collection, timeout=timeout_s)
    if there and alias is not None and alias in _aliases(client, collection, timeout_s=timeout_s):
        client.drop_alias(alias, timeout=timeout_s)
    if there:
        client.drop_collection(collection, timeout=timeout_s)


def dense_search_params(limit: int) -> dict[str, Any]:
    """ef must not be below the limit."""
    return {"metric_type": "COSINE", "params": {"ef": max(_MIN_EF, limit)}}


def _aliases(client: MilvusClient, collection: str, *, timeout_s: float) -> list[str]:
    return list(client.list_aliases(collection, timeout=timeout_s)["aliases"])


def _has_hybrid(client: MilvusClient, *, timeout_s: float) -> bool:
    request = AnnSearchRequest([[0.0]], VECTOR, {"metric_type": "COSINE", "params": {}}, 1)
    try:
        client.hybrid_search(_PROBED, [request], RRFRanker(60), limit=1, timeout=timeout_s)
    except MilvusException as error:
        if error.code == 100:  # it looked for the collection, so it knows the call
            return True
        raise
    except grpc.RpcError as error:
        if isinstance(error, grpc.Call) and error.code() == grpc.StatusCode.UNIMPLEMENTED:
            return False
        raise
    return True


def _deploy_mode(client: MilvusClient, *, timeout_s: float) -> str:
    """Standalone or Distributed; only a label, so a server that does not say is called Server."""
    from pymilvus.grpc_gen import milvus_pb2  # noqa: PLC0415  # pymilvus has no public call for it

    try:
        stub = client._get_connection()._stub
        answer = stub.GetMetrics(
            milvus_pb2.GetMetricsRequest(request=json.dumps({"metric_type": "system_info"})),
            timeout=timeout_s,
        )
    except (AttributeError, grpc.RpcError, MilvusException):
        return "Server"
    modes = set(re.findall(r'"deploy_mode"\s*:\s*"(\w+)"', answer.response))
    if not modes:
        return "Server"
    return "Standalone" if modes == {"STANDALONE"} else "Distributed"
