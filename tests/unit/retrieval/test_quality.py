"""Quality by schedule: what is due, what waits, what failures do, and what the scores mean."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine

from retrieval import metrics
from retrieval.adapters.catalogue import SqlCatalogue
from retrieval.adapters.database import new_engine
from retrieval.adapters.golden_sets import SqlGoldenSets
from retrieval.adapters.golden_tables import evaluation_schedules
from retrieval.adapters.migrate import migrate
from retrieval.adapters.quality_rows import SqlQuality
from retrieval.adapters.specs import SqlSpecs
from retrieval.core.evaluation import Evaluations
from retrieval.core.golden import golden_set
from retrieval.core.model import EvaluationPolicy, Outcome, ReasonCode
from retrieval.core.names import document_id
from retrieval.core.quality import Quality, QualityReason, QualityState, Watched, quality_of
from retrieval.core.quality_worker import QualityLimits, QualityWorker
from retrieval.core.search_model import Reason
from servicekit.context import Caller, scope
from servicekit.testing import FakeClock
from tests.support.golden_sets import NOW, add_documents, knowledge_base
from tests.unit.retrieval.test_evaluation import OK, SET, Script

POLICY = EvaluationPolicy(thresholds={"mrr_at_10": 0.5, "recall_at_10": 0.4}, interval_s=3600)
LIMITS = QualityLimits()


class World:
    """A knowledge base with a golden set, and a worker that is run by hand."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine
        self.clock = FakeClock(NOW)
        self.catalogue = SqlCatalogue(engine)
        self.golden_sets = SqlGoldenSets(engine)
        self.script = Script()
        self.store = SqlQuality(engine)
        self.seen: Sequence[Watched] = ()
        self.evaluations = Evaluations(
            catalogue=self.catalogue,
            golden_sets=self.golden_sets,
            quality=self.store,
            search=self.script,
            clock=self.clock,
        )
        self.worker = self.new_worker()

    def new_worker(self, store: SqlQuality | None = None) -> QualityWorker:
        def seen(everything: Sequence[Watched], now: datetime) -> None:
            self.seen = everything

        return QualityWorker(
            catalogue=self.catalogue,
            quality=store or self.store,
            evaluations=self.evaluations,
            clock=self.clock,
            limits=LIMITS,
            seen=seen,
        )

    async def watch(self, policy: EvaluationPolicy | None = POLICY) -> None:
        snapshot = await self.catalogue.snapshot("default", "kb")
        assert snapshot is not None
        found = snapshot.knowledge_base
        specs = SqlSpecs(self.engine)
        assert await specs.replace_spec(found, replace(found.spec, evaluation=policy), now=self.clock.now())

    async def set(self, wanted: Any = SET) -> None:
        await self.golden_sets.put_golden_set("default", "kb", wanted, now=self.clock.now())

    async def quality(self) -> Quality:
        found = await self.store.of("default", ["kb"])
        return quality_of(found["kb"], now=self.clock.now())

    async def later(self, **by: float) -> int:
        self.clock.advance(timedelta(**by))
        return await self.worker.run_once()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    engine = new_engine(f"sqlite:///{tmp_path / 'catalogue.db'}")
    await migrate(engine)
    world = World(engine)
    await world.catalogue.insert_knowledge_base(knowledge_base())
    yield world
    await engine.dispose()


@pytest.fixture
async def ready(world: World) -> World:
    await add_documents(world.catalogue, ready=["a.md", "b.md", "c.md"])
    await world.watch()
    await world.set()
    return world


async def test_it_is_measured_at_once_then_by_its_interval(ready: World) -> None:
    first = await ready.quality()
    assert (first.state, first.reason) == (QualityState.UNKNOWN, QualityReason.NOT_EVALUATED)
    assert first.next_time == NOW
    assert await ready.worker.run_once() == 1
    found = await ready.quality()
    assert (found.state, found.reason) == (QualityState.GOOD, QualityReason.ABOVE_THRESHOLDS)
    assert found.next_time == NOW + timedelta(hours=1)
    assert found.message == "MRR@10 is 0.5000, recall@10 is 0.5000"
    assert await ready.later(minutes=59) == 0
    assert await ready.later(minutes=1) == 1
    with scope(caller=Caller("default", "ada")):
        history = await ready.evaluations.newest("kb", before="", limit=9)
    assert [one.finish_time for _, one in history] == [NOW + timedelta(hours=1), NOW]


async def test_an_irrelevant_index_degrades_it_and_the_recovery_mends_it(ready: World) -> None:
    await ready.worker.run_once()
    ready.script.found = {"foxes": ["x.md", "y.md"], "cats": []}
    assert await ready.later(hours=1) == 1
    found = await ready.quality()
    assert (found.state, found.reason) == (QualityState.DEGRADED, QualityReason.BELOW_THRESHOLDS)
    assert [(one.metric, one.value, one.threshold) for one in found.shortfalls] == [
        ("mrr_at_10", 0, 0.5),
        ("recall_at_10", 0, 0.4),
    ]
    assert found.message.startswith("MRR@10 is 0.0000, below its threshold 0.5, recall@10 is")
    ready.script.found = {"foxes": ["a.md"], "cats": ["c.md"]}
    assert await ready.later(hours=1) == 1
    assert (await ready.quality()).state == QualityState.GOOD


async def test_documents_that_have_all_gone_are_the_worst_there_is(ready: World) -> None:
    await ready.worker.run_once()
    for path in ("a.md", "b.md", "c.md"):
        id_ = document_id(path)
        await ready.catalogue.mark_document_deleted("default", "kb", id_, now=ready.clock.now())
    ready.script.found = {}
    assert await ready.later(hours=1) == 1
    found = await ready.quality()
    assert found.state == QualityState.DEGRADED
    assert "3 documents that should be found are not there" in found.message


async def test_one_without_documents_is_not_measured(world: World) -> None:
    await world.watch()
    await world.set()
    assert await world.worker.run_once() == 0
    assert (await world.quality()).reason == QualityReason.NOT_EVALUATED
    assert world.script.asked == []


async def test_it_waits_for_documents_in_work_but_not_for_ever(world: World) -> None:
    await add_documents(world.catalogue, ready=["a.md"], waiting=["late.md"])
    await world.watch()
    await world.set()
    assert await world.worker.run_once() == 0
    assert await world.later(minutes=14) == 0
    assert await world.later(minutes=1) == 1


async def test_what_the_policy_and_the_golden_set_are_decides(ready: World) -> None:
    await ready.set(None)
    assert await ready.worker.run_once() == 0
    found = await ready.quality()
    assert (found.reason, found.next_time) == (QualityReason.NO_GOLDEN_SET, None)
    assert "agentteams evaluate" in found.message
    await ready.watch(replace(POLICY, golden_set="handbook"))
    await ready.set(replace(SET, name="other"))
    assert await ready.worker.run_once() == 0
    assert 'its golden set is "other", not "handbook"' in (await ready.quality()).message
    await ready.set(replace(SET, name="handbook"))
    assert await ready.worker.run_once() == 1
    assert (await ready.quality()).golden_set == "handbook"
    # Another golden set is measured with at once: old scores say nothing of it.
    await ready.set(golden_set(SET.queries[:1], name="handbook"))
    assert (await ready.quality()).reason == QualityReason.NOT_EVALUATED
    assert await ready.worker.run_once() == 1
    # Lower thresholds judge the scores that there are.
    await ready.watch(replace(POLICY, thresholds={"ndcg_at_10": 1.0}))
    assert (await ready.quality()).state == QualityState.DEGRADED
    await ready.watch(None)
    assert await ready.store.of("default", ["kb"]) == {}
    assert await ready.later(days=9) == 0


async def test_many_new_documents_are_not_left_to_the_schedule(ready: World) -> None:
    await ready.watch(replace(POLICY, interval_s=86_400))
    await ready.worker.run_once()
    assert await ready.later(hours=2) == 0
    await add_documents(ready.catalogue, ready=["d.md"], waiting=["e.md"], now=ready.clock.now())
    assert (await ready.quality()).next_time == ready.clock.now()
    assert await ready.later(minutes=1) == 0  # one of them is in work
    claim = await ready.catalogue.claim(lease=timedelta(seconds=60), now=ready.clock.now())
    assert claim is not None
    assert await ready.catalogue.finish(
        claim, collection="c1", chunk_count=1, warnings=(), now=ready.clock.now()
    )
    assert await ready.worker.run_once() == 1
    # Those that come one by one are measured together.
    await add_documents(ready.catalogue, ready=["f.md"], now=ready.clock.now() + timedelta(seconds=1))
    assert await ready.later(minutes=14) == 0
    assert await ready.later(minutes=1) == 1
    assert await ready.later(hours=23) == 0


async def test_a_few_new_documents_wait_for_the_schedule(ready: World) -> None:
    await add_documents(ready.catalogue, ready=[f"more-{n}.md" for n in range(8)])
    await ready.worker.run_once()
    await add_documents(ready.catalogue, ready=["late.md"], now=NOW + timedelta(minutes=1))
    assert await ready.later(minutes=59) == 0
    (one,) = await ready.store.watched(after=("", ""), limit=9)
    assert (one.changed, one.ready, one.outdated) == (1, 12, False)
    assert await ready.later(minutes=1) == 1
    (one,) = await ready.store.watched(after=("", ""), limit=9)
    assert (one.changed, one.ready) == (0, 0)


async def test_an_evaluation_on_demand_counts_too(ready: World) -> None:
    with scope(caller=Caller("default", "ada")):
        async for _ in ready.evaluations.run("kb", []):
            pass
    assert (await ready.quality()).state == QualityState.GOOD
    assert await ready.later(minutes=59) == 0


async def test_failures_are_tried_again_later_and_later_and_said(ready: World) -> None:
    await ready.worker.run_once()
    away = Reason(code=ReasonCode.STORE_UNAVAILABLE, message="Milvus is away")
    ready.script.result = replace(OK, outcome=Outcome.FAILED, reasons=(away,))
    assert await ready.later(hours=1) == 1
    assert (await ready.quality()).state == QualityState.GOOD  # mostly it is over by the next try
    asked = len(ready.script.asked)
    assert await ready.later(seconds=29) == 0
    assert len(ready.script.asked) == asked
    await ready.later(seconds=1)
    await ready.later(seconds=60)
    found = await ready.quality()
    assert (found.state, found.reason) == (QualityState.UNKNOWN, QualityReason.EVALUATION_FAILED)
    assert "3 times in a row" in found.message
    assert "Milvus is away" in found.message
    assert found.newest is not None
    for _ in range(8):
        await ready.later(hours=1)  # never longer than that
    ready.script.result = OK
    assert await ready.later(hours=1) == 1
    assert (await ready.quality()).state == QualityState.GOOD
    (one,) = await ready.store.watched(after=("", ""), limit=9)
    assert (one.failures, one.schedule.message) == (0, "")


async def test_a_crash_of_one_does_not_end_the_worker(ready: World) -> None:
    ready.script.found = {"foxes": 3}  # type: ignore[dict-item]
    assert await ready.worker.run_once() == 1
    found = await ready.quality()
    assert found.reason == QualityReason.EVALUATION_FAILED
    assert "internal error" in found.message


async def test_who_has_lost_the_lease_stores_nothing(ready: World) -> None:
    class Slow(SqlQuality):
        async def finish(self, *arguments: Any, **named: Any) -> bool:
            # Meanwhile the lease ended and another process was done with it.
            ready.clock.advance(LIMITS.lease)
            assert await ready.new_worker().run_once() == 1
            return await super().finish(*arguments, **named)

    await ready.new_worker(Slow(ready.engine)).run_once()
    with scope(caller=Caller("default", "ada")):
        assert len(await ready.evaluations.newest("kb", before="", limit=9)) == 1


async def test_what_a_killed_process_had_in_hand_is_done_by_another(ready: World) -> None:
    (one,) = await ready.store.watched(after=("", ""), limit=9)
    assert await ready.store.claim(one, lease=LIMITS.lease, now=NOW) is not None
    assert await ready.worker.run_once() == 0
    assert await ready.later(minutes=2) == 1


async def test_a_worker_that_stops_begins_nothing(ready: World) -> None:
    ready.worker.stop()
    assert await ready.worker.run_once() == 0
    assert ready.script.asked == []


async def test_metrics_are_bounded_and_what_is_not_watched_goes(ready: World) -> None:
    await ready.worker.run_once()
    await ready.worker.run_once()
    (one,) = ready.seen
    gauges = metrics.QualityGauges()

    def scores() -> dict[str, float]:
        """In one collection of the registry: each takes as long as there are metrics."""
        samples = (sample for family in REGISTRY.collect() for sample in family.samples)
        return {
            sample.labels["knowledge_base"]: sample.value
            for sample in samples
            if sample.name == "agentteams_retrieval_quality_score" and sample.labels["metric"] == "mrr_at_10"
        }

    def states(state: str) -> float | None:
        labels = {"state": state}
        return REGISTRY.get_sample_value("agentteams_retrieval_quality_knowledge_bases", labels)

    assert one.newest is not None
    bad = replace(one, knowledge_base="bad", newest=replace(one.newest, mrr_at_10=0.25))
    many = [replace(one, knowledge_base=f"kb-{number:03}") for number in range(500)]
    gauges.seen([*many, bad], NOW)
    found = scores()
    assert found["default/bad"] == 0.25
    assert (states("GOOD"), states("DEGRADED"), states("UNKNOWN")) == (500, 1, 0)
    shown = [number for number in range(500) if f"default/kb-{number:03}" in found]
    assert len(shown) == metrics.MAX_WATCHED - 1
    gauges.seen([], NOW)
    assert "default/bad" not in scores()
    assert states("GOOD") == 0


async def test_schedules_go_with_their_knowledge_base(ready: World) -> None:
    await ready.worker.run_once()
    (one,) = await ready.store.watched(after=("", ""), limit=9)
    await ready.catalogue.mark_knowledge_base_deleted("default", "kb")
    assert await ready.store.watched(after=("", ""), limit=9) == []
    await ready.catalogue.remove_knowledge_base("default", "kb")
    async with ready.engine.begin() as connection:
        left = await connection.execute(update(evaluation_schedules).values(turn=1))
        assert left.rowcount == 0
    gone = replace(one, schedule=replace(one.schedule, turn=0))
    assert await ready.store.claim(gone, lease=LIMITS.lease, now=NOW) is None
