"""References into other namespaces, without a server."""

from typing import Any

from agentteams_operator.core.cache import Cache
from agentteams_operator.core.golden_sets import GoldenSets
from agentteams_operator.core.knowledge import KnowledgeBases
from agentteams_operator.core.objects import Key, Stored
from agentteams_operator.core.outcome import Outcome
from agentteams_operator.core.quotas import Quotas
from agentteams_operator.core.reading import Reader
from agentteams_operator.core.sharing import allowed_tenants
from servicekit.testing import FakeClock
from tests.unit.agentteams_operator.test_decide_knowledge import FakeApi, FakeKnowledge
from tests.unit.agentteams_operator.test_decide_team import condition
from tests.unit.agentteams_operator.test_teams import READY, Scene

SELECTOR = {"from": "Selector", "selector": {"matchLabels": {"rag": "yes"}}}
BASE = Key("KnowledgeBase", "owner", "docs")


def knowledge(scene: Scene, allowed: Any = None, status: Any = READY) -> Stored:
    spec = {"embedding": {"modelConfigRef": {"name": "e"}}} | (
        {"allowedNamespaces": allowed} if allowed else {}
    )
    scene.put("KnowledgeBase", "docs", "owner", spec=spec, status=status)
    found = scene.cache.get(BASE)
    assert found is not None
    return found


def namespace(scene: Scene, name: str, **labels: str) -> None:
    scene.put("Namespace", name, "", labels=labels)


def asking(scene: Scene, **ref: str) -> None:
    use = {"name": "docs", "knowledgeBaseRef": {"name": "docs", "namespace": "owner"} | ref}
    scene.team({"knowledge": [use]})


async def test_a_reference_is_resolved_only_where_the_owner_allows_it() -> None:
    scene = Scene()
    scene.put("Deployment", "agentteams-pool", status={"availableReplicas": 1})
    scene.model("m")
    namespace(scene, "n", rag="yes")
    asking(scene)
    words = set()
    for allowed in (None, "there", {"from": "Same"}, SELECTOR | {"selector": {"matchLabels": {"rag": "no"}}}):
        if allowed is not None:
            knowledge(scene, None if allowed == "there" else allowed, status={})
        outcome = await scene.look()
        assert condition(outcome, "ResolvedRefs") == ("False", "RefNotPermitted")
        assert condition(outcome, "Ready") == ("False", "RefNotPermitted")
        # Nor does it say how a knowledge base is doing that is not for this namespace.
        assert condition(outcome, "KnowledgeReady") == ("Unknown", "NotAsked")
        words |= {c["message"] for c in (outcome.status or {})["conditions"] if c["type"] == "ResolvedRefs"}
    # The same whether it is there or not.
    assert words == {
        'KnowledgeBase "docs" of namespace "owner" is not there, or does not allow namespace "n"; its owner '
        "allows it by spec.allowedNamespaces, such as {from: All}"
    }
    for allowed in ({"from": "All"}, SELECTOR):
        knowledge(scene, allowed)
        outcome = await scene.look()
        assert condition(outcome, "ResolvedRefs")[0] == "True"
        assert condition(outcome, "Ready")[0] == "True"
    knowledge(scene, SELECTOR, status={})
    assert condition(await scene.look(), "KnowledgeReady") == ("False", "KnowledgeNotReady")
    # A last good revision that may no longer is not ready either.
    knowledge(scene)
    scene.revision("r1", {"modelConfigRef": {"name": "m"}, "knowledge": [{"knowledgeBaseRef": {
        "name": "docs", "namespace": "owner"}}]})  # fmt: skip
    scene.team({"modelConfigRef": {"name": "late"}}, {"currentRevision": "r1"})
    assert condition(await scene.look(), "Ready") == ("False", "RefNotPermitted")


async def test_ones_own_namespace_needs_no_permission() -> None:
    scene = Scene()
    scene.put("KnowledgeBase", "docs", spec={"embedding": {"modelConfigRef": {"name": "e"}}}, status=READY)
    scene.model("m")
    asking(scene, namespace="n")
    assert condition(await scene.look(), "ResolvedRefs")[0] == "True"


def test_labels_of_namespaces_are_looked_at_again_when_they_change() -> None:
    scene, told = Scene(), list[Key]()
    scene.cache = Cache(told.append)
    base = knowledge(scene, SELECTOR)
    namespace(scene, "n")
    namespace(scene, "owner", rag="yes")
    asking(scene)
    assert allowed_tenants(scene.cache, base) == ()
    told.clear()
    namespace(scene, "n", rag="yes")
    assert {BASE, Key("AgentTeam", "n", "t")} <= set(told)
    assert allowed_tenants(scene.cache, base) == ("n",)
    told.clear()
    namespace(scene, "n", rag="yes", other="x")
    namespace(scene, "m", rag="yes")
    assert BASE in told
    assert allowed_tenants(scene.cache, base) == ("m", "n")
    told.clear()
    scene.cache.remove(Key("Namespace", "", "m"))
    assert BASE in told
    assert allowed_tenants(scene.cache, base) == ("n",)
    assert allowed_tenants(scene.cache, knowledge(scene, {"from": "All"})) == ("*",)
    assert allowed_tenants(scene.cache, knowledge(scene)) == ()


async def test_the_retrieval_service_is_told_whenever_it_is_another_list() -> None:
    scene, service = Scene(), FakeKnowledge()
    cache = scene.cache
    bases = KnowledgeBases(
        cache=cache, reader=Reader(cache.get), quotas=Quotas(cache=cache, defaults={}), knowledge=service,
        clock=FakeClock(),
        golden_sets=GoldenSets(find=cache.get, config_maps=FakeApi(), knowledge=service),
    )  # fmt: skip
    scene.put("ModelConfig", "e", "owner", spec={"type": "Embedding", "provider": "BuiltIn"}, status=READY)
    base = knowledge(scene, SELECTOR)
    namespace(scene, "n", rag="yes")
    for _ in range(2):
        await bases.look(base)
        assert service.allowed == ("n",)
    assert service.calls == ["ensure", "get"]
    namespace(scene, "n")
    await bases.look(base)
    assert (service.allowed, service.calls) == ((), ["ensure", "get", "ensure"])


async def test_a_teams_orchestrators_are_told_who_may_ask_it() -> None:
    scene, told = Scene(), list[Key]()
    scene.model("m")
    namespace(scene, "b", rag="yes")
    namespace(scene, "n", rag="yes")  # its own needs no permission
    scene.team({"allowedNamespaces": SELECTOR})
    assert ((await scene.look()).status or {})["allowedTenants"] == ["b"]
    scene.team({"allowedNamespaces": {"from": "All"}})
    assert ((await scene.look()).status or {})["allowedTenants"] == ["*"]
    scene.team({})
    assert "allowedTenants" not in ((await scene.look()).status or {})
    scene.cache = Cache(told.append)
    scene.team({"allowedNamespaces": SELECTOR})
    told.clear()
    namespace(scene, "b", rag="yes")
    assert Key("AgentTeam", "n", "t") in told


async def test_more_namespaces_than_a_status_holds_are_none_and_said() -> None:
    scene = Scene()
    scene.model("m")
    for number in range(1001):
        namespace(scene, f"b{number}", rag="yes")
    scene.team({"allowedNamespaces": SELECTOR})
    outcome = await scene.look()
    assert condition(outcome, "Accepted") == ("False", "TooManyNamespaces")
    assert "allowedTenants" not in (outcome.status or {})


def nests(scene: Scene, *refs: tuple[str, str], name: str = "t", at: str = "n", **spec: Any) -> None:
    members: list[Any] = [{"name": "a"}]
    members += [{"name": f"m{i}", "teamRef": {"name": t, "namespace": ns}} for i, (t, ns) in enumerate(refs)]
    body = {"modelConfigRef": {"name": "m"}, "members": members} | spec
    scene.put("AgentTeam", name, at, spec=body)


async def test_a_team_of_another_namespace_is_a_member_only_where_its_owner_allows_it() -> None:
    scene = Scene()
    scene.put("Deployment", "agentteams-pool", status={"availableReplicas": 1})
    scene.model("m")
    namespace(scene, "n", rag="yes")
    nests(scene, ("desk", "owner"))
    words = set()
    for there in (None, {}, {"allowedNamespaces": {"from": "Same"}}):
        if there is not None:
            nests(scene, name="desk", at="owner", **there)
        outcome = await scene.look()
        assert condition(outcome, "ResolvedRefs") == ("False", "RefNotPermitted")
        words |= {c["message"] for c in (outcome.status or {})["conditions"] if c["type"] == "ResolvedRefs"}
        assert called_by_pool(await scene.look_at_pool()) == ({"key"}, {})
    assert words == {
        'AgentTeam "desk" of namespace "owner" is not there, or does not allow namespace "n"; its owner '
        "allows it by spec.allowedNamespaces, such as {from: All}"
    }
    # Its models and what it lacks are nothing that this namespace is told.
    nests(scene, name="desk", at="owner", allowedNamespaces=SELECTOR, modelConfigRef={"name": "absent"})
    outcome = await scene.look()
    assert condition(outcome, "Ready")[0] == "True"
    in_owner = {"key": "kubernetes.io/metadata.name", "operator": "In", "values": ["owner"]}
    pods = {"matchLabels": {"app.kubernetes.io/name": "agentteams-orchestrator"}}
    out = {
        "podSelector": pods, "policyTypes": ["Egress"],
        "egress": [{
            "to": [{"namespaceSelector": {"matchExpressions": [in_owner]}, "podSelector": pods}],
            "ports": [{"port": 50054, "protocol": "TCP"}],
        }],
    }  # fmt: skip
    assert called_by_pool(await scene.look_at_pool()) == ({"key", "call-owner"}, out)


async def test_the_owners_pods_may_be_reached_from_where_calls_may_come() -> None:
    scene = Scene()
    namespace(scene, "b", rag="yes")
    for allowed, wanted in (
        (SELECTOR, {"matchExpressions": [
            {"key": "kubernetes.io/metadata.name", "operator": "In", "values": ["b"]}
        ]}),
        ({"from": "All"}, {}),
    ):  # fmt: skip
        scene.team({"allowedNamespaces": allowed})
        keys, policy = called_by_pool(await scene.look_at_pool())
        assert (keys, policy["policyTypes"]) == ({"key"}, ["Ingress"])
        assert policy["ingress"][0]["from"][0]["namespaceSelector"] == wanted
    scene.team({})
    assert called_by_pool(await scene.look_at_pool()) == ({"key"}, {})


async def test_calls_that_would_come_back_are_named_without_those_between() -> None:
    scene = Scene()
    scene.model("m")
    everyone: dict[str, Any] = {"allowedNamespaces": {"from": "All"}}
    nests(scene, ("desk", "owner"), **everyone)
    nests(scene, ("between", "secret"), name="desk", at="owner", **everyone)
    nests(scene, ("other", "n"), name="between", at="secret", **everyone)
    assert condition(await scene.look(), "ResolvedRefs")[0] == "True"
    nests(scene, name="other", **everyone)
    outcome = await scene.look()
    assert condition(outcome, "ResolvedRefs") == ("False", "Circle")
    message = next(c["message"] for c in (outcome.status or {})["conditions"] if c["type"] == "ResolvedRefs")
    assert message.startswith('AgentTeam "desk" of namespace "owner" leads back to namespace "n"')
    assert "between" not in message


def test_pools_look_again_when_those_who_may_call_change() -> None:
    scene, told = Scene(), list[Key]()
    scene.cache = Cache(told.append)
    nests(scene, name="desk", at="owner", allowedNamespaces=SELECTOR)
    nests(scene, ("desk", "owner"))
    told.clear()
    namespace(scene, "n", rag="yes")
    assert {Key("Pool", "owner", ""), Key("Pool", "n", ""), Key("AgentTeam", "n", "t")} <= set(told)
    told.clear()
    nests(scene, name="desk", at="owner")
    assert {Key("Pool", "owner", ""), Key("Pool", "n", ""), Key("AgentTeam", "n", "t")} <= set(told)


def called_by_pool(outcome: Outcome) -> tuple[set[str], dict[str, Any]]:
    """Keys of the identity, and the policy of calls."""
    by_name = {(o["kind"], o["metadata"]["name"]): o for o in outcome.objects}
    policy = by_name.get(("NetworkPolicy", "agentteams-calls"), {})
    return set(by_name["Secret", "agentteams-identity"]["data"]), policy.get("spec", {})
