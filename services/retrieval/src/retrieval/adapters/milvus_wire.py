"""Searches on the wire: Milvus' own messages, without pymilvus' client between them and us.

That client has a task for an interceptor, a second timer and a dictionary of
each hit; it spent more on a search than all that is ours. What is used of
pymilvus here are the messages it was generated from, which Milvus keeps
compatible, and how it reads addresses, tokens and errors.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

import grpc
import numpy as np
from pymilvus import DataType
from pymilvus.client.connection_manager import ConnectionConfig
from pymilvus.client.constants import BOUNDED_TS
from pymilvus.client.utils import check_status
from pymilvus.grpc_gen import common_pb2, milvus_pb2, milvus_pb2_grpc, schema_pb2

from retrieval.adapters.milvus_rows import METADATA, VECTOR, key_prefix
from retrieval.core.model import Hit, Place, Vectors

_UNBOUNDED = -1
_KEEPALIVE_TIMEOUT_MS = 5_000
_NO_METADATA: Mapping[str, Any] = {}


class Wire:
    """One channel to one database; made in the loop that uses it.

    Args:
        grpc_options: As pymilvus takes them.
    """

    def __init__(self, *, uri: str, token: str, database: str, grpc_options: Mapping[str, int]) -> None:
        # Credentials and database may be in the address too.
        config = ConnectionConfig.from_uri(uri, token=token, db_name=database)
        options = [
            ("grpc.max_send_message_length", _UNBOUNDED),
            ("grpc.max_receive_message_length", _UNBOUNDED),
            ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
            *grpc_options.items(),
        ]
        self._channel = (
            grpc.aio.secure_channel(config.address, grpc.ssl_channel_credentials(), options=options)
            if config.get_handler_kwargs().get("secure")
            else grpc.aio.insecure_channel(config.address, options=options)
        )
        self._search = milvus_pb2_grpc.MilvusServiceStub(self._channel).Search
        self._metadata = [("dbname", config.db_name)]
        if config.token:
            self._metadata.append(("authorization", base64.b64encode(config.token.encode()).decode()))

    async def search(
        self, request: milvus_pb2.SearchRequest, *, timeout_s: float
    ) -> schema_pb2.SearchResultData:
        """The columns of what was found.

        Raises:
            MilvusException: What the server says.
            grpc.RpcError: It was not reached, or not in time.
        """
        answer = await self._search(request, timeout=timeout_s, metadata=self._metadata)
        check_status(answer.status)
        return answer.results

    async def close(self) -> None:
        """Ends the connection."""
        await self._channel.close()


def of_vectors(vectors: Vectors) -> common_pb2.PlaceholderValue:
    """What to be near to, one row each."""
    values = [row.tobytes() for row in np.ascontiguousarray(vectors, dtype="<f4")]
    return common_pb2.PlaceholderValue(tag="$0", type=common_pb2.PlaceholderType.FloatVector, values=values)


def of_texts(texts: Sequence[str]) -> common_pb2.PlaceholderValue:
    """What to find by words."""
    values = [text.encode() for text in texts]
    return common_pb2.PlaceholderValue(tag="$0", type=common_pb2.PlaceholderType.VarChar, values=values)


def search_request(
    collection: str,
    queries: common_pb2.PlaceholderValue,
    field: str,
    *,
    limit: int,
    chosen: str,
    search_params: Mapping[str, Any],
    output: Sequence[str],
) -> milvus_pb2.SearchRequest:
    """Does not wait for writes: writers do, in `settle`.

    Strong and Session cost a search up to a time tick; Eventually finds nothing
    in a collection that is just being loaded again.
    """
    metric = search_params["metric_type"]
    # The metric in both places, as pymilvus sends it: servers differ in where they look.
    params = {**search_params.get("params", {}), "metric_type": metric}
    options = {
        "anns_field": field,
        "topk": str(limit),
        "metric_type": metric,
        "params": json.dumps(params),
        "round_decimal": "-1",
        "ignore_growing": "False",
    }
    return milvus_pb2.SearchRequest(
        collection_name=collection,
        dsl=chosen,
        dsl_type=common_pb2.DslType.BoolExprV1,
        placeholder_group=common_pb2.PlaceholderGroup(placeholders=[queries]).SerializeToString(),
        nq=len(queries.values),
        output_fields=output,
        search_params=[common_pb2.KeyValuePair(key=key, value=value) for key, value in options.items()],
        guarantee_timestamp=BOUNDED_TS,
        consistency_level=common_pb2.ConsistencyLevel.Bounded,
    )


def hits_of(place: Place, found: schema_pb2.SearchResultData, *, by_meaning: bool) -> list[list[Hit]]:
    """A list for each query. `by_meaning`: scores are cosines; else Lite sends the negative of them."""
    columns = {field.field_name: _column(field) for field in found.fields_data if not field.is_dynamic}
    ids, scores = found.ids.str_id.data, found.scores
    count, prefix = len(ids), key_prefix(place)
    documents, titles, ordinals, texts, locations = (
        columns.get(name, ()) for name in ("document", "title", "ordinal", "text", "location")
    )
    metadata = columns.get(METADATA) or [_NO_METADATA] * count
    vectors = columns.get(VECTOR, [None] * count)
    hits = [
        Hit(
            id=ids[n].removeprefix(prefix),
            document=documents[n],
            title=titles[n],
            ordinal=ordinals[n],
            text=texts[n],
            location=locations[n],
            score=scores[n] if by_meaning else abs(scores[n]),
            metadata=metadata[n],
            similarity=scores[n] if by_meaning else None,
            vector=vectors[n],
        )
        for n in range(count)
    ]
    lists, start = [], 0
    for length in found.topks:
        lists.append(hits[start : start + length])
        start += length
    return lists


def _column(field: schema_pb2.FieldData) -> Sequence[Any]:
    cells: Sequence[Any]
    if field.type == DataType.VARCHAR:
        cells = field.scalars.string_data.data
    elif field.type == DataType.INT64:
        cells = field.scalars.long_data.data
    elif field.type == DataType.JSON:
        cells = [_NO_METADATA if cell == b"{}" else json.loads(cell) for cell in field.scalars.json_data.data]
    elif field.type == DataType.FLOAT_VECTOR:
        flat = np.asarray(field.vectors.float_vector.data, dtype=np.float32)
        cells = list(flat.reshape(-1, field.vectors.dim))
    else:
        raise TypeError(f"Milvus sent {field.field_name} as type {field.type}, which no field of ours has")
    return cells
