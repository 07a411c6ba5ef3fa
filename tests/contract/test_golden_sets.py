"""Golden sets and evaluations, on each database they are kept in."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from retrieval.adapters import golden_sets as adapter
from retrieval.adapters.catalogue import SqlCatalogue
from retrieval.adapters.database import new_engine
from retrieval.adapters.golden_sets import SqlGoldenSets
from retrieval.adapters.migrate import migrate
from retrieval.core.golden import Evaluation, GoldenQuery, golden_set
from retrieval.core.model import SearchMode
from retrieval.core.names import document_id
from servicekit.errors import NotFound
from tests.support.golden_sets import NOW, add_documents, knowledge_base
from tests.support.postgres import shared_postgres

ONE = GoldenQuery(id="1", query="wo ist der 'Fuchs'; \u0000? 数", relevant={"a'.md": 1, "ü/b.md": 10})
TWO = GoldenQuery(id="2", query="x", relevant={"a.md": 1})
MADE = Evaluation(
    finish_time=datetime(2026, 1, 2, tzinfo=UTC),
    mode=SearchMode.DENSE,
    reranked=True,
    ndcg_at_10=0.1,
    recall_at_10=0.2,
    recall_at_100=1.0,
    mrr_at_10=0.0,
    queries=3,
    golden_set_sha256="f" * 64,
    revision=1_767_225_600_000,
    degraded=4,
    missing_documents=5,
)


@pytest.fixture(params=["sqlite", "postgres"])
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    if request.param == "sqlite":
        engine = new_engine(f"sqlite:///{tmp_path / 'catalogue.db'}")
    else:
        server = shared_postgres()
        engine = new_engine(server.url(await server.create()))
    await migrate(engine)
    for tenant in ("default", "other"):
        assert await SqlCatalogue(engine).insert_knowledge_base(knowledge_base(tenant))
    yield engine
    await engine.dispose()


@pytest.fixture
def store(engine: AsyncEngine) -> SqlGoldenSets:
    return SqlGoldenSets(engine)


async def test_a_golden_set_comes_back_as_it_was(store: SqlGoldenSets) -> None:
    assert await store.golden_set("default", "kb") is None
    for wanted in (golden_set([ONE]), golden_set([TWO, ONE])):
        await store.put_golden_set("default", "kb", wanted, now=NOW)
        assert await store.golden_set("default", "kb") == wanted
    assert await store.golden_set("other", "kb") is None
    await store.put_golden_set("default", "kb", None, now=NOW)
    assert await store.golden_set("default", "kb") is None


def test_the_hash_is_of_the_queries_in_any_order() -> None:
    assert golden_set([ONE, TWO]).sha256 == golden_set([TWO, ONE]).sha256
    assert golden_set([ONE, replace(TWO, relevant={"a.md": 2})]).sha256 != golden_set([ONE, TWO]).sha256


async def test_evaluations_are_listed_newest_first(
    store: SqlGoldenSets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter, "_KEPT", 5)
    made = [replace(MADE, degraded=number) for number in range(6)]
    for number in range(0, 6, 2):  # two modes each
        await store.add_evaluations("default", "kb", made[number : number + 2])
    await store.add_evaluations("other", "kb", [MADE])
    found = await store.evaluations("default", "kb", before="", limit=3)
    rest = await store.evaluations("default", "kb", before=found[-1][0], limit=3)
    # Of one call in their order; the oldest has gone.
    assert [one for _, one in found + rest] == [made[n] for n in (4, 5, 2, 3, 0)]
    assert [one for _, one in await store.evaluations("other", "kb", before="", limit=3)] == [MADE]


async def test_only_documents_that_can_be_found_are_ready(store: SqlGoldenSets, engine: AsyncEngine) -> None:
    catalogue = SqlCatalogue(engine)
    await add_documents(catalogue, ready=["a.md", "gone.md", "b.md"], waiting=["late.md"])
    await catalogue.mark_document_deleted("default", "kb", document_id("gone.md"), now=NOW)
    ids = [document_id(path) for path in ("a.md", "gone.md", "late.md", "never.md")]
    many = [document_id(str(number)) for number in range(1200)]
    assert await store.ready("default", "kb", [*many, *ids]) == {document_id("a.md")}
    assert await store.ready("other", "kb", ids) == set()


async def test_they_go_with_their_knowledge_base(store: SqlGoldenSets, engine: AsyncEngine) -> None:
    await store.put_golden_set("default", "kb", golden_set([TWO]), now=NOW)
    await store.add_evaluations("default", "kb", [MADE])
    catalogue = SqlCatalogue(engine)
    await catalogue.mark_knowledge_base_deleted("default", "kb")
    await catalogue.remove_knowledge_base("default", "kb")
    assert await store.golden_set("default", "kb") is None
    assert await store.evaluations("default", "kb", before="", limit=1) == []
    for call in (
        store.put_golden_set("default", "kb", golden_set([TWO]), now=NOW),
        store.add_evaluations("default", "kb", [MADE]),
    ):
        with pytest.raises(NotFound):
            await call
