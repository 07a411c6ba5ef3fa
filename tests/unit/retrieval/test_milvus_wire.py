"""Searches on the wire, against a stand-in for Milvus: what is sent, and how errors come back."""

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import numpy as np
import pytest
from pymilvus import DataType
from pymilvus.exceptions import MilvusException
from pymilvus.grpc_gen import common_pb2, milvus_pb2, milvus_pb2_grpc, schema_pb2

from retrieval.adapters.milvus_wire import Wire, hits_of, of_texts, of_vectors, search_request
from retrieval.core.model import Place


class Milvus(milvus_pb2_grpc.MilvusServiceServicer):  # type: ignore[misc]
    """Remembers what it was asked; answers with `status`."""

    def __init__(self) -> None:
        self.status = common_pb2.Status()
        self.metadata: dict[str, str] = {}
        self.request = milvus_pb2.SearchRequest()

    async def Search(
        self, request: milvus_pb2.SearchRequest, context: grpc.aio.ServicerContext[object, object]
    ) -> milvus_pb2.SearchResults:
        """One search."""
        self.request = request
        self.metadata = {str(key): str(value) for key, value in context.invocation_metadata() or ()}
        return milvus_pb2.SearchResults(status=self.status, results=schema_pb2.SearchResultData(topks=[0]))


@asynccontextmanager
async def wired(uri: str, *, token: str = "", database: str = "") -> AsyncIterator[tuple[Milvus, Wire]]:
    """`uri` with %s for the address."""
    milvus, server = Milvus(), grpc.aio.server()
    milvus_pb2_grpc.add_MilvusServiceServicer_to_server(milvus, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    wire = Wire(uri=uri % f"127.0.0.1:{port}", token=token, database=database, grpc_options={})
    try:
        yield milvus, wire
    finally:
        await wire.close()
        await server.stop(None)


def request() -> milvus_pb2.SearchRequest:
    """For two vectors."""
    queries = of_vectors(np.eye(2, 4, dtype=np.float32))
    params = {"metric_type": "COSINE", "params": {"ef": 64}}
    return search_request(
        "things", queries, "vector", limit=3, chosen='a == "b"', search_params=params, output=["text"]
    )


async def test_a_search_says_what_it_looks_for_and_where() -> None:
    async with wired("http://%s", database="db") as (milvus, wire):
        found = await wire.search(request(), timeout_s=5)
    assert list(found.topks) == [0]
    sent = milvus.request
    assert (sent.collection_name, sent.dsl, sent.nq) == ("things", 'a == "b"', 2)
    assert list(sent.output_fields) == ["text"]
    assert sent.consistency_level == common_pb2.ConsistencyLevel.Bounded
    assert not sent.use_default_consistency
    options = {pair.key: pair.value for pair in sent.search_params}
    assert options["params"] == '{"ef": 64, "metric_type": "COSINE"}'
    assert (options["anns_field"], options["topk"], options["metric_type"]) == ("vector", "3", "COSINE")
    (placeholder,) = common_pb2.PlaceholderGroup.FromString(sent.placeholder_group).placeholders
    assert [np.frombuffer(value, "<f4").tolist() for value in placeholder.values] == [
        [1, 0, 0, 0],
        [0, 1, 0, 0],
    ]
    assert milvus.metadata["dbname"] == "db"
    assert "authorization" not in milvus.metadata


def test_texts_are_sent_as_such() -> None:
    assert list(of_texts(["fox é"]).values) == ["fox é".encode()]
    assert of_texts(["fox"]).type == common_pb2.PlaceholderType.VarChar


@pytest.mark.parametrize(("uri", "token"), [("http://%s", "root:secret"), ("http://root:secret@%s", "")])
async def test_the_token_is_sent_as_milvus_reads_it(uri: str, token: str) -> None:
    async with wired(uri, token=token) as (milvus, wire):
        await wire.search(request(), timeout_s=5)
    assert base64.b64decode(milvus.metadata["authorization"]) == b"root:secret"


async def test_what_milvus_says_is_an_error_and_no_empty_answer() -> None:
    async with wired("http://%s") as (milvus, wire):
        milvus.status = common_pb2.Status(code=101, reason="collection not loaded")
        with pytest.raises(MilvusException, match="not loaded") as raised:
            await wire.search(request(), timeout_s=5)
    assert raised.value.code == 101


async def test_nobody_there_is_an_error() -> None:
    wire = Wire(uri="http://127.0.0.1:1", token="", database="", grpc_options={})
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await wire.search(request(), timeout_s=1)
    assert raised.value.code() == grpc.StatusCode.UNAVAILABLE
    await wire.close()


def test_columns_become_a_list_for_each_query() -> None:
    def texts(name: str, *values: str) -> schema_pb2.FieldData:
        data = schema_pb2.ScalarField(string_data=schema_pb2.StringArray(data=values))
        return schema_pb2.FieldData(field_name=name, type=DataType.VARCHAR, scalars=data)

    found = schema_pb2.SearchResultData(
        topks=[1, 0, 2],
        scores=[-3.0, -2.0, -1.0],
        ids=schema_pb2.IDs(str_id=schema_pb2.StringArray(data=["a", "b", "c"])),
        fields_data=[
            *(texts(name, f"{name}1", f"{name}2", f"{name}3") for name in ("document", "title", "text")),
            texts("location", "", "", ""),
            schema_pb2.FieldData(
                field_name="ordinal",
                type=DataType.INT64,
                scalars=schema_pb2.ScalarField(long_data=schema_pb2.LongArray(data=[7, 8, 9])),
            ),
            schema_pb2.FieldData(
                field_name="metadata",
                type=DataType.JSON,
                scalars=schema_pb2.ScalarField(
                    json_data=schema_pb2.JSONArray(data=[b"{}", b'{"year": 2024}', b"{}"])
                ),
            ),
            schema_pb2.FieldData(
                field_name="vector",
                type=DataType.FLOAT_VECTOR,
                vectors=schema_pb2.VectorField(
                    dim=2, float_vector=schema_pb2.FloatArray(data=[1, 0, 0, 1, 0.6, 0.8])
                ),
            ),
        ],
    )
    place = Place(collection="things")
    first, none, others = hits_of(place, found, by_meaning=False)
    assert none == []
    assert [(hit.id, hit.ordinal, hit.score, hit.similarity) for hit in (*first, *others)] == [
        ("a", 7, 3.0, None),
        ("b", 8, 2.0, None),
        ("c", 9, 1.0, None),
    ]
    assert (others[0].document, others[0].title, others[0].text) == ("document2", "title2", "text2")
    assert [dict(hit.metadata) for hit in others] == [{"year": 2024}, {}]
    assert others[1].vector is not None
    assert others[1].vector.tolist() == pytest.approx([0.6, 0.8])
    assert [hit.similarity for hit in hits_of(place, found, by_meaning=True)[2]] == [-2.0, -1.0]


def test_of_a_collection_without_metadata_there_is_none() -> None:
    found = schema_pb2.SearchResultData(
        topks=[1],
        scores=[0.5],
        ids=schema_pb2.IDs(str_id=schema_pb2.StringArray(data=["a"])),
        fields_data=[
            *(
                schema_pb2.FieldData(
                    field_name=name,
                    type=DataType.VARCHAR,
                    scalars=schema_pb2.ScalarField(string_data=schema_pb2.StringArray(data=["x"])),
                )
                for name in ("document", "title", "text", "location")
            ),
            schema_pb2.FieldData(
                field_name="ordinal",
                type=DataType.INT64,
                scalars=schema_pb2.ScalarField(long_data=schema_pb2.LongArray(data=[0])),
            ),
        ],
    )
    ((hit,),) = hits_of(Place(collection="things"), found, by_meaning=True)
    assert (dict(hit.metadata), hit.vector) == ({}, None)
