"""Where filters look for metadata: on Lite never in the JSON column, which is slow there."""

from retrieval.core.filters import Compare, Operator
from retrieval.core.model import Place
from retrieval.core.ports import VectorStore
from tests.support.milvus import bare_client
from tests.support.vector_stores import axis, dense, put, record


async def test_lite_reads_loose_fields_and_servers_the_column(
    store: VectorStore, backend: str, uri: str, place: Place
) -> None:
    await put(store, place, [record(0, year=1), record(1, year=2)])
    if backend == "memory":
        return
    client = bare_client(uri)
    try:
        loose = client.describe_collection(place.collection)["enable_dynamic_field"]
        assert loose == (backend == "lite")
        if loose:  # a row whose two forms differ shows which one is read
            row = client.get(place.collection, "d1-0", output_fields=["*"])[0]
            row.pop("sparse", None)  # Milvus makes it
            client.upsert(place.collection, [{**row, "m_year": 2}])
    finally:
        client.close()
    found = await dense(store, place, axis(0), limit=5, filter=Compare("year", Operator.EQUAL, 2))
    assert {hit.id for hit in found} == ({"d1-0", "d1-1"} if loose else {"d1-1"})
    assert {hit.metadata["year"] for hit in found} == ({1, 2} if loose else {2})
