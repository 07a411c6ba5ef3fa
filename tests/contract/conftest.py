"""The vector stores that contract tests run against."""

import uuid
from collections.abc import AsyncIterator

import pytest

from retrieval.adapters.memory import MemoryStore
from retrieval.adapters.milvus import MilvusStore
from retrieval.core.index import CollectionSpec
from retrieval.core.model import Place
from retrieval.core.ports import VectorStore
from tests.support.milvus import milvus_server  # noqa: F401
from tests.support.vector_stores import DIMENSION


@pytest.fixture(params=["memory", "milvus_lite"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[VectorStore]:
    """Each of them. Tests of other ports have a `store` of their own."""
    if request.param == "memory":
        yield MemoryStore()
        return
    server = request.getfixturevalue("milvus_server")
    milvus = MilvusStore(uri=server.uri)
    try:
        yield milvus
    finally:
        await milvus.close()


@pytest.fixture
async def place(store: VectorStore) -> AsyncIterator[Place]:
    """An empty collection with an alias."""
    alias = f"kb_{uuid.uuid4().hex}"
    place = Place(collection=f"{alias}_1", alias=alias)
    assert await store.ensure_collection(CollectionSpec(place=place, dimension=DIMENSION))
    yield place
    await store.drop(place)
