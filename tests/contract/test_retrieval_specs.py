"""What knowledge bases were asked to be and what documents say about themselves, on each database."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from retrieval.adapters.catalogue import SqlCatalogue
from retrieval.adapters.database import new_engine
from retrieval.adapters.migrate import migrate
from retrieval.adapters.specs import SqlSpecs
from retrieval.core.model import (
    Document,
    DocumentState,
    KnowledgeBase,
    KnowledgeBaseSpec,
    Place,
    Scalar,
    SearchMode,
    Tenancy,
)
from retrieval.core.search_options import ReciprocalRank, SearchDefaults
from tests.support.postgres import shared_postgres
from tests.support.specs import FULL, NOW, PLAIN, knowledge_base


@pytest.fixture(params=["sqlite", "postgres"])
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    if request.param == "sqlite":
        engine = new_engine(f"sqlite:///{tmp_path / 'catalogue.db'}")
    else:
        server = shared_postgres()
        engine = new_engine(server.url(await server.create()))
    await migrate(engine)
    yield engine
    await engine.dispose()


async def read(catalogue: SqlCatalogue, id_: str) -> KnowledgeBase:
    snapshot = await catalogue.snapshot("default", id_)
    assert snapshot is not None
    return snapshot.knowledge_base


@pytest.mark.parametrize("spec", [PLAIN, FULL], ids=["plain", "full"])
async def test_a_spec_comes_back_as_it_was(engine: AsyncEngine, spec: KnowledgeBaseSpec) -> None:
    catalogue = SqlCatalogue(engine)
    assert await catalogue.insert_knowledge_base(knowledge_base("kb", spec))
    assert await read(catalogue, "kb") == knowledge_base("kb", spec)


async def test_a_spec_is_replaced_by_one_of_two_callers(engine: AsyncEngine) -> None:
    catalogue, specs = SqlCatalogue(engine), SqlSpecs(engine)
    before = knowledge_base("kb", PLAIN)
    await catalogue.insert_knowledge_base(before)
    await catalogue.insert_knowledge_base(knowledge_base("other", PLAIN))
    wanted = [
        replace(PLAIN, search_mode=SearchMode.SPARSE),
        replace(PLAIN, search_defaults=SearchDefaults(ranker=ReciprocalRank(k=7))),
    ]
    done = await asyncio.gather(*(specs.replace_spec(before, spec, now=NOW) for spec in wanted))
    assert sorted(done) == [False, True]
    after = await read(catalogue, "kb")
    assert (after.spec, after.generation) == (wanted[done.index(True)], 2)
    assert after.revision > before.revision  # what a search finds may be another
    assert (await read(catalogue, "other")).generation == 1

    assert await specs.replace_spec(after, PLAIN, now=NOW)
    assert (await read(catalogue, "kb")).generation == 3
    await catalogue.mark_knowledge_base_deleted("default", "kb")
    assert not await specs.replace_spec(at_generation(after, 3), FULL, now=NOW)


def at_generation(before: KnowledgeBase, generation: int) -> KnowledgeBase:
    return replace(before, generation=generation)


async def test_rows_of_the_code_before_have_the_defaults(engine: AsyncEngine) -> None:
    """Its INSERT names neither generation nor spec nor metadata."""
    catalogue = SqlCatalogue(engine)
    async with engine.begin() as connection:
        await connection.execute(
            text(
                "INSERT INTO knowledge_bases (tenant, id, embedding_model, max_tokens, overlap_tokens, "
                "search_mode, dimension, model_fingerprint, revision, alias, collection, create_time_ms) "
                "VALUES ('default', 'kb', 'models/m', 200, 30, 3, 8, 'f1', 1, 'alias_kb', 'c_kb', :now)"
            ),
            {"now": round(NOW.timestamp() * 1000)},
        )
    assert await read(catalogue, "kb") == knowledge_base("kb", PLAIN)
    await catalogue.put_document(document({}))
    async with engine.begin() as connection:
        await connection.execute(text("UPDATE documents SET metadata = NULL"))
    found = await catalogue.get_document("default", "kb", "d1")
    assert found is not None
    assert found.metadata == {}


@pytest.mark.parametrize(
    ("tenancy", "expected"),
    [
        (Tenancy.COLLECTION, Place(collection="c_kb")),
        (Tenancy.PARTITION_KEY, None),
        (Tenancy.DATABASE, None),
    ],
)
async def test_what_a_reindex_left_is_found_where_it_is(
    engine: AsyncEngine, tenancy: Tenancy, expected: Place | None
) -> None:
    catalogue = SqlCatalogue(engine)
    before = knowledge_base("kb", replace(PLAIN, tenancy=tenancy))
    await catalogue.insert_knowledge_base(before)
    assert await catalogue.start_reindex(before, collection="c2", dimension=4, fingerprint="f2", now=NOW)
    place = replace(before.place, alias="")  # the alias leads to the new one
    assert expected is None or place == expected
    assert await catalogue.doomed_collections() == [("c_kb", place)]
    after = (await read(catalogue, "kb")).place
    assert (after.scope or after.collection) == "c2"
    assert after.database == before.place.database
    assert not before.place.scope or after.collection != before.place.collection


def document(metadata: Mapping[str, Scalar], *, sha256: str = "1" * 64, blob: str = "b1") -> Document:
    return Document(
        tenant="default",
        knowledge_base="kb",
        id="d1",
        path="a.md",
        media_type="text/markdown",
        size_bytes=10,
        sha256=sha256,
        blob=blob,
        state=DocumentState.PENDING,
        metadata=metadata,
        create_time=NOW,
        update_time=NOW,
    )


async def test_the_same_bytes_with_other_metadata_wait_again(engine: AsyncEngine) -> None:
    catalogue = SqlCatalogue(engine)
    await catalogue.insert_knowledge_base(knowledge_base("kb", FULL))
    values: Mapping[str, Scalar] = {"year": 2**53 + 1, "product": 'ü"\\', "price": 0.1, "old": True}
    stored, unused = await catalogue.put_document(document(values))
    assert (stored.metadata, unused) == (values, None)

    claim = await catalogue.claim(lease=timedelta(seconds=60), now=NOW)
    assert claim is not None
    assert claim.document.metadata == values
    stored, unused = await catalogue.put_document(document({"year": 1}, blob="b2"))
    assert (stored.state, stored.metadata, stored.blob, unused) == (
        DocumentState.PENDING,
        {"year": 1},
        "b1",
        "b2",
    )
    done = await catalogue.finish(claim, collection="c_kb", chunk_count=3, warnings=["w"], now=NOW)
    assert not done  # its chunks would have the former values
    await catalogue.abandon(claim)

    claim = await catalogue.claim(lease=timedelta(seconds=60), now=NOW)
    assert claim is not None
    assert await catalogue.finish(claim, collection="c_kb", chunk_count=3, warnings=["w"], now=NOW)
    same, unused = await catalogue.put_document(document({"year": 1}, blob="b3"))
    assert (same.state, unused) == (DocumentState.READY, "b3")

    again, unused = await catalogue.put_document(document({"year": 2}, blob="b4"))
    assert (again.state, again.metadata, again.blob, unused) == (
        DocumentState.PENDING,
        {"year": 2},
        "b1",
        "b4",
    )
    # It moves to itself: its chunks are copied.
    assert (again.moved_from, again.version, again.chunk_count) == ("d1", claim.token, 3)
    assert again.warnings == ("w",)
    replaced, unused = await catalogue.put_document(document({"year": 2}, sha256="2" * 64, blob="b5"))
    assert (replaced.moved_from, replaced.blob, unused) == ("", "b5", "b1")
