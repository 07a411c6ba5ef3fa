"""A ModelConfig that other namespaces may use: the API server, the operator, pods and services."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from manifests import Source, cluster_source
from manifests.endpoints import SHARED_MODELS, SecretFiles, endpoint_of
from servicekit.errors import NotFound
from tests.integration.test_operator_credentials import embed as embed_own
from tests.integration.test_operator_credentials import embedding, secret, until
from tests.integration.test_operator_teams import team
from tests.support.kube import Cluster, KubectlError
from tests.support.operator_process import (
    FakeEndpoint,
    await_condition,
    condition,
    fake_endpoint,
    model,
    running_operator,
)

pytestmark = pytest.mark.slow

SELECTOR = {"from": "Selector", "selector": {"matchLabels": {"models": "yes"}}}
KEY: dict[str, Any] = {"credentialsSecretKeyRef": {"name": "llm", "key": "apiKey"}}
WORDS = "is not there, or does not allow namespace"


@pytest.fixture
def endpoint() -> Iterator[FakeEndpoint]:
    with fake_endpoint() as endpoint:
        endpoint.key = "sk-one"
        yield endpoint


class Scene:
    """An owner and a user of its model, and an operator."""

    def __init__(self, cluster: Cluster, owner: str, user: str) -> None:
        self.cluster, self.owner, self.user = cluster, owner, user

    def ref(self, name: str = "m") -> dict[str, Any]:
        return {"name": name, "namespace": self.owner}

    def copy(self) -> dict[str, str] | None:
        """What the user's namespace has of the owner's."""
        try:
            found = self.cluster.get(f"secret/{SHARED_MODELS}", f"--namespace={self.user}")
        except KubectlError:
            return None
        return {name: base64.b64decode(value).decode() for name, value in found.get("data", {}).items()}

    def template(self, name: str = "agentteams-pool") -> Mapping[str, Any]:
        try:
            found = self.cluster.get(f"deployment/{name}", f"--namespace={self.user}")
        except KubectlError:
            return {}
        template: Mapping[str, Any] = found["spec"]["template"]
        return template

    def mounted(self, name: str = "agentteams-pool") -> list[str]:
        """Keys of the copy that pods have."""
        volumes = self.template(name).get("spec", {}).get("volumes", ())
        sources = (
            s["secret"]
            for v in volumes
            if v["name"] == "secrets"
            for s in v["projected"].get("sources") or ()
        )
        return [item["key"] for s in sources if s["name"] == SHARED_MODELS for item in s["items"]]

    def told(self, reason: str, what: str = "at/t") -> dict[str, Any]:
        return await_condition(self.cluster, self.user, what, "ResolvedRefs", reason)

    def label(self, label: str) -> None:
        self.cluster.kubectl("label", "namespace", self.user, label)


@pytest.fixture
def scene(cluster: Cluster, tmp_path: Path) -> Iterator[Scene]:
    with cluster.namespace("owner") as owner, cluster.namespace("user") as user:
        with running_operator(
            cluster, tmp_path, namespaces=[owner, user], lease_namespace=owner, system_namespace=owner,
            lease_s="6",
        ) as operator:  # fmt: skip
            yield Scene(cluster, owner, user)
        assert "Traceback" not in operator.log
        assert "sk-" not in operator.log


@asynccontextmanager
async def following(scene: Scene, folder: Path, secrets_dir: Path) -> AsyncIterator[Source]:
    """The manifests as an orchestrator of the user's namespace sees them."""
    async with AsyncExitStack() as stack:
        source = cluster_source(stack, namespace=scene.user, secrets_dir=secrets_dir)
        watching = asyncio.ensure_future(source.watch())
        try:
            async with asyncio.timeout(40):
                await source.ready()
            yield source
        finally:
            watching.cancel()
            await asyncio.wait([watching])


def mount(scene: Scene, folder: Path) -> Path:
    """What the kubelet does."""
    (folder / SHARED_MODELS).mkdir(parents=True)
    for name, value in (scene.copy() or {}).items():
        (folder / SHARED_MODELS / name).write_text(value)
    return folder


async def test_the_owner_allows_a_chat_model_rotates_its_key_and_takes_it_back(
    scene: Scene, endpoint: FakeEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster, owner = scene.cluster, scene.owner
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))

    async def told(reason: str, what: str = "at/t") -> str:
        return json.dumps((await asyncio.to_thread(scene.told, reason, what))["status"])

    # The user first: the words are the same before there is a model and after.
    own = team("own", modelConfigRef=scene.ref(), runtime={"replicas": 1})
    cluster.apply(team(modelConfigRef=scene.ref()), own, namespace=scene.user)
    before = await told("RefNotPermitted")
    assert WORDS in before
    cluster.apply(
        secret(apiKey="sk-one", other="sk-other"),
        model(endpoint, allowedNamespaces=SELECTOR, **KEY),
        namespace=owner,
    )
    await asyncio.to_thread(await_condition, cluster, owner, "mc/m", "Ready", "Ready")
    await asyncio.to_thread(cluster.kubectl, "annotate", "at/t", "looked=at", f"--namespace={scene.user}")
    assert WORDS in await told("RefNotPermitted")
    assert scene.copy() is None

    scene.label("models=yes")
    await told("AllFound")
    credential = f"{owner}__llm__apiKey"
    await until(lambda: (scene.copy() or {}).get(credential) == "sk-one")
    copied = scene.copy() or {}
    # The one key that is named, and of the spec not whom else the owner allows.
    assert sorted(copied) == sorted([credential, f"model.{owner}.m"])
    assert "allowedNamespaces" not in json.loads(copied[f"model.{owner}.m"])
    for pool in ("agentteams-pool", "at-own"):
        await until(lambda pool=pool: scene.mounted(pool) == sorted(copied))  # type: ignore[misc]
    status = cluster.get("mc/m", f"--namespace={owner}")["status"]
    assert status["allowedTenants"] == [scene.user]

    async with following(scene, tmp_path, mount(scene, tmp_path / "first")) as source:
        assert source.objects.team_problems(scene.user, "t") == []
        config = source.objects.model(owner, "m")
        assert config is not None
        secrets = SecretFiles(tmp_path / "first", own=scene.user)
        assert endpoint_of(config, secrets).api_key == "sk-one"

    def templates() -> list[Any]:
        return [scene.template(pool) for pool in ("agentteams-pool", "at-own")]

    async def rolled(was: list[Any]) -> None:
        await until(lambda: all(now != then for now, then in zip(templates(), was, strict=True)))

    was = templates()
    cluster.apply(secret(apiKey="sk-two", other="sk-other"), namespace=owner)
    await until(lambda: (scene.copy() or {}).get(credential) == "sk-two")
    await rolled(was)
    was = templates()
    cluster.apply(model(endpoint, allowedNamespaces=SELECTOR, contextTokens=4096, **KEY), namespace=owner)
    await rolled(was)
    assert json.loads((scene.copy() or {})[f"model.{owner}.m"])["contextTokens"] == 4096
    # What somebody changes in it is put right.
    cluster.kubectl("delete", f"secret/{SHARED_MODELS}", f"--namespace={scene.user}")
    await until(lambda: (scene.copy() or {}).get(credential) == "sk-two")

    scene.label("models-")
    assert WORDS in await told("RefNotPermitted")
    await told("RefNotPermitted", "at/own")
    await until(lambda: scene.copy() is None)
    for pool in ("agentteams-pool", "at-own"):
        await until(lambda pool=pool: scene.mounted(pool) == [])  # type: ignore[misc]
    async with following(scene, tmp_path, mount(scene, tmp_path / "second")) as source:
        (problem,) = source.objects.team_problems(scene.user, "t")
        assert WORDS in problem


async def test_nothing_is_left_when_the_reference_or_the_model_ends(
    scene: Scene, endpoint: FakeEndpoint
) -> None:
    """The model first; a fallback that its owner keeps to itself stays with it."""
    cluster, owner, user = scene.cluster, scene.owner, scene.user
    everyone: dict[str, Any] = {"allowedNamespaces": {"from": "All"}}
    cluster.apply(
        secret(apiKey="sk-one", other="sk-other", judge="sk-judge"),
        model(endpoint, fallbackRefs=[{"name": "private"}], **KEY, **everyone),
        model(endpoint, "private", credentialsSecretKeyRef={"name": "llm", "key": "other"}),
        model(endpoint, "judge", credentialsSecretKeyRef={"name": "llm", "key": "judge"}, **everyone),
        namespace=owner,
    )
    judged = {"judgeModelConfigRef": scene.ref("judge"), "samplePercent": 100}
    cluster.apply(team(modelConfigRef=scene.ref(), evaluation=judged), namespace=user)
    await asyncio.to_thread(scene.told, "AllFound")
    only = sorted([f"{owner}__llm__apiKey", f"model.{owner}.m"])
    await until(lambda: sorted(scene.copy() or {}) == only)

    def of_judges() -> dict[str, Any]:
        try:
            found = cluster.get("secret/agentteams-judge-credentials", f"--namespace={owner}")
        except KubectlError:  # not made yet
            return {}
        data: dict[str, Any] = found.get("data", {})
        return data

    # The judge's key stays with the installation.
    await until(lambda: list(of_judges()) == [f"{owner}__llm__judge"])
    # Another reference, by a fallback of a model of one's own.
    cluster.apply(
        model(endpoint, "mine", provider="OpenAICompatible", fallbackRefs=[scene.ref("judge")]),
        team(modelConfigRef={"name": "mine"}),
        namespace=user,
    )
    await until(
        lambda: sorted(scene.copy() or {}) == sorted([f"{owner}__llm__judge", f"model.{owner}.judge"])
    )
    cluster.kubectl("delete", "mc/judge", f"--namespace={owner}")
    await until(lambda: scene.copy() is None)
    found = await asyncio.to_thread(scene.told, "RefNotPermitted", "mc/mine")
    assert WORDS in condition(found, "ResolvedRefs")["message"]


async def embed(target: str, tenant: str, owner: str) -> int:
    return await embed_own(target, tenant, f"tenants/{owner}/models/m")


async def test_the_embedding_service_asks_an_allowed_tenants_model_and_no_others(
    scene: Scene, endpoint: FakeEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster, owner, user = scene.cluster, scene.owner, scene.user
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))
    (tmp_path / f"{owner}__llm__apiKey").write_text("sk-one")
    spec: dict[str, Any] = {"type": "Embedding", "allowedNamespaces": SELECTOR, **KEY}
    cluster.apply(secret(apiKey="sk-one"), model(endpoint, **spec), namespace=owner)

    words: set[tuple[str, str]] = set()

    async def works(target: str, tenant: str) -> bool:
        try:
            return await embed(target, tenant, owner) == endpoint.dimensions
        except NotFound as error:
            words.add((error.reason, error.message.replace(tenant, "TENANT")))
            return False

    async def become(wanted: Callable[[str], Any], target: str) -> None:
        async with asyncio.timeout(40):
            while not await wanted(target):  # noqa: ASYNC110  in another process
                await asyncio.sleep(0.1)

    async def allowed(target: str) -> bool:
        return await works(target, user)

    async def refused(target: str) -> bool:
        return not await works(target, user)

    async with embedding(tmp_path) as target:
        assert not await works(target, user)
        scene.label("models=yes")
        await become(allowed, target)
        assert not await works(target, "another")
        # Nothing of it came into the user's namespace.
        assert scene.copy() is None
        cluster.apply(model(endpoint, **{**spec, "allowedNamespaces": {"from": "Same"}}), namespace=owner)
        await become(refused, target)
        assert await embed(target, owner, owner) == endpoint.dimensions
        cluster.kubectl("delete", "mc/m", f"--namespace={owner}")
        await become(refused, target)
    ((reason, message),) = words  # the same, whatever the reason is
    assert reason == "MODEL_NOT_FOUND"
    assert WORDS in message
