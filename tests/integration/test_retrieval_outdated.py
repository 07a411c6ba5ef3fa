"""A service of this release on a collection that an earlier one made, on a real Milvus Lite."""

from pathlib import Path

import pytest
from agentteams.retrieval.v1 import knowledge_base_pb2 as kb_pb
from agentteams.retrieval.v1 import retrieval_service_pb2 as pb

from retrieval.core.places import collection_alias
from tests.integration.test_retrieval_knowledge_bases import (  # noqa: F401
    FIELDS,
    FOX,
    embedding,
    indexed,
    kb,
    year_is,
)
from tests.support.milvus import MilvusLite, bare_client, milvus_server  # noqa: F401
from tests.support.old_collections import make_older
from tests.support.retrieval import DIMENSION, HashEmbeddingServicer, running, settings

WOLF = b"# Wolves\n\nA grey wolf sleeps by day.\n"


@pytest.mark.parametrize("by", ["create", "worker"])
async def test_it_is_searched_and_then_renewed(
    tmp_path: Path,
    milvus_server: MilvusLite,  # noqa: F811
    embedding: tuple[HashEmbeddingServicer, str],  # noqa: F811
    kb: str,  # noqa: F811
    by: str,
) -> None:
    uri = milvus_server.uri
    values = settings(tmp_path, milvus_uri=uri, embedding_target=embedding[1])
    async with running(values) as client:
        await client.create(kb, metadata_fields=FIELDS)
        await indexed(client, kb, "fox.md", FOX, year=2024)
    former = make_older(uri, collection_alias("default", kb), dimension=DIMENSION)

    async with running(values) as client:
        found = await client.search(kb, "red fox")
        assert found.outcome == pb.SEARCH_OUTCOME_OK, found.reasons
        assert [chunk.document_title for chunk in found.chunks] == ["fox.md"]
        filtered = await client.search(kb, "red fox", filter=year_is(2024))
        assert filtered.outcome == pb.SEARCH_OUTCOME_FAILED  # not as if nothing were there
        if by == "create":
            await client.create(kb, metadata_fields=FIELDS)
        await indexed(client, kb, "wolf.md", WOLF, year=2024)
        fox = await indexed(client, kb, "fox.md", FOX, year=2024)  # as it is: waits for it
        assert fox.state == kb_pb.DOCUMENT_STATE_READY
        found = await client.search(kb, "red fox", filter=year_is(2024))
        assert found.outcome == pb.SEARCH_OUTCOME_OK
        assert {chunk.document_title for chunk in found.chunks} == {"fox.md", "wolf.md"}
    milvus = bare_client(uri)
    try:
        assert former.collection not in milvus.list_collections()
    finally:
        milvus.close()
