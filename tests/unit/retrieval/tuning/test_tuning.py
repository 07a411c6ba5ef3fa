"""From a request to parameters that searches use."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from retrieval.core.index import BuiltIndex
from retrieval.core.model import IndexType
from retrieval.core.tuning.model import Kind, Tuning, TuningState
from retrieval.core.tuning.ports import QuerySample
from retrieval.core.tuning.truth import exact, recall
from servicekit.errors import NotFound
from tests.support.tuning import World, clustered


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    yield world
    await world.close()


async def tuned(world: World) -> Tuning:
    (tuning,) = (await world.tunings.get("default", ["kb"])).values()
    return tuning


async def test_the_promise_holds_on_queries_that_nobody_has_seen(world: World) -> None:
    await world.fill()
    assert await world.worker().sweep() == 1
    assert await world.worker().run_until_idle() == 1
    tuning = await tuned(world)
    measured = tuning.measured
    assert tuning.state == TuningState.DONE
    assert measured is not None
    assert 0.95 <= measured.recall < 0.99  # not simply the largest
    snapshot = await world.catalogue.snapshot("default", "kb")
    assert snapshot is not None
    assert snapshot.search_params == measured.search_params  # what searches use
    place = world.knowledge_base.place
    fresh = clustered(500, seed=99)
    truth = await exact(fresh, world.store.iterate(place, with_vectors=True))
    answers = await world.store.search_dense(place, fresh, limit=10, search_params=snapshot.search_params)
    assert recall(truth, answers).mean == pytest.approx(measured.recall, abs=0.01)
    assert [p.search_params["ef"] for p in measured.curve] == sorted(
        p.search_params["ef"] for p in measured.curve
    )
    assert [p.p50_s for p in measured.curve] == sorted(p.p50_s for p in measured.curve)
    assert "never tuned before; ef" in measured.message
    assert "200 of 200 queries were made of chunks" in measured.message


async def test_real_queries_are_used_and_counted(world: World) -> None:
    await world.fill()
    real = [
        QuerySample(tenant=tenant, knowledge_base="kb", model_fingerprint=model, vector=vector)
        for tenant, model in (("default", "f1"), ("default", "f0"), ("other", "f1"))
        for vector in clustered(30, seed=7)
    ]
    await world.samples.add(real, now=world.clock.now())
    await world.worker().sweep()
    await world.worker().run_until_idle()
    measured = (await tuned(world)).measured
    assert measured is not None
    # Some of the thirty fell into the same slot; the other model's and tenant's never count.
    assert 20 <= measured.real_queries <= 30
    assert measured.queries == 200


@pytest.mark.parametrize("type_", [IndexType.IVF_FLAT, IndexType.FLAT])
async def test_other_indexes(world: World, type_: IndexType) -> None:
    params = {"nlist": 60} if type_ == IndexType.IVF_FLAT else {}
    await world.fill(index=BuiltIndex(type=type_, build_params=params))
    await world.worker().sweep()
    await world.worker().run_until_idle()
    measured = (await tuned(world)).measured
    assert measured is not None
    if type_ == IndexType.FLAT:
        assert measured.search_params == {}
        assert measured.recall == 1.0
        assert "FLAT is exact" in measured.message
    else:
        # The fake finds 60 of 200 with all clusters: the target is out of reach, and that is said.
        assert measured.search_params == {"nprobe": 60}
        assert "no nprobe reaches a recall of 95%" in measured.message


async def test_a_check_changes_nothing_until_the_recall_has_drifted(world: World) -> None:
    await world.fill()
    worker = world.worker()
    await worker.sweep()
    await worker.run_until_idle()
    before = await tuned(world)
    world.clock.advance(timedelta(hours=7))
    assert await worker.sweep() == 1
    await worker.run_until_idle()
    after = await tuned(world)
    assert after.measured == before.measured
    assert after.finish_time != before.finish_time
    assert after.message == before.message

    # The same parameter finds less by now.
    job_row = before.measured
    assert job_row is not None
    world.store.handicap = 0.8
    world.clock.advance(timedelta(hours=7))
    await worker.sweep()
    await worker.run_until_idle()
    drifted = (await tuned(world)).measured
    assert drifted is not None
    assert drifted.search_params["ef"] > job_row.search_params["ef"]


async def test_twice_as_many_chunks_are_tuned_anew(world: World) -> None:
    await world.fill(documents=2)
    worker = world.worker()
    await worker.sweep()
    await worker.run_until_idle()
    assert await worker.sweep() == 0
    await world.add("more.md", chunks=140, seed=9)
    assert await worker.sweep() == 0
    await world.add("yet more.md", chunks=10, seed=10)
    assert await worker.sweep() == 1
    await worker.run_until_idle()
    measured = (await tuned(world)).measured
    assert measured is not None
    assert measured.chunk_count == 300
    assert "grown from 150 to 300 chunks" in measured.message


async def test_a_killed_worker_is_taken_over_and_three_times_are_enough(world: World) -> None:
    await world.fill()
    await world.worker().sweep()
    lease = timedelta(seconds=60)
    for attempt in range(1, 4):
        job = await world.tunings.claim(lease=lease, now=world.clock.now())
        assert job is not None
        assert job.attempts == attempt
        assert await world.tunings.claim(lease=lease, now=world.clock.now()) is None
        world.clock.advance(timedelta(seconds=61))
    await world.worker().run_until_idle()
    tuning = await tuned(world)
    assert tuning.state == TuningState.FAILED
    assert "gave up after 3 tries" in tuning.message
    assert await world.worker().sweep() == 0
    world.clock.advance(timedelta(hours=2))
    assert await world.worker().sweep() == 1  # and later once more


async def test_a_missing_collection_is_an_error_and_no_result(world: World) -> None:
    await world.fill()
    await world.worker().sweep()
    await world.store.drop(world.knowledge_base.place)
    worker = world.worker()
    for _ in range(3):
        await worker.run_until_idle()
        world.clock.advance(timedelta(minutes=5))
    tuning = await tuned(world)
    assert tuning.state == TuningState.FAILED
    assert "no collection" in tuning.message
    assert tuning.measured is None


async def test_who_asks_twice_gets_one_tuning(world: World) -> None:
    await world.fill(documents=0)
    now = world.clock.now()
    first = await world.tunings.request("default", "kb", kind=Kind.CHECK, reason="first", now=now)
    again = await world.tunings.request("default", "kb", kind=Kind.TUNE, reason="again", now=now)
    assert first.state == again.state == TuningState.PENDING
    assert again.message == "first"
    job = await world.tunings.claim(lease=timedelta(seconds=60), now=now)
    assert job is not None
    assert job.kind == Kind.TUNE  # the larger one of both
    with pytest.raises(NotFound):
        await world.tunings.request("other", "kb", kind=Kind.TUNE, reason="", now=now)
    # Nothing to search: it ends, and says so.
    world.clock.advance(timedelta(seconds=61))
    await world.worker().run_until_idle()
    tuning = await tuned(world)
    assert tuning.state == TuningState.DONE
    assert "nothing to search yet" in tuning.message
