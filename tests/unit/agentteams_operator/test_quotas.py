"""How much a namespace may have, without a server."""

from collections.abc import Mapping
from typing import Any

import pytest
import structlog
from agentteams.session.v1 import quota_pb2

from agentteams_operator.core.cache import Cache
from agentteams_operator.core.golden_sets import GoldenSets
from agentteams_operator.core.knowledge import KnowledgeBases
from agentteams_operator.core.objects import Key, Stored
from agentteams_operator.core.quotas import NO_LIMIT, Limited, Quotas
from agentteams_operator.core.reading import Reader
from servicekit.testing import FakeClock
from tests.unit.agentteams_operator.test_decide_knowledge import FakeApi, FakeKnowledge
from tests.unit.agentteams_operator.test_decide_team import condition
from tests.unit.agentteams_operator.test_teams import Scene


class World:
    """Namespaces and what is in them; each object is a second younger than the one before."""

    def __init__(self, defaults: Mapping[Limited, int] | None = None) -> None:
        self.told: list[Key] = []
        self.cache = Cache(self.told.append)
        self.quotas = Quotas(cache=self.cache, defaults=defaults or {})
        self._now = 0

    def namespace(self, name: str = "n", **most: str) -> None:
        annotations = {f"agentteams.dev/max-{what.replace('_', '-')}": value for what, value in most.items()}
        self._put("Namespace", name, "", annotations=annotations)

    def put(self, kind: str, name: str, spec: Any = None, status: Any = None, namespace: str = "n") -> None:
        self._put(kind, name, namespace, body={"spec": spec or {}, "status": status or {}})

    def over(self, kind: str, *names: str, namespace: str = "n") -> list[str]:
        found = [(name, self.cache.get(Key(kind, namespace, name))) for name in names]
        return [name for name, one in found if one is not None and self.quotas.over(one)]

    def why(self, kind: str, name: str) -> str:
        one = self.cache.get(Key(kind, "n", name))
        assert one is not None
        return self.quotas.over(one)

    def _put(self, kind: str, name: str, namespace: str, body: Any = None, **metadata: Any) -> None:
        self._now += 1
        known = self.cache.get(Key(kind, namespace, name))
        created = known.created if known is not None else f"2026-01-01T00:00:{self._now:02}Z"
        given = {
            "name": name, "namespace": namespace, "uid": f"u-{name}", "resourceVersion": str(self._now),
            "generation": self._now, "creationTimestamp": created, **metadata,
        }  # fmt: skip
        self.cache.put({"kind": kind, "metadata": given, **(body or {})})


def test_without_a_limit_there_is_none() -> None:
    world = World()
    world.namespace()
    for name in "abc":
        world.put("AgentTeam", name)
    assert world.over("AgentTeam", *"abc") == []


def test_the_newest_are_over_whatever_their_names_and_an_annotation_goes_before_the_default() -> None:
    world = World({"teams": 2})
    world.namespace()
    world.namespace("rich", teams="3")
    world.namespace("poor", teams="0")
    for namespace in ("n", "rich", "poor"):
        for name in "cab":
            world.put("AgentTeam", name, namespace=namespace)
            world.put("KnowledgeBase", name, namespace=namespace)
    assert world.over("AgentTeam", *"abc") == ["b"]
    assert world.over("AgentTeam", *"abc", namespace="rich") == []
    assert world.over("AgentTeam", *"abc", namespace="poor") == ["a", "b", "c"]
    assert world.over("KnowledgeBase", *"abc") == []
    assert world.why("AgentTeam", "b") == (
        'namespace "n" may have 2 AgentTeams ("teams" of the installation\'s quotas), and with this one it '
        "has 3; delete one, or have the limit raised"
    )
    world.namespace(knowledge_bases="2")
    assert world.over("KnowledgeBase", *"abc") == ["b"]
    assert "(the annotation agentteams.dev/max-knowledge-bases of the Namespace)" in world.why(
        "KnowledgeBase", "b"
    )


def test_pods_of_ones_own_are_counted_at_their_most() -> None:
    world = World()
    world.namespace(own_replicas="5", own_pools="2")
    world.put("AgentTeam", "a", {"runtime": {"replicas": 2}})
    world.put("AgentTeam", "b", {"runtime": {"autoscaling": {"maxReplicas": 4}}})
    world.put("AgentTeam", "shared")
    assert world.over("AgentTeam", "a", "b", "shared") == ["b"]
    assert "may have 5 pods of AgentTeams with spec.runtime" in world.why("AgentTeam", "b")
    world.put("AgentTeam", "b", {"runtime": {"autoscaling": {"maxReplicas": 3}}})
    world.put("AgentTeam", "c", {"runtime": {"replicas": 0}})
    assert world.over("AgentTeam", "a", "b", "c") == ["c"]
    assert "may have 2 AgentTeams with spec.runtime" in world.why("AgentTeam", "c")


@pytest.mark.parametrize("value", ["ten", "-1", "1.5", "", "²"])
def test_a_limit_that_is_no_number_does_not_lift_the_default(value: str) -> None:
    world = World({"teams": 1})
    world.namespace(teams=value)
    world.put("AgentTeam", "a")
    world.put("AgentTeam", "b")
    assert world.over("AgentTeam", "a", "b") == ["b"]


def test_who_waits_is_looked_at_when_there_is_room_or_another_limit() -> None:
    world = World()
    world.namespace(teams="1")
    waits = {"conditions": [{"type": "Accepted", "status": "False", "reason": "QuotaExceeded"}]}
    world.put("AgentTeam", "a", {"runtime": {}})
    world.put("AgentTeam", "b", status=waits)
    b = Key("AgentTeam", "n", "b")
    world.told.clear()
    world.put("AgentTeam", "c")
    assert b not in world.told
    world.put("AgentTeam", "a")
    assert b in world.told
    world.told.clear()
    world.cache.remove(Key("AgentTeam", "n", "c"))
    assert b in world.told
    world.told.clear()
    world.namespace(teams="3")
    assert {b, Key("Pool", "n", "")} <= set(world.told)
    world.told.clear()
    world.namespace(teams="3")  # another version, the same annotations
    assert world.told == []


async def test_a_team_over_quota_waits_and_one_that_serves_goes_on() -> None:
    scene = Scene({"teams": 0})
    scene.put("Deployment", "agentteams-pool", status={"availableReplicas": 1})
    scene.model("m")
    scene.team({})
    outcome = await scene.look()
    assert condition(outcome, "Accepted") == ("False", "QuotaExceeded")
    assert condition(outcome, "Ready") == ("False", "QuotaExceeded")
    assert outcome.objects == ()
    assert (await scene.look_at_pool()).objects == ()
    scene.revision("r1", {"modelConfigRef": {"name": "m"}})
    scene.team({}, {"currentRevision": "r1", "updatedRevision": "r1"})
    outcome = await scene.look()
    assert condition(outcome, "Accepted") == ("False", "QuotaExceeded")
    assert condition(outcome, "Ready") == ("True", "LastGoodServes")
    assert (outcome.objects, outcome.gone) == ((), ())
    assert (await scene.look_at_pool()).objects != ()


async def test_a_knowledge_base_over_quota_is_not_made() -> None:
    cache, knowledge = Cache(lambda key: None), FakeKnowledge()
    bases = KnowledgeBases(
        cache=cache, reader=Reader(cache.get), quotas=Quotas(cache=cache, defaults={"knowledge-bases": 0}),
        knowledge=knowledge, clock=FakeClock(),
        golden_sets=GoldenSets(find=cache.get, config_maps=FakeApi(), knowledge=knowledge),
    )  # fmt: skip
    spec = {"embedding": {"modelConfigRef": {"name": "e"}}}
    metadata = {"name": "docs", "namespace": "n", "uid": "u", "resourceVersion": "1", "generation": 1}
    cache.put({"kind": "KnowledgeBase", "metadata": metadata, "spec": spec})
    metadata = metadata | {"name": "e"}
    cache.put(
        {"kind": "ModelConfig", "metadata": metadata, "spec": {"type": "Embedding", "provider": "BuiltIn"}}
    )
    one = cache.get(Key("KnowledgeBase", "n", "docs"))
    assert isinstance(one, Stored)
    assert condition(await bases.look(one), "Accepted") == ("False", "QuotaExceeded")
    assert knowledge.calls == []


@pytest.mark.parametrize(
    ("value", "most"),
    [("0", 0), ("07", 7), ("2147483647", NO_LIMIT), ("2147483648", NO_LIMIT), ("9" * 5_000, NO_LIMIT)],
    ids=["none", "zeros", "the most", "more", "5,000 digits"],
)
def test_a_number_beyond_all_is_no_limit_and_can_be_told(value: str, most: int) -> None:
    """The session service is told 32 bits, and a look that fails for it leaves the namespace without pods."""
    world = World({"concurrent-runs": 1})
    world.namespace(concurrent_runs=value)
    limit = world.quotas.limit("n", "concurrent-runs")
    assert limit is not None
    assert limit.most == quota_pb2.RunQuota(max_concurrent_runs=limit.most).max_concurrent_runs == most


def test_what_is_no_number_is_logged_once_for_each_value() -> None:
    world = World({"teams": 1})
    with structlog.testing.capture_logs() as logs:
        for value in ("many", "many", "more"):
            world.namespace(teams=value)
            for _ in range(3):
                world.put("AgentTeam", "a")
                assert world.over("AgentTeam", "a") == []
    told = [(line["annotation"], line["value"]) for line in logs]
    assert told == [("agentteams.dev/max-teams", "many"), ("agentteams.dev/max-teams", "more")]
