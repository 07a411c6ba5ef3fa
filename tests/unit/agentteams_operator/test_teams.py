"""What is observed of AgentTeams and pools, from a cache, without a server."""

import base64
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from agentteams_operator.core.cache import Cache
from agentteams_operator.core.objects import Key, Stored
from agentteams_operator.core.outcome import Outcome
from agentteams_operator.core.ports import ApiFailure
from agentteams_operator.core.quotas import Limited, Quotas
from agentteams_operator.core.reading import Reader
from agentteams_operator.core.served import Served
from agentteams_operator.core.teams import Teams
from agentteams_operator.core.texts import Texts
from agentteams_operator.specs.settings import PoolNetwork, PoolSettings
from servicekit.testing import FakeClock
from tests.unit.agentteams_operator.test_decide_team import condition

MANAGED = {"app.kubernetes.io/managed-by": "agentteams-operator"}
READY = {"conditions": [{"type": "Ready", "status": "True", "reason": "Ready", "message": ""}]}


class Scene:
    """A cache and what looks at it."""

    def __init__(self, defaults: Mapping[Limited, int] | None = None) -> None:
        self.cache = Cache(lambda key: None)
        self.clock = FakeClock()
        self.kinds: set[str] = set()
        self.teams = Teams(
            cache=self.cache,
            reader=Reader(self.cache.get),
            quotas=Quotas(cache=self.cache, defaults=defaults or {}),
            texts=Texts(cache=self.cache, api=self),
            settings=PoolSettings(image="i", max_replicas=2, scaler="KEDA"),
            served=Served(api=self, clock=self.clock),
            tenant_key=lambda tenant, *, calls_of="": b"k",
            clock=self.clock,
        )
        self.maps: dict[str, dict[str, str]] = {}
        self.failure: ApiFailure | None = None
        self._version = 0

    async def serves(self, kind: str) -> bool:
        return kind in self.kinds

    async def config_map(self, namespace: str, name: str) -> Mapping[str, str]:
        if self.failure is not None:
            raise self.failure
        return self.maps[name]

    def put(self, kind: str, name: str, namespace: str = "n", **more: Any) -> None:
        self._version += 1
        metadata = {
            "name": name, "namespace": namespace, "uid": f"u-{kind}-{name}", "generation": self._version,
            "resourceVersion": str(self._version), "labels": more.pop("labels", {}),
            "deletionTimestamp": more.pop("deleted", None),
        }  # fmt: skip
        self.cache.put({"kind": kind, "metadata": metadata, **more})

    def model(self, name: str, *, status: Any = READY) -> None:
        spec = {"type": "Chat", "provider": "BuiltIn"}
        self.put("ModelConfig", name, spec=spec, status=status)

    def team(self, spec: Any, status: Any = None, name: str = "t") -> None:
        given = {"modelConfigRef": {"name": "m"}, "members": [{"name": "a"}]}
        self.put("AgentTeam", name, spec=given | spec, status=status or {})

    def revision(self, number: str, data: Any, team: str = "t") -> None:
        labels = MANAGED | {"agentteams.dev/team": team}
        self.put("ControllerRevision", f"{team}-{number}", labels=labels, data=data, revision=1)

    async def look(self, name: str = "t") -> Outcome:
        return await self.teams.look(self.one("AgentTeam", name))

    async def look_at_pool(self) -> Outcome:
        return await self.teams.look_at_pool(Stored(key=Key("Pool", "n", ""), uid="", version=""))

    def one(self, kind: str, name: str) -> Stored:
        found = self.cache.get(Key(kind, "n", name))
        assert found is not None
        return found


def tool(secret: str) -> dict[str, Any]:
    header = {"name": "X", "valueFrom": {"secretKeyRef": {"name": secret, "key": "k"}}}
    return {"name": "x", "mcp": {"url": "http://x/mcp", "allowedTools": ["a"], "headersFrom": [header]}}


def mounted(outcome: Outcome) -> list[str]:
    (deployment,) = [o for o in outcome.objects if o["kind"] == "Deployment"]
    volumes = deployment["spec"]["template"]["spec"]["volumes"]
    (secrets,) = [v for v in volumes if v["name"] == "secrets"]
    return [source["secret"]["name"] for source in secrets["projected"]["sources"]]


async def test_what_the_serving_revision_needs_stays_mounted_while_the_newest_waits() -> None:
    scene = Scene()
    old = {"modelConfigRef": {"name": "m"}, "members": [{"name": "a"}], "tools": [tool("old")]}
    scene.revision("r1", old)
    for own in (False, True):
        runtime: dict[str, Any] = {"runtime": {}} if own else {}
        newest = {"modelConfigRef": {"name": "late"}, "tools": [tool("new")]} | runtime
        scene.team(newest, {"currentRevision": "r1"})
        outcome = await (scene.look() if own else scene.look_at_pool())
        assert mounted(outcome) == ["new", "old"]


async def test_the_serving_revision_is_looked_at_with_its_own_models_and_secrets() -> None:
    scene = Scene()
    scene.put("Deployment", "agentteams-pool", status={"availableReplicas": 1})
    scene.model("m")
    scene.put("Secret", "old", data={"k": base64.b64encode(b"x").decode()})
    scene.revision("r1", {"modelConfigRef": {"name": "m"}, "members": [{}], "tools": [tool("old")]})
    scene.team({"modelConfigRef": {"name": "late"}}, {"currentRevision": "r1"})
    assert condition(await scene.look(), "Ready") == ("True", "LastGoodServes")
    scene.model("m", status={})
    assert condition(await scene.look(), "Ready") == ("False", "ModelNotReady")
    scene.cache.remove(Key("ModelConfig", "n", "m"))
    assert condition(await scene.look(), "Ready") == ("False", "ModelConfigNotFound")
    scene.put("ModelConfig", "m", spec={"type": "Embedding", "provider": "BuiltIn"}, status=READY)
    assert condition(await scene.look(), "Ready") == ("False", "WrongType")
    scene.model("m")
    scene.cache.remove(Key("Secret", "n", "old"))
    assert condition(await scene.look(), "Ready") == ("False", "SecretNotFound")
    scene.cache.remove(Key("ControllerRevision", "n", "t-r1"))
    assert condition(await scene.look(), "Ready") == ("False", "RevisionNotFound")


async def test_the_shared_pool_is_scaled_by_keda_as_soon_as_it_is_there() -> None:
    def scalers(outcome: Outcome) -> set[str]:
        return {"HorizontalPodAutoscaler", "ScaledObject"} & {o["kind"] for o in outcome.objects}

    scene = Scene()
    scene.team({})
    assert scalers(await scene.look_at_pool()) == {"HorizontalPodAutoscaler"}
    labels = MANAGED | {"agentteams.dev/pool": "shared"}
    scene.put("HorizontalPodAutoscaler", "agentteams-pool", labels=labels)
    scene.kinds.add("ScaledObject")
    assert scalers(await scene.look_at_pool()) == {"HorizontalPodAutoscaler"}  # asked a moment ago
    scene.clock.advance(timedelta(seconds=61))
    outcome = await scene.look_at_pool()
    assert (scalers(outcome), [key.kind for key in outcome.gone]) == (set(), ["HorizontalPodAutoscaler"])
    scene.cache.remove(outcome.gone[0])
    assert scalers(await scene.look_at_pool()) == {"ScaledObject"}


@pytest.mark.parametrize("enabled", [True, False])
async def test_calls_have_no_policy_of_their_own_where_pools_have_none(enabled: bool) -> None:
    """A policy that allows calls only would cut the pods off from all else."""
    scene = Scene()
    scene.teams._settings = replace(scene.teams._settings, network=PoolNetwork(enabled=enabled))
    spec = {"members": [{"name": "a"}], "allowedNamespaces": {"from": "All"}}
    scene.put("AgentTeam", "t", spec=spec, status={"currentRevision": "r"})
    outcome = await scene.look_at_pool()
    found = [o["metadata"]["name"] for o in outcome.objects if o["kind"] == "NetworkPolicy"]
    assert sorted(found) == (["agentteams-calls", "agentteams-pool"] if enabled else [])


def config(scene: Scene, **texts: str) -> None:
    scene.maps["prompts"] = texts
    scene.put("ConfigMap", "prompts", data=texts)


def source(key: str) -> dict[str, Any]:
    return {"instructionsFrom": {"configMapKeyRef": {"name": "prompts", "key": key}}}


def revision_of(outcome: Outcome) -> Mapping[str, Any]:
    (found,) = [o for o in outcome.objects if o["kind"] == "ControllerRevision"]
    return found


async def test_texts_of_a_config_map_are_part_of_the_revision() -> None:
    scene = Scene()
    scene.put("Deployment", "agentteams-pool", status={"availableReplicas": 1})
    scene.model("m")
    config(scene, lead="Lead.", a="Be A.")
    scene.team(
        source("lead") | {"members": [{"name": "a"} | source("a"), {"name": "b", "instructions": "B"}]}
    )
    outcome = await scene.look()
    data = revision_of(outcome)["data"]
    assert data == {
        "modelConfigRef": {"name": "m"}, "instructions": "Lead.",
        "members": [{"name": "a", "instructions": "Be A."}, {"name": "b", "instructions": "B"}],
    }  # fmt: skip
    # The same as if the texts had been written into the manifest, and another one with another text.
    scene.team(data, name="u")
    assert (await scene.look("u")).status is not None
    first = (outcome.status or {})["currentRevision"]
    assert ((await scene.look("u")).status or {})["currentRevision"] == first
    config(scene, lead="Lead.", a="Be another.")
    later = await scene.look()
    assert (later.status or {})["currentRevision"] != first
    assert revision_of(later)["data"]["members"][0]["instructions"] == "Be another."


@pytest.mark.parametrize(
    ("texts", "reason", "words"),
    [
        (None, "ConfigMapNotFound", 'no ConfigMap "prompts" in namespace "n"; create it with the key "lead"'),
        ({"other": "x"}, "ConfigMapKeyNotFound", 'has no key "lead", but other; add it'),
        ({"lead": "x" * 32_769}, "TextTooLong", "32769 characters; shorten it"),
    ],
)
async def test_without_its_text_a_team_waits_and_the_last_good_revision_serves(
    texts: dict[str, str] | None, reason: str, words: str
) -> None:
    scene = Scene()
    scene.put("Deployment", "agentteams-pool", status={"availableReplicas": 1})
    scene.model("m")
    if texts is not None:
        config(scene, **texts)
    scene.team(source("lead"))
    new = await scene.look()
    assert condition(new, "ResolvedRefs") == ("False", reason)
    assert condition(new, "Ready") == ("False", reason)
    (told,) = [c["message"] for c in (new.status or {})["conditions"] if c["type"] == "ResolvedRefs"]
    assert told.startswith("spec.instructionsFrom.configMapKeyRef: ")
    assert words in told
    assert new.objects == ()
    assert "updatedRevision" not in (new.status or {})
    scene.revision("r1", {"modelConfigRef": {"name": "m"}})
    for updated in ("r1", "r2"):
        scene.team(source("lead"), {"currentRevision": "r1", "updatedRevision": updated})
        old = await scene.look()
        assert condition(old, "Ready") == ("True", "LastGoodServes")
        assert (old.status or {})["currentRevision"] == "r1"
        assert (old.objects, old.gone) == ((), ())


async def test_a_config_map_that_cannot_be_read_is_a_failure_and_not_an_absence() -> None:
    scene = Scene()
    config(scene, lead="x")
    scene.team(source("lead"))
    scene.failure = ApiFailure("forbidden", 403)
    with pytest.raises(ApiFailure):
        await scene.look()
    scene.failure = ApiFailure("gone", 404)
    assert condition(await scene.look(), "ResolvedRefs") == ("False", "ConfigMapKeyNotFound")


async def test_what_is_missing_is_neither_ready_nor_its_own_replacement() -> None:
    """A knowledge base that is being deleted is not there any more, and is not what was meant either."""
    scene = Scene()
    scene.model("m")
    spec = {"embedding": {"modelConfigRef": {"name": "e"}}}
    scene.put("KnowledgeBase", "docs", spec=spec, deleted="2026-01-01T00:00:00Z")
    scene.put("KnowledgeBase", "dogs", spec=spec, status=READY)
    refs = [{"name": "docs", "knowledgeBaseRef": {"name": "docs"}}]
    scene.team({"knowledge": refs})
    outcome = await scene.look()
    assert condition(outcome, "ModelsReady") == ("True", "AllReady")
    assert condition(outcome, "KnowledgeReady") == ("Unknown", "NotAsked")
    assert condition(outcome, "ResolvedRefs") == ("False", "KnowledgeBaseNotFound")
    assert outcome.status is not None
    told = next(c["message"] for c in outcome.status["conditions"] if c["type"] == "ResolvedRefs")
    assert told.endswith('no KnowledgeBase "docs" in namespace "n"; did you mean "dogs"?')
    assert outcome.status["members"] == 1
