"""What the connected Milvus is and can do.

What a harmless call can tell is tried: a call on a collection that is not
there answers "not found" where it is known and UNIMPLEMENTED where it is not.
What only a change could tell is in a table, by version.

All functions block; they run in a thread.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import grpc
from pymilvus import AnnSearchRequest, MilvusClient, RRFRanker
from pymilvus.exceptions import MilvusException

from retrieval.adapters.milvus_errors import COLLECTION_NOT_FOUND
from retrieval.adapters.milvus_rows import VECTOR
from retrieval.core.model import Capabilities, IndexType

_NOWHERE = "agentteams_probe_of_a_collection_that_is_not_there"

_STANDALONE = "Standalone"

# Trying these would mean to make a collection at every connect.
_BM25_SINCE = (2, 5)  # 2.4 has hybrid search, but no function that makes sparse vectors of texts
_HNSW_SQ_SINCE = (2, 6)
_UPSERT_KEEPS_PARTITION_SINCE = (2, 4)  # 2.3 files upserted rows under the wrong partition key


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """What the adapter itself must know, besides what callers may.

    Attributes:
        lags: Searches see writes a moment later, unless they wait for them.
        upserts_by_partition_key: Whether an upsert keeps a row in the partition of its key.
        lists_segments: Whether it says which segments a collection has.
        loose_metadata: Whether filters read metadata from loose fields beside the JSON column.
    """

    capabilities: Capabilities
    lags: bool
    upserts_by_partition_key: bool
    lists_segments: bool
    loose_metadata: bool


def probe(client: MilvusClient, *, timeout_s: float) -> Server:
    """Asks and tries."""
    version = str(client.get_server_version(timeout=timeout_s))
    has_hybrid = _knows(lambda: _search_both(client, timeout_s))
    lists_segments = _knows(lambda: client.list_persistent_segments(_NOWHERE, timeout=timeout_s))
    databases = _knows(lambda: client.list_databases(timeout=timeout_s))
    # Milvus Lite says milvus_lite-3.2.2. A server that is built to be embedded says v2.3.5-lite.
    if version.startswith("milvus_lite"):
        return Server(
            capabilities=Capabilities(
                deployment=f"Lite {version.rpartition('-')[2]}",
                sparse=has_hybrid,
                flush_after_ingest=True,
                index_types=frozenset(IndexType),
                databases=databases,
            ),
            lags=False,
            upserts_by_partition_key=True,
            lists_segments=lists_segments,
            loose_metadata=True,
        )
    found = re.search(r"(\d+)\.(\d+)[^-]*", version)
    number = (int(found[1]), int(found[2])) if found else (0, 0)
    kind = _kind(client, timeout_s)
    return Server(
        capabilities=Capabilities(
            deployment=f"{kind} {found[0] if found else version}",
            sparse=has_hybrid and number >= _BM25_SINCE,
            flush_after_ingest=False,
            index_types=frozenset(IndexType)
            - (frozenset() if number >= _HNSW_SQ_SINCE else {IndexType.HNSW_SQ}),
            databases=databases,
            # It has one query node, and answers nothing until that has loaded all.
            may_miss=kind != _STANDALONE,
        ),
        lags=True,
        upserts_by_partition_key=number >= _UPSERT_KEEPS_PARTITION_SINCE,
        lists_segments=lists_segments,
        loose_metadata=False,
    )


def _kind(client: MilvusClient, timeout_s: float) -> str:
    """Only a label; a server that does not say is called Server."""
    mode = client.get_server_version(timeout=timeout_s, detail=True).get("deploy_mode", "")
    return {"STANDALONE": _STANDALONE, "CLUSTER": "Distributed", "DISTRIBUTED": "Distributed"}.get(
        mode, "Server"
    )


def _search_both(client: MilvusClient, timeout_s: float) -> object:
    request = AnnSearchRequest([[0.0]], VECTOR, {"metric_type": "COSINE", "params": {}}, 1)
    return client.hybrid_search(_NOWHERE, [request], RRFRanker(60), limit=1, timeout=timeout_s)


def _knows(call: Callable[[], object]) -> bool:
    try:
        call()
    except MilvusException as error:
        if error.code == COLLECTION_NOT_FOUND:
            return True
        raise
    except grpc.RpcError as error:
        if isinstance(error, grpc.Call) and error.code() == grpc.StatusCode.UNIMPLEMENTED:
            return False
        raise
    return True
