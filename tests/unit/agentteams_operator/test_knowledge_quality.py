"""The quality of a KnowledgeBase: its golden set out of a ConfigMap, its condition, its figures."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from agentteams_operator.core.objects import Key, Stored, stored
from agentteams_operator.core.outcome import Outcome
from agentteams_operator.core.ports import IndexState, KnowledgeRefused, KnowledgeUnavailable, QualityState
from manifests import KnowledgeBase
from manifests.status import KnowledgeBaseStatus
from tests.unit.agentteams_operator.test_decide_knowledge import World, body, reason

GOLDEN = "queries: [{query: foxes, relevant: [a.md]}]"
REF = {"configMapKeyRef": {"name": "golden", "key": "docs.yaml"}}
SPEC = {"evaluation": {"goldenSetRef": REF, "thresholds": {"mrr": "0.7"}}}
OWN = {"evaluation": {"thresholds": {"mrr": "0.7"}}}
GOOD = QualityState(
    verdict="Good",
    reason="AboveThresholds",
    message="mrr_at_10 is 0.9000",
    golden_set="golden/docs.yaml",
    golden_set_sha256="sha of golden/docs.yaml",
    evaluated_at=datetime(2026, 1, 1, tzinfo=UTC),
    scores={"ndcgAt10": 0.89999, "recallAt10": 1.0, "mrr": 0.9},
    queries=3,
)


def put(world: World, data: dict[str, str], version: int = 1) -> None:
    metadata = {"name": "golden", "namespace": "n", "uid": "c", "resourceVersion": str(version)}
    world.cache.put({"kind": "ConfigMap", "metadata": metadata, "data": data})
    world.api.config_maps["golden"] = data


def condition(outcome: Outcome, kind: str) -> dict[str, Any]:
    assert outcome.status is not None
    return next((c for c in outcome.status["conditions"] if c["type"] == kind), {})


def quality(world: World, found: QualityState | None) -> None:
    world.knowledge.next = replace(world.knowledge.next, quality=found)


async def test_one_that_is_not_watched_has_no_condition() -> None:
    outcome = await World().look()
    assert condition(outcome, "QualityDegraded") == {}
    assert outcome.again_s == 600


async def test_the_golden_set_is_sent_once_for_each_change() -> None:
    world = World()
    changed: list[Key] = []
    world.cache._changed = changed.append
    world.cache.put(body("KnowledgeBase", "docs", SPEC))
    put(world, {"docs.yaml": GOLDEN})
    quality(world, replace(GOOD, golden_set_sha256=""))
    await world.look(spec=SPEC)
    quality(world, GOOD)
    world.knowledge.there["docs"] = world.knowledge.next
    await world.look(spec=SPEC)
    assert world.knowledge.golden_sets == [("golden/docs.yaml", ["foxes"])]
    # Another one has set another in between: the manifest's counts.
    world.knowledge.there["docs"] = replace(
        world.knowledge.next, quality=replace(GOOD, golden_set_sha256="another")
    )
    await world.look(spec=SPEC)
    assert len(world.knowledge.golden_sets) == 2
    world.knowledge.there["docs"] = world.knowledge.next
    changed.clear()
    put(world, {"docs.yaml": GOLDEN, "other": "x"}, 2)  # another key
    await world.look(spec=SPEC)
    assert len(world.knowledge.golden_sets) == 2
    put(world, {"docs.yaml": GOLDEN.replace("foxes", "cats")}, 3)
    assert Key("KnowledgeBase", "n", "docs") in changed  # so it is looked at again
    await world.look(spec=SPEC)
    assert world.knowledge.golden_sets[2:] == [("golden/docs.yaml", ["cats"])]
    assert world.api.read == 3


@pytest.mark.parametrize(
    ("data", "why", "says"),
    [
        (None, "ConfigMapNotFound", "kubectl create configmap golden --namespace=n --from-file=docs.yaml="),
        ({"x": "y"}, "ConfigMapKeyNotFound", 'has no key "docs.yaml", but x; add it'),
        ({"docs.yaml": "queries: []"}, "GoldenSetInvalid", "queries: List should have at least 1 item"),
        ({"docs.yaml": "a: ["}, "GoldenSetInvalid", "cannot be read"),
    ],
)
async def test_a_golden_set_that_cannot_be_had_stops_no_search(
    data: dict[str, str] | None, why: str, says: str
) -> None:
    world = World()
    if data is not None:
        put(world, data)
    quality(world, replace(GOOD, verdict="Unknown", evaluated_at=None))
    outcome = await world.look(spec=SPEC)
    for kind, status in (("ResolvedRefs", "False"), ("QualityDegraded", "Unknown")):
        found = condition(outcome, kind)
        assert (found["status"], found["reason"]) == (status, why)
        assert found["message"].startswith("spec.evaluation.goldenSetRef.configMapKeyRef: ")
        assert says in found["message"]
    assert reason(outcome, "Ready") == "Ready"
    assert world.knowledge.golden_sets == []
    read = world.api.read
    await world.look(spec=SPEC)
    assert world.api.read == read  # not read again before it changes
    put(world, {"docs.yaml": GOLDEN}, 9)
    outcome = await world.look(spec=SPEC)
    assert condition(outcome, "ResolvedRefs")["status"] == "True"


async def test_what_the_service_refuses_of_it_is_told() -> None:
    world = World()
    put(world, {"docs.yaml": GOLDEN})
    quality(world, GOOD)
    world.knowledge.failure = KnowledgeRefused("golden_set.queries[0].relevant[0].path: must be relative")
    problem = await world.bases._golden_sets.push(*_one(world), world.knowledge.next)
    assert problem is not None
    assert problem[0] == "GoldenSetInvalid"
    assert "must be relative" in problem[1]
    world.knowledge.failure = KnowledgeUnavailable("away")
    put(world, {"docs.yaml": GOLDEN + " "}, 2)
    with pytest.raises(KnowledgeUnavailable):
        await world.bases._golden_sets.push(*_one(world), world.knowledge.next)


def _one(world: World) -> tuple[Stored, KnowledgeBase]:
    one = stored(body("KnowledgeBase", "docs", {"embedding": {"modelConfigRef": {"name": "e"}}} | SPEC))
    resource = world.bases._reader.read(one).resource
    assert isinstance(resource, KnowledgeBase)
    return one, resource


async def test_the_condition_turns_on_and_off_with_the_verdict() -> None:
    world = World()
    quality(world, replace(GOOD, verdict="Unknown", reason="NotEvaluated", evaluated_at=None))
    outcome = await world.look(spec=OWN)
    found = condition(outcome, "QualityDegraded")
    assert (found["status"], found["reason"], outcome.again_s) == ("Unknown", "NotEvaluated", 10)
    for verdict, why, status, told in (
        ("Good", "AboveThresholds", "False", []),
        ("Degraded", "BelowThresholds", "True", [("QualityDegraded", "Warning")]),
        ("Degraded", "BelowThresholds", "True", []),
        ("Good", "AboveThresholds", "False", [("QualityRestored", "Normal")]),
    ):
        words = f"mrr_at_10 is such that {why}"
        quality(world, replace(GOOD, verdict=verdict, reason=why, message=words))  # type: ignore[arg-type]
        world.knowledge.there["docs"] = world.knowledge.next
        outcome = await world.look(spec=OWN, status=outcome.status)
        found = condition(outcome, "QualityDegraded")
        assert (found["status"], found["reason"], found["message"]) == (status, why, words)
        assert outcome.again_s == 60
        assert [(event.reason, event.type) for event in outcome.events] == told
    # Nobody asked: not known, and the figures stay.
    world.knowledge.failure = KnowledgeUnavailable("nobody answers")
    silent = await world.look(spec=OWN, status=outcome.status)
    assert condition(silent, "QualityDegraded")["status"] == "Unknown"
    assert outcome.status is not None
    assert silent.status is not None
    assert silent.status["quality"] == outcome.status["quality"]


async def test_figures_are_what_the_definition_allows() -> None:
    world = World()
    world.knowledge.next = replace(
        world.knowledge.next,
        chunks=1000,
        segments=3,
        memory_bytes=5 * 2**20 + 1,
        milvus_memory_bytes=20 * 2**20,
        quality=replace(GOOD, missing_documents=1),
        index=IndexState(
            type="HNSW",
            build_params={"M": 16},
            search_params={"ef": 96},
            recall_percent=96.19,
            p50_milliseconds=1.26,
            p99_milliseconds=4.0,
            tuned_at=datetime(2026, 1, 2, tzinfo=UTC),
            tuned_at_rows=900,
        ),
    )
    status = (await world.look(spec=OWN)).status
    assert status is not None
    KnowledgeBaseStatus.model_validate(dict(status) | {"conditions": ()})
    assert status["index"] == {
        "type": "HNSW",
        "buildParams": {"M": "16"},
        "searchParams": {"ef": "96"},
        "measuredRecallPercent": "96.1",
        "measuredP50Milliseconds": "1.2",
        "measuredP99Milliseconds": "4.0",
        "tunedAt": "2026-01-02T00:00:00Z",
        "tunedAtRows": 900,
    }
    assert status["segments"] == {"sealed": 3, "rowsPerSegment": 333}
    assert status["memory"] == {"estimated": "6Mi", "limitPercent": 25}
    assert status["quality"] == {
        "verdict": "Good",
        "goldenSet": "golden/docs.yaml",
        "evaluatedAt": "2026-01-01T00:00:00Z",
        "ndcgAt10": "0.8999",
        "recallAt10": "1.0000",
        "mrr": "0.9000",
        "queries": 3,
        "missingDocuments": 1,
    }
    world.knowledge.there["docs"] = replace(world.knowledge.next, index=IndexState(type="FLAT"), segments=0)
    status = (await world.look(spec=OWN)).status
    assert status is not None
    assert (status["index"], "segments" in status) == ({"type": "FLAT"}, False)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "queries: [{query: warm?, relevant: [a.md]}]",
            "golden set: cannot be read: line 1, column 23: expected ',' or '}', but got '?'; a golden set",
        ),
        ("queries: \a", "cannot be read: special characters are not allowed; a golden set"),
        ("queries: " + "[" * 5_000, "cannot be read: it is nested too deeply; a golden set"),
    ],
    ids=["yaml", "character", "depth"],
)
async def test_a_golden_set_that_cannot_be_read_says_where(text: str, words: str) -> None:
    world = World()
    put(world, {"docs.yaml": text})
    outcome = await world.look(spec=SPEC)
    assert words in condition(outcome, "ResolvedRefs")["message"]


async def test_while_a_large_golden_set_is_read_the_rest_goes_on() -> None:
    """A lease is to be renewed meanwhile, and other objects are looked at."""
    world, over, turns = World(), asyncio.Event(), 0

    async def others() -> None:
        nonlocal turns
        while not over.is_set():
            turns += 1
            await asyncio.sleep(0)

    lines = (f"- {{query: number {n}, relevant: [a.md]}}\n" for n in range(400))
    put(world, {"docs.yaml": "queries:\n" + "".join(lines)})
    rest = asyncio.ensure_future(others())
    await world.look(spec=SPEC)
    over.set()
    await rest
    assert len(world.knowledge.golden_sets[0][1]) == 400
    assert turns > 5  # in one turn of its own it would be 1
