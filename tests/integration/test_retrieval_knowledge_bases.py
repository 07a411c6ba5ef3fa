"""Knowledge bases with all their fields, over gRPC and on a real Milvus Lite."""

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from agentteams.retrieval.v1 import filter_pb2 as filter_pb
from agentteams.retrieval.v1 import knowledge_base_pb2 as kb_pb
from agentteams.retrieval.v1 import retrieval_service_pb2 as pb
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.json_format import ParseDict

from manifests import KnowledgeBase, check_references, load_file
from manifests.filters import parse_filter
from manifests.knowledge_pb import to_pb
from servicekit.errors import FailedPrecondition, InvalidArgument, NotFound
from tests.support.retrieval import MODEL, RetrievalClient
from tests.support.retrieval_fixtures import Served, client, embedding, kb, milvus_server, retrieval_settings

__all__ = ["client", "embedding", "kb", "milvus_server", "retrieval_settings"]

FIELDS = [
    kb_pb.MetadataField(name="year", type=kb_pb.METADATA_TYPE_INT64),
    kb_pb.MetadataField(name="lang", type=kb_pb.METADATA_TYPE_STRING),
]
EXAMPLE = Path(__file__).parents[2] / "examples/knowledge"
FOX = b"# Foxes\n\nThe red fox hunts at night.\n"


async def indexed(
    client: RetrievalClient, kb: str, path: str, data: bytes, **metadata: Any
) -> kb_pb.Document:
    document = await client.upload(kb, path, data, **metadata)
    async with asyncio.timeout(30):
        while document.state not in (kb_pb.DOCUMENT_STATE_READY, kb_pb.DOCUMENT_STATE_FAILED):
            await asyncio.sleep(0.05)
            document = await client.document(document.name)
    assert document.state == kb_pb.DOCUMENT_STATE_READY, document.error
    return document


async def update(client: RetrievalClient, kb: str, *paths: str, **fields: Any) -> kb_pb.KnowledgeBase:
    request = pb.UpdateKnowledgeBaseRequest(
        knowledge_base=kb_pb.KnowledgeBase(name=f"knowledgeBases/{kb}", **fields),
        update_mask=FieldMask(paths=paths),
    )
    return await client.rpc.unary(client.stub.UpdateKnowledgeBase, request)


async def exported(client: RetrievalClient, kb: str, **options: Any) -> list[pb.ExportChunksResponse]:
    request = pb.ExportChunksRequest(name=f"knowledgeBases/{kb}", **options)
    stream = client.rpc.server_stream(client.stub.ExportChunks, request)
    async with contextlib.aclosing(stream):  # type: ignore[type-var]
        return [response async for response in stream]


def year_is(year: int) -> filter_pb.Filter:
    return filter_pb.Filter(
        compare=filter_pb.Comparison(
            field="year",
            operator=filter_pb.Comparison.OPERATOR_EQUAL,
            value=filter_pb.Value(int_value=year),
        )
    )


async def test_fields_are_kept_updated_and_refused(client: RetrievalClient, kb: str) -> None:
    created = await client.create(
        kb, metadata_fields=FIELDS[:1], search_defaults=kb_pb.SearchDefaults(top_k=3)
    )
    assert (created.generation, created.search_defaults.top_k, created.tenancy) == (
        1,
        3,
        kb_pb.TENANCY_COLLECTION,
    )
    changed = await update(client, kb, "search_defaults.top_k", search_defaults={"top_k": 1})
    assert (changed.generation, changed.search_defaults.top_k) == (2, 1)
    assert changed.revision > created.revision
    assert (await update(client, kb, "search_defaults.top_k", search_defaults={"top_k": 1})).generation == 2
    grown = await update(client, kb, "metadata_fields", metadata_fields=FIELDS)
    assert [field.name for field in grown.metadata_fields] == ["year", "lang"]

    with pytest.raises(FailedPrecondition, match=r"metadata_fields\.lang is STRING, not absent") as refused:
        await update(client, kb, "metadata_fields", metadata_fields=FIELDS[:1])
    assert refused.value.reason == "FIELD_IMMUTABLE"
    with pytest.raises(FailedPrecondition, match="tenancy is COLLECTION, not DATABASE"):
        await update(client, kb, "tenancy", tenancy=kb_pb.TENANCY_DATABASE)
    with pytest.raises(InvalidArgument, match="update_mask"):
        await update(client, kb, "revision")
    with pytest.raises(NotFound):
        await update(client, "not-there", "search_mode")

    # Creating it again applies what is asked for.
    again = await client.create(kb, metadata_fields=FIELDS, search_mode=kb_pb.SEARCH_MODE_DENSE)
    assert (again.search_mode, again.search_defaults.top_k) == (kb_pb.SEARCH_MODE_DENSE, 8)
    assert again.generation == 4
    with pytest.raises(FailedPrecondition, match="chunking"):
        await client.create(kb, metadata_fields=FIELDS, chunking=kb_pb.Chunking(max_tokens=50))


async def test_the_example_does_what_it_says(client: RetrievalClient, kb: str) -> None:
    objects = [loaded for file in sorted(EXAMPLE.iterdir()) for loaded in load_file(file).objects]
    assert check_references({loaded.key: loaded for loaded in objects}) == {}
    (manifest,) = (o.resource for o in objects if isinstance(o.resource, KnowledgeBase))
    asked = to_pb(manifest)
    asked.name, asked.embedding_model = f"knowledgeBases/{kb}", MODEL
    request = pb.CreateKnowledgeBaseRequest(knowledge_base=asked)
    created = await client.rpc.unary(client.stub.CreateKnowledgeBase, request)
    again = await client.rpc.unary(client.stub.CreateKnowledgeBase, request)
    assert (created.generation, again.generation) == (1, 1)
    assert created.search_defaults.ranker.weighted.dense_weight == pytest.approx(0.6)
    assert (created.index.target_recall_percent, created.search_defaults.top_k) == (97, 4)
    await indexed(client, kb, "kettle.md", b"# Descaling\n\nUse vinegar.", product="kettle", year=2024)
    await indexed(client, kb, "pot.md", b"# Descaling\n\nUse vinegar.", product="pot", draft=True)
    filter_ = ParseDict(
        parse_filter('product == "kettle" and year >= 2020 and not has draft'), filter_pb.Filter()
    )
    found = await client.search(kb, "how to descale", filter=filter_)
    assert [chunk.document_title for chunk in found.chunks] == ["kettle.md"]


async def test_metadata_filter_searches_and_change_without_embedding(
    client: RetrievalClient, kb: str, embedding: Served
) -> None:
    await client.create(kb, metadata_fields=FIELDS)
    await indexed(client, kb, "a.md", FOX, year=2020, lang="en")
    await indexed(client, kb, "b.md", FOX, year=2021)
    found = await client.search(kb, "fox", filter=year_is(2020))
    assert [chunk.document_title for chunk in found.chunks] == ["a.md"]
    assert found.chunks[0].metadata["lang"].string_value == "en"

    calls = len(embedding[0].calls)
    changed = await indexed(client, kb, "b.md", FOX, year=2020)
    assert changed.metadata["year"].int_value == 2020
    assert len(embedding[0].calls) == calls
    found = await client.search(kb, "fox", filter=year_is(2020))
    assert sorted(chunk.document_title for chunk in found.chunks) == ["a.md", "b.md"]

    with pytest.raises(InvalidArgument, match="colour"):
        await client.upload(kb, "c.md", FOX, colour="red")
    with pytest.raises(InvalidArgument) as refused:
        await client.search(kb, "fox", filter=filter_pb.Filter(none_of=filter_pb.Filter(has="scope")))
    assert refused.value.violations[0].field == "filter.none_of.has"


@pytest.mark.parametrize("tenancy", [kb_pb.TENANCY_PARTITION_KEY, kb_pb.TENANCY_DATABASE])
async def test_knowledge_bases_that_share_are_kept_apart(
    client: RetrievalClient, kb: str, tenancy: kb_pb.Tenancy.ValueType
) -> None:
    other = f"{kb}-2"
    for name in (kb, other):
        await client.create(name, tenancy=tenancy, metadata_fields=FIELDS)
    await indexed(client, kb, "mine.md", FOX, year=1)
    await indexed(client, other, "theirs.md", FOX, year=1)
    everything = filter_pb.Filter(none_of=filter_pb.Filter(has="lang"))
    for name, path in ((kb, "mine.md"), (other, "theirs.md")):
        found = await client.search(name, "fox", filter=everything)
        assert [chunk.document_title for chunk in found.chunks] == [path]
        (response,) = await exported(client, name, filter=everything)
        assert [chunk.document_title for chunk in response.chunks] == [path]
    await client.rpc.unary(
        client.stub.DeleteKnowledgeBase, pb.DeleteKnowledgeBaseRequest(name=f"knowledgeBases/{kb}")
    )
    found = await client.search(other, "fox")
    assert [chunk.document_title for chunk in found.chunks] == ["theirs.md"]
    await client.create(kb, tenancy=tenancy)
    assert (await client.search(kb, "fox")).outcome == pb.SEARCH_OUTCOME_EMPTY


async def test_export_streams_every_chunk_once(client: RetrievalClient, kb: str) -> None:
    await client.create(kb, metadata_fields=FIELDS, chunking=kb_pb.Chunking(max_tokens=16))
    assert await exported(client, kb) == []
    text = "\n\n".join(f"Paragraph {n} speaks of the number {n} at some length." for n in range(520))
    long = await indexed(client, kb, "long.md", text.encode(), year=1)
    short = await indexed(client, kb, "short.md", FOX, year=2)
    responses = await exported(client, kb, include_vectors=True)
    chunks = [chunk for response in responses for chunk in response.chunks]
    assert len({chunk.id for chunk in chunks}) == len(chunks) == long.chunk_count + short.chunk_count > 500
    assert all(len(response.chunks) <= 500 for response in responses)
    vectors = np.concatenate([np.frombuffer(response.vectors, dtype="<f4") for response in responses])
    assert np.allclose(np.linalg.norm(vectors.reshape(len(chunks), -1), axis=1), 1, atol=1e-4)

    (only,) = await exported(client, kb, filter=year_is(2))
    assert [chunk.document for chunk in only.chunks] == [short.name] * short.chunk_count
    assert only.vectors == b""

    request = pb.ExportChunksRequest(name=f"knowledgeBases/{kb}", include_vectors=True)
    stream = client.rpc.server_stream(client.stub.ExportChunks, request)
    async with contextlib.aclosing(stream):  # type: ignore[type-var]
        await anext(stream)  # and no more: the walk ends with the call
    with pytest.raises(NotFound):
        await exported(client, "not-there")
    with pytest.raises(InvalidArgument, match="colour"):
        await exported(client, kb, filter=filter_pb.Filter(has="colour"))
