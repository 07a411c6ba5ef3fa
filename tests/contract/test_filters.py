"""Every store finds what `core.filters.matches` says, whatever values are in metadata and filter."""

import functools
import uuid
from collections.abc import AsyncIterator

import numpy as np
import pytest
from hypothesis import strategies as st

from retrieval.core.filters import And, Compare, Filter, Not, OneOf, Operator, Or, checked, matches
from retrieval.core.index import CollectionSpec
from retrieval.core.metadata import checked_metadata
from retrieval.core.model import ChunkRecord, Place
from retrieval.core.ports import VectorStore
from tests.support.filters import FIELDS, examples, filters, metadata, strings
from tests.support.vector_stores import DIMENSION, axis, dense, put, rows, sparse, walked

SHARED = f"shared_{uuid.uuid4().hex}"
MINE = Place(collection=SHARED, scope='mine" or "')
THEIRS = Place(collection=SHARED, scope="theirs")
_ROWS, _FILTERS = 60, 80


@functools.cache  # making them takes longer than asking a store
def _filters(number: int) -> list[Filter]:
    return [checked(made, FIELDS) for made in examples(filters, number)]


@functools.cache
def _records() -> list[ChunkRecord]:
    made = examples(st.tuples(metadata, strings), _ROWS)
    return [
        ChunkRecord(
            id=f"c{number:03}",
            document=f"d{number % 7}",
            title=path,
            version="v",
            ordinal=number,
            text=f"word{number}",
            location="",
            metadata=checked_metadata(values, FIELDS, field="metadata"),
        )
        for number, (values, path) in enumerate(made)
    ]


def _expected(records: list[ChunkRecord], filter_: Filter) -> list[str]:
    return [
        record.id
        for record in records
        if matches(filter_, document=record.document, path=record.title, metadata=record.metadata)
    ]


async def test_hostile_values_find_the_same_everywhere(store: VectorStore, place: Place) -> None:
    records = _records()
    await put(store, place, records)
    some = 0
    for filter_ in _filters(_FILTERS):
        expected = _expected(records, filter_)
        found = [chunk.record.id for chunk in await walked(store, place, filter=filter_)]
        assert sorted(found) == expected, filter_
        some += 0 < len(expected) < len(records)
    assert some > _FILTERS / 3  # else they say little


async def test_searches_find_only_what_the_filter_allows(store: VectorStore, place: Place) -> None:
    records = _records()
    await put(store, place, records)
    capabilities = await store.capabilities()
    both = capabilities.sparse
    if capabilities.flush_after_ingest:  # Lite: the other test is about rows that are not flushed
        await store.flush(place)
    for filter_ in _filters(_FILTERS)[:15]:
        expected = _expected(records, filter_)
        hits = await dense(store, place, axis(0), limit=len(records), filter=filter_)
        assert sorted(hit.id for hit in hits) == expected, filter_
        if both:
            hits = await sparse(store, place, " ".join(r.text for r in records), limit=100, filter=filter_)
            assert sorted(hit.id for hit in hits) == expected, filter_


@pytest.fixture
async def shared(store: VectorStore) -> AsyncIterator[list[ChunkRecord]]:
    """Two knowledge bases in one collection, with the same documents."""
    records = _records()
    vectors = np.stack([axis(n % DIMENSION) for n in range(len(records))])
    for place in (MINE, THEIRS):
        await store.ensure_collection(CollectionSpec(place=place, dimension=DIMENSION, fields=FIELDS))
    await store.upsert(MINE, records[: _ROWS // 2], vectors[: _ROWS // 2])
    await store.upsert(THEIRS, records[_ROWS // 2 :], vectors[_ROWS // 2 :])
    yield records
    await store.drop(Place(collection=SHARED))


async def test_no_filter_leads_out_of_the_scope(store: VectorStore, shared: list[ChunkRecord]) -> None:
    everything = Or((Compare("text", Operator.EQUAL, "x"), Not(Compare("text", Operator.EQUAL, "x"))))
    for made in (everything, Not(And((everything, Not(everything)))), *_filters(_FILTERS)[:20]):
        filter_ = checked(made, FIELDS)
        for place, records in ((MINE, shared[: _ROWS // 2]), (THEIRS, shared[_ROWS // 2 :])):
            found = [chunk.record.id for chunk in await walked(store, place, filter=filter_)]
            assert sorted(found) == _expected(records, filter_), filter_


async def test_the_most_that_a_filter_may_hold(store: VectorStore, place: Place) -> None:
    records = _records()[:3]
    await store.upsert(place, records, rows(axis(0), axis(1), axis(2)))
    long = tuple(f"{n:03}".rjust(1024, '"') for n in range(252))
    filter_: Filter = Or((OneOf("text", long), OneOf("$document", ("d1", "d2", *"ab"))))
    for _ in range(6):
        filter_ = Not(filter_)
    found = await walked(store, place, filter=checked(filter_, FIELDS))
    assert [chunk.record.document for chunk in found] == ["d1", "d2"]
