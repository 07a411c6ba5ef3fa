"""Tuning jobs and samples of queries, on each database the catalogue runs on."""

import asyncio
import random
from datetime import timedelta

import numpy as np

from retrieval.adapters.catalogue import SqlCatalogue
from retrieval.adapters.query_samples import SLOTS, SqlQuerySamples
from retrieval.adapters.tunings import SqlTunings
from retrieval.core.index import BuiltIndex
from retrieval.core.model import DocumentState, IndexType
from retrieval.core.tuning.model import CurvePoint, Job, Kind, Measurement, TuningState
from retrieval.core.tuning.ports import QuerySample
from tests.contract.test_retrieval_catalogue import LEASE, NOW, catalogue, claimed, document  # noqa: F401

INDEX = BuiltIndex(type=IndexType.IVF_FLAT, build_params={"nlist": 64})
LATER = NOW + timedelta(hours=6)


def measurement(collection: str = "c1") -> Measurement:
    point = CurvePoint(index=INDEX, search_params={"nprobe": 4}, recall=0.96, p50_s=0.001, p99_s=0.002)
    return Measurement(
        collection=collection,
        index=INDEX,
        search_params={"nprobe": 4},
        chunk_count=10,
        segments=1,
        queries=20,
        real_queries=5,
        recall=0.96,
        p50_s=0.001,
        p99_s=0.002,
        curve=(point,),
        message="chosen",
    )


async def job_of(tunings: SqlTunings) -> Job:
    await tunings.request("default", "kb", kind=Kind.TUNE, reason="asked for", now=NOW)
    job = await tunings.claim(lease=LEASE, now=NOW)
    assert job is not None
    return job


async def test_one_worker_gets_a_job_and_its_result_is_what_searches_use(
    catalogue: SqlCatalogue,  # noqa: F811
) -> None:
    tunings = SqlTunings(catalogue._engine)
    await asyncio.gather(
        *(tunings.request("default", "kb", kind=Kind.TUNE, reason="asked for", now=NOW) for _ in range(5))
    )
    jobs = await asyncio.gather(*(tunings.claim(lease=LEASE, now=NOW) for _ in range(5)))
    (job,) = [job for job in jobs if job is not None]
    assert await tunings.finish(job, measurement(), policy="p", check_time=LATER, now=NOW)
    assert not await tunings.finish(job, None, policy="p", check_time=LATER, now=NOW)  # it is done
    tuning = (await tunings.get("default", ["kb"]))["kb"]
    assert (tuning.state, tuning.message, tuning.measured) == (TuningState.DONE, "chosen", measurement())
    snapshot = await catalogue.snapshot("default", "kb")
    assert snapshot is not None
    assert snapshot.search_params == {"nprobe": 4}
    (candidate,) = await tunings.candidates(after=("", ""), limit=10)
    assert (candidate.policy, candidate.check_time) == ("p", LATER)
    assert await tunings.candidates(after=("default", "kb"), limit=10) == []
    assert await tunings.get("other", ["kb"]) == {}


async def test_parameters_of_another_collection_are_not_used(catalogue: SqlCatalogue) -> None:  # noqa: F811
    tunings = SqlTunings(catalogue._engine)
    job = await job_of(tunings)
    await tunings.finish(job, measurement("c0"), policy="p", check_time=LATER, now=NOW)
    snapshot = await catalogue.snapshot("default", "kb")
    assert snapshot is not None
    assert snapshot.search_params == {}


async def test_a_swap_needs_lease_shadow_and_silence(catalogue: SqlCatalogue) -> None:  # noqa: F811
    tunings = SqlTunings(catalogue._engine)
    await catalogue.put_document(document())
    claim = await claimed(catalogue)
    job = await job_of(tunings)
    assert not await tunings.swap(job, measurement("c2"), since=NOW, now=NOW)  # no shadow of that name
    assert await tunings.set_shadow(job, "c2", lease=LEASE, now=NOW)
    assert await tunings.indexing(job, now=NOW) == 1
    assert not await tunings.swap(job, measurement("c2"), since=NOW, now=NOW)  # a worker is at it
    await catalogue.finish(claim, collection="c1", chunk_count=1, warnings=(), now=NOW)
    await catalogue.put_document(document("b.md"))
    assert await catalogue.claim(lease=LEASE, now=NOW) is None  # paused
    early, late = NOW - timedelta(seconds=1), NOW + timedelta(seconds=1)
    assert not await tunings.swap(job, measurement("c2"), since=early, now=late)  # indexed since
    assert await tunings.swap(job, measurement("c2"), since=late, now=late)
    snapshot = await catalogue.snapshot("default", "kb")
    assert snapshot is not None
    assert snapshot.knowledge_base.collection == "c2"
    assert snapshot.search_params == {"nprobe": 4}
    assert (await claimed(catalogue, late)).document.path == "b.md"  # no longer paused
    # A worker that dies now leaves the name of what is to be dropped.
    again = await tunings.claim(lease=LEASE, now=NOW + LEASE)
    assert again is not None
    assert (again.shadow, again.former) == ("", "c1")
    assert not await tunings.renew(job, lease=LEASE, now=NOW)


async def test_the_pause_ends_with_the_lease(catalogue: SqlCatalogue) -> None:  # noqa: F811
    tunings = SqlTunings(catalogue._engine)
    job = await job_of(tunings)
    await tunings.set_shadow(job, "c2", lease=LEASE, now=NOW)
    await catalogue.put_document(document())
    middle = NOW + LEASE / 2
    assert await tunings.renew(job, lease=LEASE, now=middle)
    assert await catalogue.claim(lease=LEASE, now=NOW + LEASE) is None
    assert await catalogue.claim(lease=LEASE, now=middle + LEASE) is not None


async def test_what_is_gone(catalogue: SqlCatalogue) -> None:  # noqa: F811
    tunings = SqlTunings(catalogue._engine)
    job = await job_of(tunings)
    kept, _ = await catalogue.put_document(document("kept.md"))
    hidden, _ = await catalogue.put_document(document("hidden.md"))
    await catalogue.mark_document_deleted("default", "kb", hidden.id, now=NOW)
    assert kept.state == DocumentState.PENDING
    assert await tunings.gone(job, [kept.id, hidden.id, "never"]) == [hidden.id, "never"]


async def test_a_deleted_knowledge_base_leaves_a_job_until_its_collections_are_dropped(
    catalogue: SqlCatalogue,  # noqa: F811
) -> None:
    tunings = SqlTunings(catalogue._engine)
    samples = SqlQuerySamples(catalogue._engine, rng=random.Random(1))
    job = await job_of(tunings)
    await tunings.set_shadow(job, "c2", lease=LEASE, now=NOW)
    await tunings.fail(job, "no", check_time=LATER, now=NOW)
    assert await tunings.claim(lease=LEASE, now=NOW) is None
    await samples.add([sample(1)], now=NOW)
    await catalogue.mark_knowledge_base_deleted("default", "kb")
    await catalogue.remove_knowledge_base("default", "kb")
    orphan = await tunings.claim(lease=LEASE, now=NOW)
    assert orphan is not None
    assert orphan.shadow == "c2"
    await tunings.remove(orphan)
    assert await tunings.claim(lease=LEASE, now=NOW + 2 * LEASE) is None
    assert len(await samples.read("default", "kb", "f1", limit=10)) == 0


def sample(number: int, *, tenant: str = "default", model: str = "f1") -> QuerySample:
    vector = np.full(8, number, dtype=np.float32)
    return QuerySample(tenant=tenant, knowledge_base="kb", model_fingerprint=model, vector=vector)


async def test_samples_are_bounded_and_kept_apart(catalogue: SqlCatalogue) -> None:  # noqa: F811
    samples = SqlQuerySamples(catalogue._engine, rng=random.Random(1))
    for start in range(0, 2 * SLOTS, 500):
        await samples.add([sample(start + n) for n in range(500)], now=NOW + timedelta(seconds=start))
    await samples.add([sample(-1, model="f2"), sample(-2, tenant="gone")], now=NOW + timedelta(hours=1))
    vectors = await samples.read("default", "kb", "f1", limit=5 * SLOTS)
    assert 0.7 * SLOTS < len(vectors) <= SLOTS
    assert (vectors[:, 0] >= 0).all()
    assert vectors[:50, 0].min() >= 1_500  # newest first
    assert len(await samples.read("default", "kb", "f1", limit=7)) == 7
    assert len(await samples.read("default", "kb", "f2", limit=7)) == 1
    assert len(await samples.read("gone", "kb", "f1", limit=7)) == 0


async def test_writers_at_the_same_time_do_not_block_each_other(catalogue: SqlCatalogue) -> None:  # noqa: F811
    writers = [SqlQuerySamples(catalogue._engine, rng=random.Random(n)) for n in range(4)]
    async with asyncio.timeout(20):
        await asyncio.gather(*(w.add([sample(n) for n in range(200)], now=NOW) for w in writers))
    assert len(await writers[0].read("default", "kb", "f1", limit=SLOTS)) > 200
