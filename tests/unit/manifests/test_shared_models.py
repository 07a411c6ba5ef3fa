"""ModelConfigs of other namespaces: what manifests say of them, in local mode and on a cluster."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from manifests import AgentTeam, Catalogue, KnowledgeBase, ModelConfig, fallback_chain
from manifests.base import model_resource, model_said, owner_and_name, said_in
from manifests.cluster import ALL_KINDS, REVISION, ClusterCatalogue
from manifests.endpoints import SHARED_MODELS, EndpointUnusable, SecretFiles, endpoint_of
from manifests.knowledge_pb import to_pb
from tests.unit.manifests.test_cluster import CHAT, FakeFeed, raw, team_spec

ABROAD = {"name": "chat", "namespace": "owner"}
KEY = {"credentialsSecretKeyRef": {"name": "llm", "key": "k"}}


def config(name: str, namespace: str, *fallbacks: dict[str, str]) -> ModelConfig:
    spec = {"type": "Chat", "provider": "BuiltIn", "fallbackRefs": fallbacks}
    return ModelConfig.model_validate({"metadata": {"name": name, "namespace": namespace}, "spec": spec})


def test_names_and_resources_lead_back() -> None:
    for said, whose, resource in (
        ("m", ("acme", "m"), "models/m"),
        ("owner/m", ("owner", "m"), "tenants/owner/models/m"),
    ):
        assert owner_and_name("acme", said) == whose
        assert said_in("acme", *whose) == said
        assert (model_resource(said), model_said(resource)) == (resource, said)


def test_fallbacks_are_their_owners_unless_they_name_another() -> None:
    here = {"name": "mine", "namespace": "acme"}
    all_ = [
        config("chat", "owner", {"name": "small"}, here),
        config("small", "owner"),
        config("mine", "acme"),
    ]

    def find(said: str) -> ModelConfig | None:
        whose = owner_and_name("acme", said)
        return next((m for m in all_ if (m.metadata.namespace, m.metadata.name) == whose), None)

    assert list(fallback_chain(all_[0], find, "acme")) == ["owner/small", "mine"]


def test_a_knowledge_base_names_models_as_the_services_do() -> None:
    spec = {
        "embedding": {"modelConfigRef": {"name": "e", "namespace": "owner"}},
        "retrieval": {"rerank": {"modelConfigRef": {"name": "r", "namespace": "acme"}}},
    }
    base = KnowledgeBase.model_validate({"metadata": {"name": "docs", "namespace": "acme"}, "spec": spec})
    message = to_pb(base)
    assert message.embedding_model == "tenants/owner/models/e"
    assert message.search_defaults.rerank.model == "models/r"


def test_a_namespace_makes_another_revision_and_none_the_same_as_ever() -> None:
    def revision(**ref: str) -> str:
        spec = {"modelConfigRef": {"name": "chat", **ref}, "members": ({"name": "a"},)}
        return AgentTeam.model_validate({"metadata": {"name": "t"}, "spec": spec}).revision

    assert revision() == "f739a6b473a2"  # of the release before there was the field
    assert revision(namespace="owner") != revision()


LOCAL = """\
apiVersion: agentteams.dev/v1alpha1
kind: ModelConfig
metadata: {{name: chat, namespace: owner}}
spec: {{type: Chat, provider: BuiltIn, allowedNamespaces: {{from: All}}}}
---
apiVersion: agentteams.dev/v1alpha1
kind: AgentTeam
metadata: {{name: help, namespace: acme}}
spec:
  modelConfigRef: {ref}
  members: [{{name: a}}]
"""


def test_local_mode_says_that_it_takes_a_cluster(tmp_path: Path) -> None:
    (tmp_path / "all.yaml").write_text(LOCAL.format(ref=json.dumps(ABROAD)))
    catalogue = Catalogue(tmp_path)
    catalogue.load()
    (problem,) = catalogue.problems
    assert (problem.field, problem.line) == ("spec.modelConfigRef.namespace", 10)
    (text,) = catalogue.team_problems("acme", "help")
    assert text == (
        "spec.modelConfigRef.namespace: a ModelConfig of another namespace can be used on a cluster only; "
        "apply one in this namespace, and name that"
    )
    assert catalogue.usable_model("acme", "owner/chat") is None
    assert catalogue.usable_model("owner", "chat") is not None


@pytest.mark.looptime
async def test_services_ask_what_the_owner_allows_now(tmp_path: Path) -> None:
    feed = FakeFeed()
    selector = {"from": "Selector", "selector": {"matchLabels": {"a": "b"}}}

    def model(allowed: Any, *told: str, version: int) -> Any:
        spec = {**CHAT, "allowedNamespaces": allowed}
        return raw("ModelConfig", "chat", spec, version=version, status={"allowedTenants": list(told)})

    feed.objects["ModelConfig"] = [model(selector, "b", version=1)]
    catalogue = ClusterCatalogue(feed, kinds=("ModelConfig",))
    task = asyncio.create_task(catalogue.watch())
    await catalogue.synced()

    def users() -> list[str]:
        return [
            tenant for tenant in ("acme", "b", "c", "*", "") if catalogue.usable_model(tenant, "acme/chat")
        ]

    assert users() == ["acme", "b"]
    for version, (allowed, told, wanted) in enumerate(
        (
            (selector, ("c",), ["acme", "c"]),
            # What the spec takes back is gone at once, whatever the status still says.
            ({"from": "Same"}, ("c",), ["acme"]),
            ({"from": "All"}, (), ["acme", "b", "c", "*"]),
            # Everyone is not for the status to say.
            (selector, ("*",), ["acme", "*"]),
        ),
        start=10,
    ):
        feed.tell("MODIFIED", model(allowed, *told, version=version))
        await asyncio.sleep(1)
        assert users() == [one for one in wanted if one != "*" or allowed == {"from": "All"}]
    task.cancel()
    await asyncio.wait([task])


@pytest.mark.looptime
async def test_an_orchestrator_has_what_the_operator_gave_it_and_no_more(tmp_path: Path) -> None:
    feed = FakeFeed()
    spec = {**team_spec(), "modelConfigRef": ABROAD}
    feed.objects = {kind: [] for kind in ALL_KINDS}
    feed.objects["AgentTeam"] = [raw("AgentTeam", "help", spec, status={"currentRevision": "aaa"})]
    feed.objects[REVISION] = [raw(REVISION, "help-aaa", spec)]
    catalogue = ClusterCatalogue(feed, secrets_dir=tmp_path)
    task = asyncio.create_task(catalogue.watch())
    await catalogue.synced()
    (text,) = catalogue.team_problems("acme", "help")
    assert text.startswith(
        'spec.modelConfigRef.name: ModelConfig "chat" of namespace "owner" is not there, or does not allow '
        'namespace "acme"'
    )
    folder = tmp_path / SHARED_MODELS
    folder.mkdir()
    (folder / "model.owner.chat").write_text(json.dumps({**CHAT, **KEY}))
    (folder / "owner__llm__k").write_text("sk-1")
    feed.tell("MODIFIED", raw("AgentTeam", "help", spec, version=9, status={"currentRevision": "aaa"}))
    await asyncio.sleep(1)
    assert catalogue.team_problems("acme", "help") == []
    found = catalogue.model("owner", "chat")
    assert found is not None
    assert endpoint_of(found, SecretFiles(tmp_path, own="acme")).api_key == "sk-1"
    with pytest.raises(EndpointUnusable):  # one's own are by themselves
        endpoint_of(found, SecretFiles(tmp_path, own="owner"))
    (folder / "model.owner.chat").unlink()
    feed.tell("MODIFIED", raw("AgentTeam", "help", spec, version=10, status={"currentRevision": "aaa"}))
    await asyncio.sleep(1)
    assert len(catalogue.team_problems("acme", "help")) == 1
    task.cancel()
    await asyncio.wait([task])
