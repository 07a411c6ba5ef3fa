"""The vector store while its Milvus is killed, frozen or does not answer."""

import asyncio
import contextlib
import os
import socket
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta

import pytest

from retrieval.adapters.milvus import MilvusStore
from retrieval.core.index import CollectionSpec
from retrieval.core.model import Place
from servicekit.context import scope
from servicekit.errors import DeadlineExceeded, ServiceError, Unavailable
from tests.support.milvus import MilvusLite, milvus_lite
from tests.support.milvus_binary import milvus_folder
from tests.support.milvus_server import MilvusStandalone
from tests.support.vector_stores import DIMENSION, axis, dense, record, rows, walked

pytestmark = pytest.mark.alone

Server = MilvusLite | MilvusStandalone
_BATCH = 20


@pytest.fixture(params=["lite", "standalone"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One of its own: others must not notice what is done to it."""
    if request.param == "lite":
        with milvus_lite(tmp_path_factory.mktemp("lite")) as lite:
            yield lite
        return
    if not os.environ.get("CONFORMANCE"):
        pytest.skip(
            "NOT RUN against Standalone, which takes half a minute to come back: make conformance does it"
        )
    standalone = MilvusStandalone(milvus_folder(), tmp_path_factory.mktemp("standalone"))
    standalone.start()
    try:
        yield standalone
    finally:
        standalone.kill()


@pytest.fixture
async def store(server: Server) -> AsyncIterator[MilvusStore]:
    store = MilvusStore(uri=server.uri, timeout_s=2)
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture
async def place(store: MilvusStore) -> Place:
    alias = f"kb_{uuid.uuid4().hex}"
    place = Place(collection=f"{alias}_1", alias=alias)
    await store.ensure_collection(CollectionSpec(place=place, dimension=DIMENSION))
    await store.upsert(place, [record(0)], rows(axis(0)))
    await store.settle(place)
    return place


async def test_killed_in_the_middle_of_writes_and_searches(
    server: Server, store: MilvusStore, place: Place
) -> None:
    acknowledged = {"d1-0"}
    searches = failures = 0
    enough = asyncio.Event()

    async def write() -> None:
        for start in range(1, 100_000, _BATCH):
            numbers = range(start, start + _BATCH)
            while True:
                try:
                    await store.upsert(
                        place, [record(n) for n in numbers], rows(*(axis(n % DIMENSION) for n in numbers))
                    )
                    break
                except Unavailable:
                    await asyncio.sleep(0.1)
            acknowledged.update(f"d1-{n}" for n in numbers)
            if enough.is_set():
                return

    async def search() -> None:
        nonlocal searches, failures
        while not enough.is_set():
            try:
                assert await dense(store, place, axis(0), limit=3)  # never as if nothing were there
                searches += 1
            except Unavailable:
                failures += 1
                await asyncio.sleep(0.05)

    async def until(done: Callable[[], bool]) -> None:
        while not done():  # noqa: ASYNC110  # two counts, under a time-out
            await asyncio.sleep(0.02)

    async with asyncio.timeout(100), asyncio.TaskGroup() as group:
        group.create_task(write())
        group.create_task(search())
        await until(lambda: len(acknowledged) > 10 * _BATCH and searches > 3)
        await asyncio.to_thread(server.kill)
        wrote, searched = len(acknowledged), searches
        await asyncio.to_thread(server.start)
        await until(lambda: len(acknowledged) > wrote + 10 * _BATCH and searches > searched + 3)
        enough.set()
    await store.settle(place)
    assert {chunk.record.id for chunk in await walked(store, place)} == acknowledged
    assert await store.count(place) == len(acknowledged)


async def test_frozen_it_costs_a_caller_its_deadline_and_no_more(
    server: Server, store: MilvusStore, place: Place
) -> None:
    server.freeze()
    try:
        began = time.monotonic()
        with pytest.raises(DeadlineExceeded), scope(timeout=timedelta(seconds=0.8)):
            await dense(store, place, axis(0), limit=1)
        assert time.monotonic() - began < 1.6
        began = time.monotonic()
        with pytest.raises(Unavailable, match="no answer in time"):  # nobody's deadline: our own
            await store.count(place)
        assert time.monotonic() - began < 3.5  # once 2 s, not tried again
    finally:
        server.thaw()
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(ServiceError):
                assert await dense(store, place, axis(0), limit=1)
                return


async def test_a_walk_that_breaks_off_is_an_error(server: Server, store: MilvusStore, place: Place) -> None:
    await store.upsert(place, [record(n) for n in range(20)], rows(*(axis(n % DIMENSION) for n in range(20))))
    await store.settle(place)
    walk = store.iterate(place, batch=5)
    assert len(await anext(walk)) == 5
    await asyncio.to_thread(server.kill)
    with pytest.raises(Unavailable):
        await anext(walk)


async def test_a_server_that_accepts_and_says_nothing() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        store = MilvusStore(uri=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout_s=1)
        began = time.monotonic()
        with pytest.raises(DeadlineExceeded), scope(timeout=timedelta(seconds=0.5)):
            await store.connect()
        assert time.monotonic() - began < 1.5
        with pytest.raises(Unavailable):
            await store.connect()
        assert time.monotonic() - began < 6
        await store.close()
