"""What Milvus says of the machines that it runs on.

The function blocks; it runs in a thread.
"""

import json
from typing import Any

import grpc
from pymilvus import MilvusClient
from pymilvus.client.utils import check_status
from pymilvus.grpc_gen import milvus_pb2

from retrieval.core.model import StoreMemory

_REQUEST = json.dumps({"metric_type": "system_info"})


def memory(client: MilvusClient, *, timeout_s: float) -> StoreMemory | None:
    """Of all query nodes; None: it does not know the question (Lite).

    The same figures by which a query node refuses to load when it is too full.
    """
    # pymilvus has the message and no method for it.
    stub: Any = client._get_connection()._stub
    try:
        answer = stub.GetMetrics(milvus_pb2.GetMetricsRequest(request=_REQUEST), timeout=timeout_s)
    except grpc.RpcError as error:
        if isinstance(error, grpc.Call) and error.code() == grpc.StatusCode.UNIMPLEMENTED:
            return None
        raise
    check_status(answer.status)
    # Nodes that are gone are listed for a while, with nothing but an error.
    machines = [
        node["infos"]["hardware_infos"]
        for node in json.loads(answer.response)["nodes_info"]
        if node["infos"]["type"] == "querynode" and not node["infos"]["has_error"]
    ]
    total = sum(int(machine["memory"]) for machine in machines)
    if not total:
        return None
    return StoreMemory(total_bytes=total, used_bytes=sum(int(m["memory_usage"]) for m in machines))
