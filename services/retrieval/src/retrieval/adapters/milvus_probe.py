"""What the connected Milvus can do.

All functions block; they run in a thread.
"""

import json
import re

import grpc
from pymilvus import AnnSearchRequest, MilvusClient, RRFRanker
from pymilvus.exceptions import MilvusException

from retrieval.adapters.milvus_rows import VECTOR
from retrieval.core.model import Capabilities, IndexType

_BM25_SINCE = (2, 5)
_PROBED = "agentteams_probe_of_a_collection_that_is_not_there"


def probe(client: MilvusClient, *, timeout_s: float) -> Capabilities:
    """Asks the version, and tries a hybrid search on nothing: only servers that have it know the call."""
    version = str(client.get_server_version(timeout=timeout_s))
    if "lite" in version.lower():
        return Capabilities(
            deployment=f"Lite {version.rpartition('-')[2]}",
            sparse=_has_hybrid(client, timeout_s=timeout_s),
            flush_after_ingest=True,
            index_types=frozenset(IndexType),
        )
    found = re.search(r"(\d+)\.(\d+)", version)
    number = (int(found[1]), int(found[2])) if found else (0, 0)
    return Capabilities(
        deployment=f"{_deploy_mode(client, timeout_s=timeout_s)} {version.lstrip('v')}",
        # 2.4 has hybrid search but no BM25 function.
        sparse=number >= _BM25_SINCE and _has_hybrid(client, timeout_s=timeout_s),
        flush_after_ingest=False,
        # HNSW_SQ came with 2.6.
        index_types=frozenset(IndexType) - ({IndexType.HNSW_SQ} if number < (2, 6) else set()),
    )


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
