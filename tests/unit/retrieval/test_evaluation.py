"""Evaluations: what is searched, how it is scored, and what stops them."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from retrieval.adapters.catalogue import SqlCatalogue
from retrieval.adapters.database import new_engine
from retrieval.adapters.golden_sets import SqlGoldenSets
from retrieval.adapters.migrate import migrate
from retrieval.adapters.quality_rows import SqlQuality
from retrieval.core.evaluation import Evaluations, Progress
from retrieval.core.golden import GoldenQuery, golden_set
from retrieval.core.model import Hit, Outcome, ReasonCode, SearchMode
from retrieval.core.search_model import Reason, SearchQuery, SearchResult
from servicekit.context import Caller, scope
from servicekit.errors import DeadlineExceeded, FailedPrecondition, NotFound, Unavailable
from servicekit.testing import FakeClock
from tests.support.golden_sets import add_documents, knowledge_base

SET = golden_set(
    [
        GoldenQuery(id="1", query="foxes", relevant={"a.md": 1, "b.md": 1}),
        GoldenQuery(id="2", query="cats", relevant={"c.md": 1}),
    ]
)
OK = SearchResult(outcome=Outcome.OK, reasons=(), hits=(), revision=7, ready_documents=3)


class Script:
    """Searches that find what the test says."""

    def __init__(self) -> None:
        self.found: dict[str, Sequence[str]] = {"foxes": ["a.md", "x.md", "b.md"], "cats": []}
        self.result = OK
        self.asked: list[SearchQuery] = []
        self.running = self.most = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.full = asyncio.Event()

    async def run(self, query: SearchQuery) -> SearchResult:
        self.asked.append(query)
        self.running += 1
        self.most = max(self.most, self.running)
        if self.running == 4:
            self.full.set()
        try:
            await self.gate.wait()
            await asyncio.sleep(0)
        finally:
            self.running -= 1
        hits = [_hit(number, path) for number, path in enumerate(self.found.get(query.text, ()))]
        return replace(self.result, hits=tuple(hits))


def _hit(number: int, path: str) -> Hit:
    return Hit(
        id=str(number),
        document=path,
        title=path,
        ordinal=number,
        text="",
        location="",
        score=1.0 / (1 + number),
    )


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
async def evaluations(tmp_path: Path, script: Script) -> AsyncIterator[Evaluations]:
    engine = new_engine(f"sqlite:///{tmp_path / 'catalogue.db'}")
    await migrate(engine)
    catalogue = SqlCatalogue(engine)
    await catalogue.insert_knowledge_base(knowledge_base())
    await add_documents(catalogue, ready=["a.md", "b.md", "c.md"], waiting=["late.md"])
    with scope(caller=Caller("default", "ada")):
        yield Evaluations(
            catalogue=catalogue,
            golden_sets=SqlGoldenSets(engine),
            quality=SqlQuality(engine),
            search=script,
            clock=FakeClock(datetime(2026, 1, 1, tzinfo=UTC)),
        )
    await engine.dispose()


async def run(evaluations: Evaluations, *modes: SearchMode) -> list[Progress]:
    return [progress async for progress in evaluations.run("kb", modes)]


async def test_scores_of_every_mode(evaluations: Evaluations, script: Script) -> None:
    await evaluations.put_golden_set("kb", SET)
    steps = await run(evaluations, SearchMode.DENSE, SearchMode.SPARSE)
    assert [(step.done, step.total) for step in steps] == [(0, 4), (2, 4), (4, 4)]
    dense, sparse = steps[-1].evaluations
    assert (dense.mode, sparse.mode) == (SearchMode.DENSE, SearchMode.SPARSE)
    # foxes: both found, at ranks 1 and 3 of documents; cats: nothing.
    assert dense.ndcg_at_10 == pytest.approx((1 + 1 / 2) / (1 + 0.63093) / 2, abs=1e-4)
    assert (dense.recall_at_10, dense.recall_at_100, dense.mrr_at_10) == (0.5, 0.5, 0.5)
    assert (dense.queries, dense.revision, dense.golden_set_sha256) == (2, 7, SET.sha256)
    assert not dense.reranked
    assert [found for _, found in await evaluations.newest("kb", before="", limit=9)] == [dense, sparse]
    assert {(query.top_k, query.mode) for query in script.asked} == {
        (100, SearchMode.DENSE),
        (100, SearchMode.SPARSE),
    }


async def test_without_modes_it_is_the_knowledge_bases_own(evaluations: Evaluations) -> None:
    await evaluations.put_golden_set("kb", SET)
    assert [e.mode for e in (await run(evaluations))[-1].evaluations] == [SearchMode.HYBRID]


async def test_documents_that_cannot_be_found_are_named_and_count(
    evaluations: Evaluations, script: Script
) -> None:
    wanted = {"a.md": 1, "late.md": 1, "gone.md": 1}
    await evaluations.put_golden_set("kb", golden_set([GoldenQuery(id="1", query="foxes", relevant=wanted)]))
    first, *_, last = await run(evaluations)
    assert first.missing == last.missing == ("gone.md", "late.md")
    assert last.evaluations[0].missing_documents == 2
    assert last.evaluations[0].recall_at_100 == pytest.approx(1 / 3)


async def test_a_set_of_which_nothing_is_there_is_refused(evaluations: Evaluations, script: Script) -> None:
    other = golden_set([GoldenQuery(id="1", query="q", relevant={"docs/a.md": 1})])
    await evaluations.put_golden_set("kb", other)
    with pytest.raises(FailedPrecondition, match=r"docs/a\.md") as caught:
        await run(evaluations)
    assert caught.value.reason == "DOCUMENT_NOT_FOUND"
    assert script.asked == []


async def test_degraded_searches_are_counted(evaluations: Evaluations, script: Script) -> None:
    script.result = replace(OK, outcome=Outcome.DEGRADED, stages={"rerank": 0.1})
    await evaluations.put_golden_set("kb", SET)
    (made,) = (await run(evaluations))[-1].evaluations
    assert (made.degraded, made.reranked) == (2, True)


@pytest.mark.parametrize(
    ("code", "error"),
    [(ReasonCode.STORE_UNAVAILABLE, Unavailable), (ReasonCode.DEADLINE, DeadlineExceeded)],
)
async def test_a_search_that_could_not_look_ends_it_and_nothing_is_stored(
    evaluations: Evaluations, script: Script, code: ReasonCode, error: type[Exception]
) -> None:
    await evaluations.put_golden_set("kb", SET)
    script.result = replace(
        OK, outcome=Outcome.FAILED, reasons=(Reason(code=code, message="Milvus is away"),)
    )
    with pytest.raises(error, match="Milvus is away"):
        await run(evaluations)
    assert await evaluations.newest("kb", before="", limit=9) == []


async def test_it_searches_a_few_at_a_time_and_stops_when_nobody_listens(
    evaluations: Evaluations, script: Script
) -> None:
    many = [GoldenQuery(id=str(n), query=f"q{n}", relevant={"a.md": 1}) for n in range(20)]
    await evaluations.put_golden_set("kb", golden_set(many))
    steps = evaluations.run("kb", [SearchMode.DENSE])
    await anext(steps)
    assert (await anext(steps)).done == script.most == 4
    script.gate.clear()
    script.full.clear()
    waiting = asyncio.ensure_future(anext(steps))
    await script.full.wait()
    waiting.cancel()
    await asyncio.wait([waiting])
    assert (script.running, len(script.asked)) == (0, 8)
    assert await evaluations.newest("kb", before="", limit=9) == []


async def test_what_is_not_there(evaluations: Evaluations) -> None:
    with pytest.raises(NotFound) as caught:
        await run(evaluations)
    assert caught.value.reason == "GOLDEN_SET_NOT_FOUND"
    await evaluations.put_golden_set("kb", SET)
    assert await evaluations.golden_set("kb") == SET
    await evaluations.put_golden_set("kb", None)
    with pytest.raises(NotFound):
        await evaluations.golden_set("kb")
    with scope(caller=Caller("other", "eve")):
        for call in (
            evaluations.put_golden_set("kb", SET),
            evaluations.golden_set("kb"),
            evaluations.newest("kb", before="", limit=1),
            run(evaluations),
        ):
            with pytest.raises(NotFound) as missing:
                await call
            assert missing.value.reason == "KNOWLEDGE_BASE_NOT_FOUND"
