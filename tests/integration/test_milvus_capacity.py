"""What a real Milvus says of its segments and its memory, and the warning before it is full."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from agentteams.retrieval.v1 import knowledge_base_pb2 as kb_pb
from agentteams.retrieval.v1 import retrieval_service_pb2 as pb

from retrieval.adapters.milvus import MilvusStore
from retrieval.core.index import BuiltIndex, CollectionSpec
from retrieval.core.model import IndexType, Place
from retrieval.core.places import collection_alias
from retrieval.core.tuning.steady import until_steady
from servicekit.clock import SystemClock
from servicekit.testing import serve_in_process
from tests.support.milvus import MilvusLite, milvus_server  # noqa: F401
from tests.support.milvus_server import MilvusStandalone, milvus_standalone  # noqa: F401
from tests.support.retrieval import HashEmbeddingServicer, RetrievalClient, running, settings
from tests.support.tuning import chunk, clustered

ROWS, DIMENSION = 2_000, 16
WITHIN = timedelta(seconds=60)

Start = Callable[[str, str], AbstractAsyncContextManager[RetrievalClient]]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """The service on a Milvus; `memory` as its setting."""

    @asynccontextmanager
    async def started(uri: str, memory: str) -> AsyncIterator[RetrievalClient]:
        async with serve_in_process([HashEmbeddingServicer().service()]) as target:
            configured = settings(tmp_path, milvus_uri=uri, embedding_target=target, milvus_memory=memory)
            async with running(configured) as client:
                yield client

    return started


async def get(client: RetrievalClient, kb: str) -> kb_pb.KnowledgeBase:
    request = pb.GetKnowledgeBaseRequest(name=f"knowledgeBases/{kb}")
    return await client.rpc.unary(client.stub.GetKnowledgeBase, request)


async def until(
    client: RetrievalClient, kb: str, there: Callable[[kb_pb.KnowledgeBase], bool]
) -> kb_pb.KnowledgeBase:
    async with asyncio.timeout(30):
        while True:
            found = await get(client, kb)
            if there(found):
                return found
            await asyncio.sleep(0.1)


def a_name() -> str:
    return f"kb-{uuid.uuid4().hex[:12]}"


async def test_what_was_written_is_served_from_its_index_after_a_while(
    milvus_standalone: MilvusStandalone,  # noqa: F811
) -> None:
    store = MilvusStore(uri=milvus_standalone.uri)
    name = f"c{uuid.uuid4().hex[:12]}"
    place = Place(collection=name, alias=f"{name}_alias")
    index = BuiltIndex(type=IndexType.IVF_FLAT, build_params={"nlist": 16})
    try:
        await store.ensure_collection(CollectionSpec(place=place, dimension=DIMENSION, index=index))
        await store.upsert(place, [chunk(n, "d") for n in range(ROWS)], clustered(ROWS))
        await store.flush(place)
        found = await until_steady(store, place, clock=SystemClock(), within=WITHIN)
        assert found is not None
        assert found.settled
        assert (found.rows, found.served, found.pending) == (ROWS, ROWS, 0)
        assert len(found.layout) == found.count >= 1
        memory = await store.memory()
        assert memory is not None
        assert 2**24 < memory.used_bytes < memory.total_bytes
    finally:
        await store.drop(place)
        await store.close()


async def test_milvus_says_what_it_has_and_is_not_full(
    start: Start,
    milvus_standalone: MilvusStandalone,  # noqa: F811
) -> None:
    kb = a_name()
    async with start(milvus_standalone.uri, "") as client:
        await client.create(kb)
        found = (await get(client, kb)).capacity
    assert 2**24 < found.milvus_used_bytes < found.milvus_memory_bytes
    assert not found.at_risk


async def test_a_milvus_that_is_nearly_full_is_told_of_before_it_loads_nothing_more(
    start: Start,
    milvus_standalone: MilvusStandalone,  # noqa: F811
) -> None:
    kb = a_name()
    async with start(milvus_standalone.uri, "64Mi") as client:  # it takes more than that when it is empty
        await client.create(kb)
        found = (await get(client, kb)).capacity
    assert found.milvus_memory_bytes == 64 * 2**20
    assert found.milvus_used_bytes > 0.7 * found.milvus_memory_bytes
    assert found.at_risk
    assert "of the 64 MiB that Milvus has: above 90% it loads nothing more" in found.advice


async def test_segments_are_known_before_the_first_tuning(
    start: Start,
    milvus_standalone: MilvusStandalone,  # noqa: F811
) -> None:
    kb = a_name()
    async with start(milvus_standalone.uri, "") as client:
        await client.create(kb)
        await client.upload(kb, "a.md", b"A paragraph of some words.\n\n" * 20)
        await until(client, kb, lambda found: found.documents.ready == 1)
        assert (await get(client, kb)).capacity.segments == 0  # all rows are still growing
        store = MilvusStore(uri=milvus_standalone.uri)
        try:
            await store.flush(Place(collection=collection_alias("default", kb)))
        finally:
            await store.close()
        found = await until(client, kb, lambda found: found.capacity.segments > 0)
    assert found.capacity.segments == 1


async def test_lite_does_not_say_and_nothing_else_is_missing(
    start: Start,
    milvus_server: MilvusLite,  # noqa: F811
) -> None:
    kb = a_name()
    async with start(milvus_server.uri, "") as client:
        await client.create(kb)
        found = (await get(client, kb)).capacity
    assert (found.milvus_memory_bytes, found.milvus_used_bytes, found.segments) == (0, 0, 0)
    assert not found.at_risk
