"""Models of other namespaces, without a server: who is told what, and what pods are given."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from agentteams_operator.core.cache import Cache
from agentteams_operator.core.decide.allowed import MAX_ALLOWED
from agentteams_operator.core.kept_secret import KeptSecret
from agentteams_operator.core.models import Models, broken_references
from agentteams_operator.core.objects import SHARED_MODELS_LABEL, Key, Stored, owner_of
from agentteams_operator.core.outcome import Outcome
from agentteams_operator.core.ports import Probe
from agentteams_operator.core.reading import Reader
from agentteams_operator.core.shared_models import SharedModels, described, shared_with
from manifests import ModelConfig
from manifests.endpoints import SHARED_MODELS
from servicekit.testing import FakeClock
from tests.unit.agentteams_operator.test_credentials import Server
from tests.unit.agentteams_operator.test_decide_team import condition
from tests.unit.agentteams_operator.test_sharing import SELECTOR, namespace
from tests.unit.agentteams_operator.test_teams import READY, Scene, mounted

ALL = {"from": "All"}
COPY = Key("Secret", "n", SHARED_MODELS)
LOOK = Key("SharedModels", "n", "")


def chat(scene: Scene, name: str = "m", owner: str = "owner", **more: Any) -> None:
    spec = {"type": "Chat", "provider": "OpenAI", "model": "x"}
    key = {"credentialsSecretKeyRef": {"name": "llm", "key": name}}
    scene.put("ModelConfig", name, owner, spec={**spec, **key, **more}, status=READY)


def asking(scene: Scene, name: str = "m", **more: Any) -> None:
    scene.team({"modelConfigRef": {"name": name, "namespace": "owner"}, **more})


def keys(owner: str = "owner") -> dict[str, Any]:
    return {"data": {"m": "c2sx", "small": "c2sy", "judge": "c2sz"}}


def test_what_is_shared_is_what_agents_ask_and_their_owners_allow() -> None:
    scene = Scene()
    namespace(scene, "n")
    chat(scene, allowedNamespaces=ALL, fallbackRefs=[{"name": "small"}, {"name": "private"}])
    chat(scene, "small", allowedNamespaces=ALL)
    chat(scene, "private")
    chat(scene, "judge", allowedNamespaces=ALL)
    chat(scene, "own", "n")
    asking(scene, members=[{"name": "a", "modelConfigRef": {"name": "own"}}],
           evaluation={"judgeModelConfigRef": {"name": "judge", "namespace": "owner"}})  # fmt: skip
    assert [str(m.key) for m in shared_with(scene.cache, "n")] == [
        "ModelConfig owner/m", "ModelConfig owner/small"
    ]  # fmt: skip
    assert shared_with(scene.cache, "owner") == []
    texts = described(shared_with(scene.cache, "n"))
    assert sorted(texts) == ["model.owner.m", "model.owner.small"]
    spec = json.loads(texts["model.owner.m"])
    assert (spec["model"], "allowedNamespaces" in spec) == ("x", False)
    # The revision that serves goes on with its model while the newest waits for another one.
    scene.revision("r1", {"modelConfigRef": {"name": "small", "namespace": "owner"}, "members": []})
    scene.team({"modelConfigRef": {"name": "late"}}, {"currentRevision": "r1"})
    assert [m.key.name for m in shared_with(scene.cache, "n")] == ["small"]


@pytest.mark.parametrize("own", [False, True], ids=["shared pool", "own pool"])
async def test_pods_have_the_keys_of_the_copy_and_roll_with_it(own: bool) -> None:
    scene = Scene()
    namespace(scene, "n")
    chat(scene, allowedNamespaces=ALL)
    runtime: dict[str, Any] = {"runtime": {}} if own else {}
    asking(scene, **runtime)

    async def pods() -> Outcome:
        return await (scene.look() if own else scene.look_at_pool())

    def items(outcome: Outcome) -> list[str]:
        (deployment,) = [o for o in outcome.objects if o["kind"] == "Deployment"]
        (volume,) = [v for v in deployment["spec"]["template"]["spec"]["volumes"] if v["name"] == "secrets"]
        return [i["key"] for s in volume["projected"]["sources"] for i in s["secret"]["items"]]

    def template(outcome: Outcome) -> Any:
        return next(o for o in outcome.objects if o["kind"] == "Deployment")["spec"]["template"]

    first = await pods()
    assert mounted(first) == [SHARED_MODELS]
    assert items(first) == ["model.owner.m", "owner__llm__m"]
    scene.put("Secret", SHARED_MODELS, labels={SHARED_MODELS_LABEL: "models"}, data={"owner__llm__m": "a"})
    second = await pods()
    assert template(second) != template(first)
    scene.put("Secret", SHARED_MODELS, labels={SHARED_MODELS_LABEL: "models"}, data={"owner__llm__m": "b"})
    assert template(await pods()) != template(second)
    chat(scene)  # the permission is taken back
    assert mounted(await pods()) == []


async def test_a_model_of_the_wrong_type_is_told_to_who_may_use_it_only() -> None:
    scene = Scene()
    reader = Reader(scene.cache.get)
    spec: dict[str, Any] = {"type": "Embedding", "provider": "BuiltIn"}
    asking(scene)
    team = scene.one("AgentTeam", "t")
    for allowed, reasons in ((None, ["RefNotPermitted"]), (ALL, ["WrongType"])):
        more = {"allowedNamespaces": allowed} if allowed else {}
        scene.put("ModelConfig", "m", "owner", spec={**spec, **more}, status=READY)
        assert [reason for reason, _ in broken_references(scene.cache, reader, team)] == reasons


async def test_a_fallback_that_may_not_be_used_stands_in_for_nobody() -> None:
    scene = Scene()
    namespace(scene, "n")
    silent = {"conditions": [{"type": "Ready", "status": "False", "reason": "NoAnswer", "message": ""}]}
    spec = {
        "type": "Chat",
        "provider": "BuiltIn",
        "allowedNamespaces": ALL,
        "fallbackRefs": [{"name": "small"}],
    }
    scene.put("ModelConfig", "m", "owner", spec=spec, status=silent)
    chat(scene, "small")
    asking(scene)
    assert condition(await scene.look(), "ModelsReady") == ("False", "ModelNotReady")
    chat(scene, "small", allowedNamespaces=ALL)
    assert condition(await scene.look(), "ModelsReady")[0] == "True"


async def test_names_that_the_copy_cannot_have_are_told_to_the_user() -> None:
    scene = Scene()
    namespace(scene, "n")
    long = {"name": "s" * 240, "key": "k" * 20}
    scene.put("Secret", "s" * 240, "owner", data={"k" * 20: "a"})
    chat(scene, allowedNamespaces=ALL, credentialsSecretKeyRef=long)
    asking(scene)
    assert condition(await scene.look(), "ResolvedRefs") == ("False", "SecretNameTooLong")


async def test_the_copy_is_written_when_something_changes_and_goes_with_the_last_user() -> None:
    scene, server = Scene(), Server()
    namespace(scene, "n")
    scene.put("Secret", "llm", "owner", **keys())
    server.secrets["owner", "llm"] = {"m": b"sk1", "small": b"sk2", "judge": b"sk3"}
    chat(scene, allowedNamespaces=ALL)
    asking(scene)
    shared = SharedModels(cache=scene.cache, api=server)
    look = Stored(key=LOOK, uid="", version="")

    async def written() -> list[str]:
        await shared.look(look)
        return sorted(server.applied[-1]["data"])

    assert await written() == ["model.owner.m", "owner__llm__m"]
    assert owner_of(scene.cache.get(COPY)) == LOOK
    assert await written()
    assert len(server.applied) == 1
    chat(scene, allowedNamespaces=SELECTOR)
    namespace(scene, "n", rag="yes")
    assert await written()
    assert len(server.applied) == 1
    chat(scene, allowedNamespaces=ALL, contextTokens=4096)
    assert await written()
    assert len(server.applied) == 2
    scene.put("Secret", "llm", "owner", data={"m": "other"})
    assert await written()
    assert len(server.applied) == 3
    chat(scene)
    assert (await shared.look(look)).gone == (COPY,)


def test_it_is_looked_at_when_the_owner_the_user_or_the_copy_changes() -> None:
    told = list[Key]()
    scene = Scene()
    scene.cache = Cache(told.append)
    namespace(scene, "n")
    scene.model("own")
    scene.team({"modelConfigRef": {"name": "own"}}, name="alone")
    assert LOOK not in told  # nobody names another namespace's
    asking(scene)
    assert LOOK in told
    changes: tuple[Callable[[], None], ...] = (
        lambda: chat(scene, allowedNamespaces=SELECTOR),
        lambda: scene.put("Secret", "llm", "owner", **keys()),
        lambda: namespace(scene, "n", rag="yes"),
        lambda: scene.put("Secret", SHARED_MODELS, labels={
            "app.kubernetes.io/managed-by": "agentteams-operator", SHARED_MODELS_LABEL: "models"
        }, data={"a": "b"}),
    )  # fmt: skip
    for change in changes:
        told.clear()
        change()
        assert {LOOK, Key("Pool", "n", ""), Key("AgentTeam", "n", "t")} <= set(told)
    scene.team({"modelConfigRef": {"name": "own"}})
    told.clear()
    scene.team({"modelConfigRef": {"name": "own"}, "description": "x"})
    assert LOOK in told  # the copy is still there
    told.clear()
    scene.cache.remove(COPY)
    scene.team({"modelConfigRef": {"name": "own"}, "description": "y"})
    assert told.count(LOOK) == 1  # of its removal: then there is nothing to look at
    assert LOOK not in set(scene.cache.everything())


async def test_the_services_are_told_whom_a_model_lets_in() -> None:
    scene = Scene()

    class Probes:
        async def probe(self, config: ModelConfig, secrets: Mapping[tuple[str, str], bytes]) -> Probe:
            return Probe(reason="Answered", message="")

    models = Models(
        cache=scene.cache, reader=Reader(scene.cache.get), api=Server(), endpoints=Probes(), clock=FakeClock()
    )
    spec = {"type": "Embedding", "provider": "BuiltIn"}
    for number in range(MAX_ALLOWED):
        namespace(scene, f"n{number}", rag="yes")

    async def status(allowed: Any) -> Mapping[str, Any]:
        scene.put("ModelConfig", "m", "owner", spec={**spec, "allowedNamespaces": allowed})
        found = scene.cache.get(Key("ModelConfig", "owner", "m"))
        assert found is not None
        return (await models.look(found)).status or {}

    assert len((await status(SELECTOR))["allowedTenants"]) == MAX_ALLOWED
    assert (await status(ALL))["allowedTenants"] == ["*"]
    assert "allowedTenants" not in await status({"from": "Same"})
    namespace(scene, "more", rag="yes")
    over = await status(SELECTOR)
    assert "allowedTenants" not in over
    assert (over["conditions"][0]["reason"], over["conditions"][0]["status"]) == (
        "TooManyNamespaces",
        "False",
    )


async def test_a_copy_of_texts_alone_is_kept_too() -> None:
    scene, server = Scene(), Server()
    kept = KeptSecret(cache=scene.cache, api=server, key=COPY, label=SHARED_MODELS_LABEL)
    for text in (b"one", b"one", b"two"):
        await kept.keep([], {"model.a.b": text})
    assert len(server.applied) == 2
    assert (await kept.keep([])).gone == (COPY,)
