"""Collections as earlier releases made them."""

from pymilvus import DataType, Function, FunctionType

from retrieval.core.model import ChunkRecord, Place, Vectors
from tests.support.milvus import bare_client

_ROW = ("id", "document", "title", "version", "ordinal", "text", "location")


def make_before_metadata(uri: str, place: Place, *, dimension: int, sparse: bool) -> None:
    """Without the columns `metadata` and `words`; keyword search, if there is one, reads the text itself."""
    client = bare_client(uri)
    try:
        schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=64)
        schema.add_field("document", DataType.VARCHAR, max_length=1024)
        schema.add_field("title", DataType.VARCHAR, max_length=1024)
        schema.add_field("version", DataType.VARCHAR, max_length=64)
        schema.add_field("ordinal", DataType.INT64)
        schema.add_field("location", DataType.VARCHAR, max_length=4096)
        analyzed = {"enable_analyzer": True} if sparse else {}
        schema.add_field("text", DataType.VARCHAR, max_length=65_535, **analyzed)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dimension)
        if sparse:
            schema.add_field("sparse", DataType.SPARSE_FLOAT_VECTOR)
            schema.add_function(
                Function(
                    name="bm25",
                    function_type=FunctionType.BM25,
                    input_field_names=["text"],
                    output_field_names=["sparse"],
                )
            )
        client.create_collection(place.collection, schema=schema, consistency_level="Session")
        params = client.prepare_index_params()
        params.add_index(
            "vector", index_type="HNSW", metric_type="COSINE", params={"M": 16, "efConstruction": 200}
        )
        if sparse:
            params.add_index("sparse", index_type="SPARSE_INVERTED_INDEX", metric_type="BM25")
        client.create_index(place.collection, params)
        client.load_collection(place.collection, timeout=60)
        # Servers keep the alias when the collection that it names is replaced.
        if client.list_aliases(place.collection)["aliases"] == []:
            client.create_alias(place.collection, place.alias)
    finally:
        client.close()


def put_before_metadata(uri: str, place: Place, records: list[ChunkRecord], vectors: Vectors) -> None:
    """Rows as they were written then."""
    client = bare_client(uri)
    try:
        rows = [{name: getattr(record, name) for name in _ROW} for record in records]
        client.upsert(
            place.collection, [row | {"vector": vector} for row, vector in zip(rows, vectors, strict=True)]
        )
    finally:
        client.close()


def make_older(uri: str, alias: str, *, dimension: int) -> Place:
    """The collection behind the alias, with what rows held then, as it was before there was metadata."""
    client = bare_client(uri)
    try:
        collection = client.describe_collection(alias)["collection_name"]
        client.load_collection(collection)
        found = client.query(collection, filter='id != ""', output_fields=[*_ROW, "vector"])
        client.drop_alias(alias)
        client.drop_collection(collection)
        place = Place(collection=collection, alias=alias)
        make_before_metadata(uri, place, dimension=dimension, sparse=True)
        client.upsert(collection, [{name: row[name] for name in (*_ROW, "vector")} for row in found])
        return place
    finally:
        client.close()
