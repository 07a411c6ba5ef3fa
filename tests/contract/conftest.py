"""The vector stores that contract tests run against."""

import os
import uuid
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from retrieval.adapters.memory import MemoryStore
from retrieval.adapters.milvus import MilvusStore
from retrieval.core.index import DEFAULT_INDEX, BuiltIndex, CollectionSpec
from retrieval.core.model import Place
from retrieval.core.ports import VectorStore
from tests.support.milvus import bare_client, milvus_server  # noqa: F401
from tests.support.milvus_cluster import milvus_cluster  # noqa: F401
from tests.support.milvus_server import milvus_standalone  # noqa: F401
from tests.support.vector_stores import DIMENSION

Make = Callable[..., Awaitable[Place]]

_SERVERS = {"lite": "milvus_server", "standalone": "milvus_standalone"}
if os.environ.get("CONFORMANCE"):  # make conformance
    _SERVERS["distributed"] = "milvus_cluster"
# On a server a new collection takes 2 to 3 s to load, so tests that need no new one share it.
_SHARED = Place(collection="shared_1", alias="shared")


@pytest.fixture(params=["memory", *_SERVERS])
def backend(request: pytest.FixtureRequest) -> str:
    """Which of them."""
    return str(request.param)


@pytest.fixture
def uri(request: pytest.FixtureRequest, backend: str) -> str:
    """Of the server; empty for memory."""
    return "" if backend == "memory" else str(request.getfixturevalue(_SERVERS[backend]).uri)


@pytest.fixture
async def store(uri: str) -> AsyncIterator[VectorStore]:
    """Each of them. Tests of other ports have a `store` of their own."""
    if not uri:
        yield MemoryStore()
        return
    milvus = MilvusStore(uri=uri)
    try:
        yield milvus
    finally:
        await milvus.close()


@pytest.fixture
async def make(store: VectorStore) -> AsyncIterator[Make]:
    """Makes collections that are dropped after the test."""
    made: list[Place] = []

    async def make_one(place: Place | None = None, index: BuiltIndex = DEFAULT_INDEX) -> Place:
        alias = f"kb_{uuid.uuid4().hex}"
        place = place or Place(collection=f"{alias}_1", alias=alias)
        made.append(place)
        assert await store.ensure_collection(CollectionSpec(place=place, dimension=DIMENSION, index=index))
        return place

    yield make_one
    for place in made:
        await store.drop(place)


@pytest.fixture
async def place(store: VectorStore, backend: str, uri: str, make: Make) -> Place:
    """An empty collection with an alias."""
    if backend in ("memory", "lite"):
        return await make()
    if not await store.ensure_collection(CollectionSpec(place=_SHARED, dimension=DIMENSION)):
        client = bare_client(uri)
        try:
            client.delete(_SHARED.collection, filter='id != ""')
        finally:
            client.close()
        await store.settle(_SHARED)
    return _SHARED


@pytest.fixture
async def keyword_search(store: VectorStore) -> None:
    """For tests that need it."""
    if not (await store.capabilities()).sparse:
        pytest.skip("this Milvus has no keyword search; another test sees that it says so")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What holds on which store, of `make conformance`."""
    if not os.environ.get("CONFORMANCE"):
        return
    table: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.getreports(outcome):
            backend = report.nodeid.partition("[")[2].rstrip("]").partition("-")[0]
            not_run = outcome == "skipped" and "NOT RUN" in str(report.longrepr)
            table[backend]["not run" if not_run else outcome] += 1
            table[backend]["seconds"] += round(report.duration)
    columns = ("passed", "failed", "error", "skipped", "not run", "seconds")
    terminalreporter.section("Conformance of vector stores; skipped: the store says that it cannot")
    terminalreporter.line("".join(f"{column:>12}" for column in ("", *columns)))
    for backend in ("memory", *_SERVERS):
        row = "".join(f"{table[backend][column]:>12}" for column in columns)
        terminalreporter.line(f"{backend:>12}{row}")
