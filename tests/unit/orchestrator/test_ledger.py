"""The evidence ledger: who is answered by whose search."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from orchestrator.core.ledger import UNKNOWN_REVISION, Found, Ledger
from orchestrator.core.model import Embedding, SearchQuery, SearchResult
from servicekit.errors import Unavailable
from tests.support.fake_knowledge import FakeEmbedder, FakeKnowledge, chunk, ok
from tests.support.fake_store import DOWN

pytestmark = pytest.mark.looptime


class Asking:
    """A ledger with somebody to ask."""

    def __init__(self, policy: str = "Semantic", *, angles: dict[str, float] | None = None) -> None:
        self.ledger = Ledger(policy=policy, min_similarity=0.9)
        self.knowledge = FakeKnowledge()
        self.embedder = FakeEmbedder(angles=angles or {})
        self.embed: Callable[[str], Awaitable[Embedding | None]] = lambda text: self.embedder.embed_query(
            "m", text
        )

    async def find(self, text: str, *, base: str = "docs", top_k: int = 2, **fields: Any) -> Found:
        query = SearchQuery(knowledge_base=base, text=text, top_k=top_k, **fields)
        return await self.ledger.find(
            query,
            embed=self.embed,
            search=self.knowledge.search,
            revision=lambda: self.knowledge.revision(base),
        )

    @property
    def searches(self) -> int:
        return len(self.knowledge.queries)


async def test_the_same_words_are_searched_once() -> None:
    asking = Asking("Exact")
    first = await asking.find("How long?")
    second = await asking.find("  how   LONG? ")
    assert (first.source, second.source, asking.searches) == ("SEARCH", "LEDGER_EXACT", 1)
    assert second.evidence == first.evidence
    assert not asking.embedder.texts


async def test_what_was_found_before_the_documents_changed_is_searched_for_again() -> None:
    asking = Asking(angles={"How long?": 0.0, "For how long?": 0.1})
    await asking.find("How long?")
    asking.knowledge.now = "2"  # the first search saw ""
    asking.knowledge.results = [replace(ok("c"), revision="2")]
    found = await asking.find("How long?")
    assert (found.source, [e.chunk.id for e in found.evidence]) == ("SEARCH", ["c"])
    assert (await asking.find("For how long?")).source == "LEDGER_SEMANTIC"
    asking.knowledge.now = "3"
    assert (await asking.find("For how long?")).source == "SEARCH"


async def test_where_nobody_knows_the_revision_the_run_keeps_what_it_found() -> None:
    asking = Asking("Exact")
    await asking.find("How long?")
    asking.knowledge.now = UNKNOWN_REVISION
    assert (await asking.find("How long?")).source == "LEDGER_EXACT"


@pytest.mark.parametrize("other", [{"base": "others"}, {"top_k": 3}])
async def test_another_scope_is_another_search(other: dict[str, object]) -> None:
    asking = Asking("Exact")
    await asking.find("How long?")
    found = await asking.find("How long?", **other)  # type: ignore[arg-type]
    assert (found.source, asking.searches) == ("SEARCH", 2)


async def test_never_means_never() -> None:
    asking = Asking("Never")
    assert [(await asking.find("x")).source for _ in range(2)] == ["SEARCH", "SEARCH"]
    assert asking.searches == 2


async def test_close_queries_are_searched_once_and_far_ones_are_not() -> None:
    asking = Asking(angles={"warranty?": 0.0, "guarantee?": 0.2, "colour?": 1.5})
    await asking.find("warranty?")
    close = await asking.find("guarantee?")
    far = await asking.find("colour?")
    assert (close.source, close.reused_query) == ("LEDGER_SEMANTIC", "warranty?")
    assert close.similarity == pytest.approx(0.98, abs=0.01)
    assert far.source == "SEARCH"
    assert asking.searches == 2
    # The service is spared the embedding.
    assert asking.knowledge.queries[0].vector is not None
    assert asking.knowledge.queries[0].model_fingerprint == "fp-3"


async def test_without_a_vector_the_service_embeds_by_itself() -> None:
    asking = Asking()

    async def none(text: str) -> None:
        return None

    asking.embed = none
    assert (await asking.find("x")).source == "SEARCH"
    assert asking.knowledge.queries[0].vector is None


@pytest.mark.parametrize("policy", ["Exact", "Semantic"])
async def test_a_search_under_way_is_waited_for(policy: str) -> None:
    asking = Asking(policy)
    asking.knowledge.gate = asyncio.Event()
    both = asyncio.gather(asking.find("x"), asking.find("X"))
    await asyncio.sleep(1)
    assert asking.searches == 1
    asking.knowledge.gate.set()
    assert [found.source for found in await both] == ["SEARCH", "LEDGER_EXACT"]


@pytest.mark.parametrize("slow", ["warranty?", "guarantee?"])
async def test_of_two_close_queries_at_once_one_waits_for_the_other(slow: str) -> None:
    asking = Asking(angles={"warranty?": 0.0, "guarantee?": 0.1})

    async def embed(text: str) -> Embedding:
        await asyncio.sleep(1.0 if text == slow else 0.1)
        return asking.embedder.vector(text)

    asking.embed = embed
    async with asyncio.timeout(10):
        both = await asyncio.gather(asking.find("warranty?"), asking.find("guarantee?"))
    assert sorted(found.source for found in both) == ["LEDGER_SEMANTIC", "SEARCH"]
    assert asking.searches == 1


@pytest.mark.parametrize(
    "other",
    [
        {"filter": "year > 1"},
        {"neighbours": 1},
        {"max_per_document": 2},
        {"mode": "Dense"},
        {"min_similarity": 0.5},
    ],
)
async def test_a_search_in_another_way_is_made(other: dict[str, Any]) -> None:
    asking = Asking(angles={"warranty?": 0.0, "guarantee?": 0.1})
    await asking.find("warranty?")
    assert (await asking.find("warranty?", **other)).source == "SEARCH"
    assert (await asking.find("guarantee?")).source == "LEDGER_SEMANTIC"
    assert (await asking.find("guarantee?", **other)).source == "LEDGER_SEMANTIC"
    assert asking.searches == 2


async def test_a_chunk_keeps_its_number_when_other_neighbours_come_along() -> None:
    asking = Asking()
    alone, wide = replace(chunk("a"), text="a"), replace(chunk("a"), text="before a after")
    asking.knowledge.results = [replace(ok(), chunks=(found,)) for found in (alone, wide, alone)]
    shown = [await asking.find(text, neighbours=n) for n, text in enumerate(["x", "y", "z"])]
    assert [[(e.number, e.chunk.text) for e in found.evidence] for found in shown] == [
        [(1, "a")],
        [(1, "before a after")],
        [(1, "a")],
    ]
    assert [e.chunk.text for e in asking.ledger.evidence] == ["before a after"]


@pytest.mark.parametrize("outcome", ["EMPTY", "DEGRADED", "FAILED"])
async def test_what_did_not_end_well_is_searched_again(outcome: str) -> None:
    asking = Asking()
    asking.knowledge.results = [SearchResult(outcome=outcome, reasons=("so",)), ok("a")]  # type: ignore[arg-type]
    assert (await asking.find("x")).result.outcome == outcome
    again = await asking.find("x")
    assert (again.source, again.result.outcome) == ("SEARCH", "OK")


async def test_of_many_that_wait_for_a_failing_search_one_tries_again() -> None:
    asking = Asking("Exact")
    asking.knowledge.results = [DOWN, ok("a")]
    asking.knowledge.gate = asyncio.Event()
    tasks = [asyncio.create_task(asking.find("x")) for _ in range(4)]
    await asyncio.sleep(1)
    asking.knowledge.gate.set()
    with pytest.raises(Unavailable):
        await tasks[0]
    sources = [(await task).source for task in tasks[1:]]
    assert sources == ["SEARCH", "LEDGER_EXACT", "LEDGER_EXACT"]
    assert asking.searches == 2


async def test_a_waiter_that_is_cancelled_leaves_the_search_alone() -> None:
    asking = Asking()
    asking.knowledge.gate = asyncio.Event()
    searcher = asyncio.create_task(asking.find("x"))
    waiter = asyncio.create_task(asking.find("x"))
    await asyncio.sleep(1)
    waiter.cancel()
    await asyncio.wait([waiter])
    assert waiter.cancelled()
    asking.knowledge.gate.set()
    assert (await searcher).result.outcome == "OK"


async def test_a_searcher_that_is_cancelled_is_followed_by_a_waiter() -> None:
    asking = Asking()
    asking.knowledge.gate = asyncio.Event()
    searcher = asyncio.create_task(asking.find("x"))
    waiter = asyncio.create_task(asking.find("x"))
    await asyncio.sleep(1)
    searcher.cancel()
    asking.knowledge.gate.set()
    assert (await waiter).source == "SEARCH"
    assert asking.searches == 2


async def test_cancelled_together_both_end() -> None:
    """As when a run is cancelled: a waiter must not take its own end for the searcher's."""
    asking = Asking()
    asking.knowledge.gate = asyncio.Event()
    tasks = [asyncio.create_task(asking.find("x")) for _ in range(3)]
    await asyncio.sleep(1)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert [task.cancelled() for task in tasks] == [True] * 3
    assert asking.searches == 1


async def test_a_chunk_keeps_its_number() -> None:
    asking = Asking("Never")
    asking.knowledge.results = [ok("a", "b"), ok("c", "a"), ok("a")]
    first, second = await asking.find("x"), await asking.find("y")
    other = await asking.find("x", base="others")
    assert [e.number for e in first.evidence] == [1, 2]
    assert [e.number for e in second.evidence] == [3, 1]
    assert [e.number for e in other.evidence] == [4]
    assert [e.number for e in asking.ledger.evidence] == [1, 2, 3, 4]


async def test_a_reuse_names_the_event_of_the_search() -> None:
    asking = Asking("Exact")
    query = SearchQuery(knowledge_base="docs", text="x", top_k=2)
    found = await asking.ledger.find(
        query,
        embed=asking.embed,
        search=asking.knowledge.search,
        revision=lambda: asking.knowledge.revision("docs"),
    )
    asking.ledger.reported(found, query, 7)
    assert (await asking.find("x")).reused_sequence == 7


async def test_what_is_remembered_is_bounded_and_forgetting_harms_nobody() -> None:
    asking = Asking("Exact")
    asking.knowledge.gate = asyncio.Event()
    asking.knowledge.results = [SearchResult(outcome="EMPTY")]
    tasks = [asyncio.create_task(asking.find(f"q{n}")) for n in range(300)]
    await asyncio.sleep(1)
    asking.knowledge.gate.set()
    assert {found.result.outcome for found in await asyncio.gather(*tasks)} == {"EMPTY"}
    asking.knowledge.results = [ok("a")]
    for number in range(257):
        await asking.find(f"q{number}")
    assert (await asking.find("q0")).source == "SEARCH"
    assert (await asking.find("q256")).source == "LEDGER_EXACT"
