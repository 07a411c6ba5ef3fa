"""What the operator counts, and that what users write cannot make it count without bound."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

import pytest
from prometheus_client import REGISTRY, CollectorRegistry

from agentteams_operator.core import metrics
from agentteams_operator.core.apply import Applier
from agentteams_operator.core.cache import Cache
from agentteams_operator.core.objects import Key, Stored
from agentteams_operator.core.outcome import Outcome
from agentteams_operator.core.ports import ApiFailure
from agentteams_operator.core.queue import WorkQueue
from agentteams_operator.core.reconciler import Reconciler
from agentteams_operator.handlers.session import Listening
from tests.support.no_api import NoApi

pytestmark = pytest.mark.looptime

A = Key("AgentTeam", "n", "a")


def body(name: str, *, kind: str = "AgentTeam", conditions: Iterator[tuple[str, str]]) -> dict[str, Any]:
    return {
        "kind": kind,
        "metadata": {"namespace": "n", "name": name, "uid": name, "resourceVersion": "1"},
        "status": {"conditions": [{"type": t, "status": s} for t, s in conditions]},
    }


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


async def done(_: Stored) -> Outcome:
    return Outcome()


def failing(error: Exception) -> Callable[[Stored], Awaitable[Outcome]]:
    async def look(_: Stored) -> Outcome:
        raise error

    return look


@pytest.mark.parametrize(
    ("look", "outcome", "again"),
    [
        (done, "done", False),
        (failing(ApiFailure("changed meanwhile", 409)), "conflict", True),
        (failing(ApiFailure("not allowed", 403)), "refused", True),
        (failing(ApiFailure("not there", 0)), "unavailable", True),
        (failing(RuntimeError("a defect")), "failed", True),
    ],
)
async def test_each_look_is_counted_by_how_it_ended(
    look: Callable[[Stored], Awaitable[Outcome]], outcome: str, again: bool
) -> None:
    queue = WorkQueue()
    cache = Cache(queue.add)
    cache.put({"kind": "Namespace", "metadata": {"name": "n", "uid": "n", "resourceVersion": "1"}})
    cache.put(body("a", conditions=iter(())))
    reconciler = Reconciler(
        cache=cache, queue=queue, applier=Applier(api=NoApi(), cache=cache), looks={A.kind: look}, workers=1
    )
    counted = ("agentteams_operator_reconciles_total", "agentteams_operator_reconcile_seconds_count")
    labels: tuple[dict[str, str], ...] = ({"kind": A.kind, "outcome": outcome}, {"kind": A.kind})
    before = [value(name, **of) for name, of in zip(counted, labels, strict=True)]
    await reconciler.reconcile(A)
    after = [value(name, **of) for name, of in zip(counted, labels, strict=True)]
    assert after == [one + 1 for one in before]
    assert (A in queue.retrying) is again
    queue.forget(A)


async def test_what_fails_is_counted_from_0() -> None:
    queue = WorkQueue()
    cache = Cache(queue.add)
    applier = Applier(api=NoApi(), cache=cache)
    Reconciler(cache=cache, queue=queue, applier=applier, looks={"FromZero": done}, workers=1)
    Listening(lambda _path, _listing: None, lambda: True, kinds=("from-zero",))
    for outcome in ("done", "gone", "conflict", "refused", "unavailable", "failed"):
        labels = {"kind": "FromZero", "outcome": outcome}
        assert REGISTRY.get_sample_value("agentteams_operator_reconciles_total", labels) == 0
    assert (
        REGISTRY.get_sample_value("agentteams_operator_watches_begun_total", {"resource": "from-zero"}) == 0
    )


async def test_what_is_gone_is_counted_so_and_not_as_a_failure() -> None:
    queue = WorkQueue()
    cache = Cache(queue.add)
    applier = Applier(api=NoApi(), cache=cache)
    reconciler = Reconciler(cache=cache, queue=queue, applier=applier, looks={A.kind: done}, workers=1)
    before = value("agentteams_operator_reconciles_total", kind=A.kind, outcome="gone")
    await reconciler.reconcile(A)
    assert value("agentteams_operator_reconciles_total", kind=A.kind, outcome="gone") == before + 1
    assert not queue.retrying


async def test_the_wait_of_a_key_begins_with_its_first_change() -> None:
    queue = WorkQueue()
    before = value("agentteams_operator_queue_wait_seconds_sum")
    queue.add(A)
    await asyncio.sleep(3)
    queue.add(A)
    await asyncio.sleep(4)
    await queue.get()
    assert value("agentteams_operator_queue_wait_seconds_sum") == pytest.approx(before + 7)


def state(*bodies: dict[str, Any], waiting: int = 0, retrying: Mapping[Key, int] | None = None) -> Any:
    cache = Cache(lambda _: None)
    for one in bodies:
        cache.put(one)
    objects = [found for key in cache.keys("AgentTeam", "KnowledgeBase") if (found := cache.get(key))]
    registry = CollectorRegistry()
    registry.register(
        metrics.State(objects=lambda: objects, waiting=lambda: waiting, retrying=lambda: retrying or {})
    )
    return lambda name, **labels: registry.get_sample_value(f"agentteams_operator_{name}", labels)


def test_what_there_is_is_counted_by_kind_and_condition() -> None:
    ready = body("a", conditions=iter([("Ready", "True"), ("Accepted", "True")]))
    not_ready = body("b", conditions=iter([("Ready", "False"), ("Accepted", "True")]))
    index = body("k", kind="KnowledgeBase", conditions=iter([("Ready", "whatever")]))
    of = state(ready, not_ready, index, waiting=3, retrying={A: 2})
    assert of("queue_keys") == 3
    assert [of("retrying_objects", kind=kind) for kind in ("AgentTeam", "ModelConfig")] == [1, 0]
    assert [of("objects", kind=kind) for kind in ("AgentTeam", "KnowledgeBase", "ModelConfig")] == [2, 1, 0]
    conditions = {
        (kind, condition, status): count
        for kind in ("AgentTeam", "KnowledgeBase")
        for condition in ("Ready", "Accepted")
        for status in ("True", "False", "Unknown")
        if (count := of("conditions", kind=kind, condition=condition, status=status))
    }
    assert conditions == {
        ("AgentTeam", "Ready", "True"): 1,
        ("AgentTeam", "Ready", "False"): 1,
        ("AgentTeam", "Accepted", "True"): 2,
        ("KnowledgeBase", "Ready", "Unknown"): 1,
    }


def test_conditions_that_others_invent_do_not_grow_the_metrics_without_bound() -> None:
    bodies = [
        body(str(n), conditions=iter([("Ready", "True"), (f"Odd{n}", "True"), (f"Odder{n}", "False")]))
        for n in range(200)
    ]
    registry = CollectorRegistry()
    cache = Cache(lambda _: None)
    for one in bodies:
        cache.put(one)
    objects = [found for key in cache.keys("AgentTeam") if (found := cache.get(key))]
    registry.register(metrics.State(objects=lambda: objects, waiting=lambda: 0, retrying=dict))
    (family,) = [f for f in registry.collect() if f.name == "agentteams_operator_conditions"]
    assert len({sample.labels["condition"] for sample in family.samples}) == 20
    assert ("Ready", 200) in {(sample.labels["condition"], sample.value) for sample in family.samples}
