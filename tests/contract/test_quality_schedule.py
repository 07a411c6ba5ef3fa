"""Schedules of evaluations, on each database they are kept in."""

import asyncio
from dataclasses import replace
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncEngine

from retrieval.adapters.catalogue import SqlCatalogue
from retrieval.adapters.golden_sets import SqlGoldenSets
from retrieval.adapters.quality_rows import SqlQuality
from retrieval.adapters.specs import SqlSpecs
from retrieval.core.golden import golden_set
from retrieval.core.model import EvaluationPolicy, SearchMode
from retrieval.core.quality import Watched
from tests.contract.test_golden_sets import MADE, TWO, engine
from tests.support.golden_sets import NOW, add_documents, knowledge_base

__all__ = ["engine"]

SET = golden_set([TWO], name="golden")
POLICY = EvaluationPolicy(thresholds={"mrr_at_10": 0.5})
LEASE = timedelta(minutes=2)
SCORES = replace(MADE, mode=SearchMode.HYBRID, golden_set_sha256=SET.sha256, finish_time=NOW)


async def watch(engine: AsyncEngine, tenant: str = "default") -> None:
    before = knowledge_base(tenant)
    wanted = replace(before.spec, evaluation=POLICY)
    assert await SqlSpecs(engine).replace_spec(before, wanted, now=NOW)


async def only(store: SqlQuality) -> Watched:
    (found,) = await store.watched(after=("", ""), limit=9)
    return found


async def test_what_is_watched_is_found_with_its_newest_scores(engine: AsyncEngine) -> None:
    store, sets = SqlQuality(engine), SqlGoldenSets(engine)
    assert await store.watched(after=("", ""), limit=9) == []
    await watch(engine)
    await watch(engine, "other")
    first, second = await store.watched(after=("", ""), limit=9)
    assert (first.tenant, second.tenant, first.golden_set, first.newest) == ("default", "other", None, None)
    assert await store.watched(after=("default", "kb"), limit=9) == [second]
    assert await store.watched(after=("", ""), limit=1) == [first]
    await sets.put_golden_set("default", "kb", SET, now=NOW)
    others = [
        replace(SCORES, mode=SearchMode.DENSE),  # not its own mode
        replace(SCORES, golden_set_sha256="0" * 64),  # of another golden set
    ]
    await sets.add_evaluations("default", "kb", [replace(SCORES, degraded=1)])
    await sets.add_evaluations("default", "kb", [SCORES])
    await sets.add_evaluations("default", "kb", others)
    found = (await store.of("default", ["kb", "none"]))["kb"]
    assert (found.policy, found.golden_set, found.golden_set_sha256) == (POLICY, "golden", SET.sha256)
    assert found.newest == SCORES
    assert await store.of("other", []) == {}


async def test_what_was_indexed_since_the_newest_scores_is_counted(engine: AsyncEngine) -> None:
    store, catalogue = SqlQuality(engine), SqlCatalogue(engine)
    await watch(engine)
    sets = SqlGoldenSets(engine)
    await sets.put_golden_set("default", "kb", SET, now=NOW)
    await add_documents(catalogue, ready=["a.md", "b.md"])
    assert (await only(store)).changed == 0  # it has no scores yet
    await sets.add_evaluations("default", "kb", [SCORES])
    found = await only(store)
    assert (found.changed, found.ready) == (0, 0)
    await add_documents(catalogue, ready=["c.md"], waiting=["d.md"], now=NOW + LEASE)
    found = await only(store)
    assert (found.changed, found.ready, found.outdated) == (1, 3, True)


async def test_one_process_gets_what_is_due_and_stores_it_once(engine: AsyncEngine) -> None:
    store = SqlQuality(engine)
    await watch(engine)
    await SqlGoldenSets(engine).put_golden_set("default", "kb", SET, now=NOW)
    for turn in range(2):
        one = await only(store)
        assert one.schedule.turn == 2 * turn  # one begun, and one ended
        tokens = await asyncio.gather(*(store.claim(one, lease=LEASE, now=NOW) for _ in range(4)))
        (token,) = [token for token in tokens if token]
        assert await store.renew(one, token, lease=LEASE, now=NOW)
        held = await only(store)
        assert await store.finish(one, token, [SCORES], now=NOW)
        assert not await store.finish(one, token, [SCORES], now=NOW)
        # As it was read before: another process has done it since.
        assert await store.claim(one, lease=LEASE, now=NOW + 2 * LEASE) is None
        assert await store.claim(held, lease=LEASE, now=NOW + 2 * LEASE) is None
    assert len(await SqlGoldenSets(engine).evaluations("default", "kb", before="", limit=9)) == 2


async def test_a_lease_ends_and_is_taken(engine: AsyncEngine) -> None:
    store = SqlQuality(engine)
    await watch(engine)
    lost = await store.claim(await only(store), lease=LEASE, now=NOW)
    assert lost
    again = await only(store)
    assert await store.claim(again, lease=LEASE, now=NOW + LEASE - timedelta(seconds=1)) is None
    token = await store.claim(again, lease=LEASE, now=NOW + LEASE)
    assert token
    assert not await store.renew(again, lost, lease=LEASE, now=NOW)
    assert not await store.fail(again, lost, "x", retry=NOW, now=NOW)
    assert not await store.finish(again, lost, [SCORES], now=NOW)
    assert await store.fail(again, token, "away", retry=NOW + 3 * LEASE, now=NOW + LEASE)
    failed = (await only(store)).schedule
    assert (failed.failures, failed.message, failed.failure_time) == (1, "away", NOW + LEASE)
    assert failed.retry_time == NOW + 3 * LEASE
    # A new golden set begins anew.
    await SqlGoldenSets(engine).put_golden_set("default", "kb", SET, now=NOW)
    assert (await only(store)).failures == 0
