"""What is decided about a KnowledgeBase and its deletion, without a server."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from agentteams_operator.core.cache import Cache
from agentteams_operator.core.decide.knowledge import FINALIZER, TIMEOUT_ANNOTATION, decide_deletion
from agentteams_operator.core.golden_sets import GoldenSets
from agentteams_operator.core.knowledge import KnowledgeBases
from agentteams_operator.core.objects import Key, Stored, stored
from agentteams_operator.core.outcome import Outcome
from agentteams_operator.core.ports import (
    ApiFailure,
    KnowledgeRefused,
    KnowledgeState,
    KnowledgeUnavailable,
)
from agentteams_operator.core.quotas import Quotas
from agentteams_operator.core.reading import Reader
from manifests import KnowledgeBase
from manifests.golden import GoldenQuery
from servicekit.testing import FakeClock

DELETED = "2026-01-01T00:00:00Z"
T0 = datetime(2026, 1, 1, tzinfo=UTC)


class FakeKnowledge:
    """The retrieval service in memory."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.golden_sets: list[tuple[str, list[str]]] = []
        self.allowed: tuple[str, ...] = ()
        self.there: dict[str, KnowledgeState] = {}
        self.failure: Exception | None = None
        self.next = KnowledgeState(
            model="e", dimensions=8, fingerprint="f", deployment="Lite", documents=1, chunks=2,
            pending=0, failed=0,
        )  # fmt: skip

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if self.failure is not None:
            raise self.failure

    async def ensure(self, manifest: KnowledgeBase, allowed: Sequence[str] = ()) -> KnowledgeState:
        self.allowed = tuple(allowed)
        self._call("ensure")
        self.there[manifest.metadata.name] = self.next
        return self.next

    async def get(self, namespace: str, name: str) -> KnowledgeState | None:
        self._call("get")
        return self.there.get(name)

    async def set_golden_set(
        self, namespace: str, name: str, *, queries: Sequence[GoldenQuery], called: str
    ) -> str:
        self._call("set")
        self.golden_sets.append((called, [query.query for query in queries]))
        return f"sha of {called}"

    async def delete(self, namespace: str, name: str) -> None:
        self._call("delete")
        self.there.pop(name, None)


class FakeApi:
    """Only its ConfigMaps."""

    def __init__(self) -> None:
        self.config_maps: dict[str, dict[str, str]] = {}
        self.read = 0

    async def config_map(self, namespace: str, name: str) -> Mapping[str, str]:
        self.read += 1
        if name not in self.config_maps:
            raise ApiFailure("gone", 404)
        return self.config_maps[name]


def body(kind: str, name: str, spec: Any, **metadata: Any) -> dict[str, Any]:
    given = {"name": name, "namespace": "n", "uid": "u", "resourceVersion": "1", "generation": 1}
    return {"kind": kind, "metadata": given | metadata, "spec": spec}


SPEC = {"embedding": {"modelConfigRef": {"name": "e"}}}
MODEL = body("ModelConfig", "e", {"type": "Embedding", "provider": "BuiltIn"})


class World:
    """One KnowledgeBase that is looked at."""

    def __init__(self) -> None:
        self.cache = Cache(lambda key: None)
        self.cache.put(MODEL)
        self.knowledge = FakeKnowledge()
        self.api = FakeApi()
        self.bases = KnowledgeBases(
            cache=self.cache,
            reader=Reader(self.cache.get),
            quotas=Quotas(cache=self.cache, defaults={}),
            knowledge=self.knowledge,
            golden_sets=GoldenSets(find=self.cache.get, config_maps=self.api, knowledge=self.knowledge),
            clock=FakeClock(),
        )

    async def look(
        self, *, status: Any = None, policy: str = "Retain", spec: Any = None, **metadata: Any
    ) -> Outcome:
        given = body("KnowledgeBase", "docs", SPEC | {"deletionPolicy": policy} | (spec or {}), **metadata)
        return await self.bases.look(stored(given | {"status": status or {}}))


def reason(outcome: Outcome, kind: str) -> str:
    assert outcome.status is not None
    return next(str(c["reason"]) for c in outcome.status["conditions"] if c["type"] == kind)


async def test_it_is_made_once_and_asked_afterwards_and_made_again_when_it_is_lost() -> None:
    world = World()
    assert reason(await world.look(), "Ready") == "Ready"
    await world.look()
    assert world.knowledge.calls == ["ensure", "get"]
    await world.look(generation=2)
    assert world.knowledge.calls == ["ensure", "get", "ensure"]
    world.knowledge.there.clear()
    await world.look(generation=2)
    assert world.knowledge.calls[3:] == ["get", "ensure"]


async def test_nothing_is_asked_before_the_references_are_there() -> None:
    world = World()
    world.cache.remove(Key("ModelConfig", "n", "e"))
    outcome = await world.look()
    assert reason(outcome, "Ready") == "ModelConfigNotFound"
    assert reason(outcome, "Connected") == "NotAsked"
    assert world.knowledge.calls == []


async def test_a_service_that_is_away_leaves_the_figures_as_they_were() -> None:
    world = World()
    first = await world.look()
    world.knowledge.failure = KnowledgeUnavailable("nobody answers")
    outcome = await world.look(status=first.status)
    assert reason(outcome, "Ready") == "NoAnswer"
    assert outcome.status is not None
    assert outcome.status["documents"] == 1
    assert outcome.again_s < first.again_s


async def test_what_the_service_refuses_is_told_in_its_words() -> None:
    world = World()
    world.knowledge.failure = KnowledgeRefused("chunking cannot be changed")
    outcome = await world.look()
    assert reason(outcome, "Accepted") == reason(outcome, "Ready") == "Refused"


async def test_documents_in_work_and_capacity_are_told() -> None:
    world = World()
    world.knowledge.next = KnowledgeState(
        model="e", dimensions=8, fingerprint="f", deployment="Lite", documents=1, chunks=2, pending=3,
        failed=1, last_error="broken", tuning=True, capacity_advice="move it",
    )  # fmt: skip
    outcome = await world.look()
    assert outcome.status is not None
    assert outcome.status["ingestion"] == {"pending": 3, "failed": 1, "lastError": "broken"}
    assert reason(outcome, "CapacityAtRisk") == "WillNotFit"
    assert reason(outcome, "IndexReady") == "Tuning"
    assert outcome.again_s == 10


async def test_the_finalizer_comes_before_anything_is_made_and_goes_with_the_policy() -> None:
    world = World()
    outcome = await world.look(policy="Delete")
    assert (outcome.finalizers, outcome.status, world.knowledge.calls) == ((FINALIZER,), None, [])
    outcome = await world.look(policy="Delete", finalizers=[FINALIZER])
    assert outcome.finalizers == (FINALIZER,)
    assert (await world.look(policy="Retain", finalizers=[FINALIZER])).finalizers == ()


async def test_a_deletion_deletes_what_is_outside_unless_it_is_retained() -> None:
    world = World()
    gone = {"deletionTimestamp": DELETED, "finalizers": [FINALIZER]}
    assert (await world.look(policy="Delete", **gone)).finalizers == ()
    assert (await world.look(policy="Retain", **gone)).finalizers == ()
    assert world.knowledge.calls == ["delete"]
    without = await world.look(policy="Delete", deletionTimestamp=DELETED)
    assert without.finalizers is None


def test_a_deletion_waits_and_not_for_ever() -> None:
    def one(**annotations: str) -> Stored:
        key = Key("KnowledgeBase", "n", "docs")
        return Stored(
            key=key,
            uid="u",
            version="1",
            finalizers=(FINALIZER,),
            deleted_at=DELETED,
            annotations=annotations,
        )

    waiting = decide_deletion(one(), "away", T0 + timedelta(minutes=59))
    assert waiting.finalizers is None
    assert reason(waiting, "Ready") == "DeletionWaits"
    late = decide_deletion(one(), "away", T0 + timedelta(minutes=60))
    assert late.finalizers == ()
    assert [e.reason for e in late.events] == ["KeptOutside"]
    assert (
        decide_deletion(one(**{TIMEOUT_ANNOTATION: "5"}), "away", T0 + timedelta(seconds=6)).finalizers == ()
    )
    for wrong in ("soon", "inf", "nan", "1e300", "-1", "60s", "99999999", "٣"):
        waiting = decide_deletion(one(**{TIMEOUT_ANNOTATION: wrong}), "away", T0)
        assert waiting.finalizers is None
        assert waiting.status is not None
        told = waiting.status["conditions"][-1]["message"]
        assert told.startswith("its documents could not be deleted yet: away; annotation")
        assert f'is "{wrong}", which is no number of seconds below 10000000' in told
        late = decide_deletion(one(**{TIMEOUT_ANNOTATION: wrong}), "away", T0 + timedelta(minutes=60))
        assert late.finalizers == ()
