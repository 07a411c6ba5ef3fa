"""The cache: what is kept, and who must look again."""

import base64
from typing import Any

from agentteams_operator.core.cache import Cache
from agentteams_operator.core.objects import Key
from agentteams_operator.core.references import references, secret_keys
from tests.support.wrong_manifests import GOOD


class Told(list[Key]):
    """The keys since the last look."""

    def take(self) -> set[Key]:
        found = set(self)
        self.clear()
        return found


def body(kind: str, name: str, version: int, **more: Any) -> dict[str, Any]:
    metadata = {
        "name": name, "namespace": "n", "uid": f"u-{name}", "resourceVersion": str(version),
        "generation": more.pop("generation", 1), "labels": more.pop("labels", {}),
    }  # fmt: skip
    return {"kind": kind, "metadata": metadata, **more}


def secret(version: int, **values: str) -> dict[str, Any]:
    data = {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}
    return body("Secret", "s", version, generation=0, data=data)


def mc(name: str) -> Key:
    return Key("ModelConfig", "n", name)


CREDENTIALS = {"credentialsSecretKeyRef": {"name": "s", "key": "k"}}


def test_references_are_found_by_how_fields_are_called() -> None:
    spec = dict(GOOD["AgentTeam"]) | {
        "members": [
            {"name": "a", "modelConfigRef": {"name": "small"}},
            {"name": "b", "teamRef": {"name": "t"}},
        ],
    }
    header = {"name": "X", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}
    spec["tools"] = [{"name": "x", "mcp": {"headersFrom": [header]}}]
    assert references("n", spec) == {
        mc("chat"), mc("small"), Key("AgentTeam", "n", "t"), Key("KnowledgeBase", "n", "docs"),
        Key("Secret", "n", "s"),
    }  # fmt: skip
    assert secret_keys(spec) == {("s", "k")}
    assert references("n", {"fallbackRefs": [{"name": "a"}, {"name": 5}], "modelConfigRef": "x"}) == {mc("a")}


def test_a_late_secret_a_changed_value_and_nothing_else_is_told_to_its_users() -> None:
    told = Told()
    cache = Cache(told.append)
    cache.put(body("ModelConfig", "m", 1, spec=CREDENTIALS))
    assert told.take() == {mc("m")}
    cache.put(secret(2, k="one"))
    assert told.take() == {mc("m")}
    cache.put(secret(3, k="one"))
    assert told.take() == set()
    cache.put(secret(4, k="two"))
    assert told.take() == {mc("m")}
    cache.put(body("ModelConfig", "m", 5, generation=2, spec={}))
    told.take()
    cache.put(secret(6, k="three"))
    assert told.take() == set()


def test_values_of_secrets_are_not_kept_and_equal_values_do_not_look_equal() -> None:
    cache = Cache(lambda key: None)
    cache.put(secret(1, k="hunter2"))
    other = secret(1, k="hunter2")
    other["metadata"] |= {"name": "other", "uid": "u-2"}
    cache.put(other)
    one, two = cache.get(Key("Secret", "n", "s")), cache.get(Key("Secret", "n", "other"))
    assert one is not None
    assert two is not None
    assert base64.b64encode(b"hunter2").decode() not in repr(one)
    assert one.hashes["k"] != two.hashes["k"]


def test_a_count_in_a_status_is_no_news_to_others_and_ready_is() -> None:
    told = Told()
    cache = Cache(told.append)
    cache.put(body("ModelConfig", "m", 1, spec={"fallbackRefs": [{"name": "f"}]}))
    cache.put(body("ModelConfig", "f", 2, spec={}))
    told.take()
    cache.put(body("ModelConfig", "f", 3, spec={}, status={"documents": 5}))
    assert told.take() == {mc("f")}
    ready = {"conditions": [{"type": "Ready", "status": "True", "reason": "Ready"}]}
    cache.put(body("ModelConfig", "f", 4, spec={}, status=ready))
    assert told.take() == {mc("f"), mc("m")}
    cache.put(body("ModelConfig", "f", 4, spec={}, status=ready))
    assert told.take() == set()
    cache.remove(mc("f"))
    assert told.take() == {mc("f"), mc("m")}


def test_what_the_operator_made_is_told_to_its_owner_alone() -> None:
    told = Told()
    cache = Cache(told.append)
    managed = {"app.kubernetes.io/managed-by": "agentteams-operator"}
    team = Key("AgentTeam", "n", "t")
    cache.put(body("Deployment", "at-t", 1, labels=managed | {"agentteams.dev/team": "t"}))
    assert told.take() == {team}
    assert [one.key.name for one in cache.owned(team)] == ["at-t"]
    cache.put(body("Deployment", "users", 2, labels={"agentteams.dev/team": "t"}))
    assert told.take() == set()
    cache.put(body("Deployment", "agentteams-pool", 3, labels=managed | {"agentteams.dev/pool": "shared"}))
    assert told.take() == {Key("Pool", "n", "")}
    # Both see a label that somebody has changed: the one puts it right, the other never wanted it.
    cache.put(body("Deployment", "at-t", 4, labels=managed | {"agentteams.dev/team": "u"}))
    assert told.take() == {team, Key("AgentTeam", "n", "u")}
    cache.put(body("Deployment", "at-t", 5, labels=managed | {"agentteams.dev/team": "t"}))
    told.take()
    cache.remove(Key("Deployment", "n", "at-t"))
    assert told.take() == {team}
    assert cache.owned(team) == []


def test_what_an_old_revision_refers_to_is_told_to_its_team() -> None:
    told = Told()
    cache = Cache(told.append)
    labels = {"app.kubernetes.io/managed-by": "agentteams-operator", "agentteams.dev/team": "t"}
    data = {
        "modelConfigRef": {"name": "old"}, "instructions": "long",
        "members": [{"name": "a", "instructions": "long"}],
        "tools": [{"mcp": {"headersFrom": [{"valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}}],
    }  # fmt: skip
    cache.put(body("ControllerRevision", "t-1", 1, labels=labels, data=data, revision=3))
    told.take()
    for change in (body("ModelConfig", "old", 2), secret(3, k="one"), secret(4, k="two")):
        cache.put(change)
        assert Key("AgentTeam", "n", "t") in told.take()
    kept = cache.get(Key("ControllerRevision", "n", "t-1"))
    assert kept is not None
    assert "long" not in repr(kept)
    assert secret_keys(kept.spec) == {("s", "k")}


def test_the_index_forgets_what_is_gone() -> None:
    cache = Cache(lambda key: None)
    cache.put(body("ModelConfig", "m", 1, spec=CREDENTIALS))
    assert cache.users(Key("Secret", "n", "s")) == {mc("m")}
    cache.remove(mc("m"))
    assert cache.users(Key("Secret", "n", "s")) == set()
    assert cache.names("ModelConfig", "n") == []
    assert len(cache) == 0


def test_what_comes_late_does_not_undo_what_is_newer() -> None:
    told = Told()
    cache = Cache(told.append)
    cache.put(body("ModelConfig", "m", 9, spec={"model": "new"}))
    told.take()
    cache.put(body("ModelConfig", "m", 8, spec={"model": "old"}))
    found = cache.get(mc("m"))
    assert found is not None
    assert found.spec == {"model": "new"}
    assert told.take() == set()


def test_the_answer_to_a_write_does_not_bring_back_what_a_watch_has_said_is_gone() -> None:
    cache = Cache(lambda key: None)
    cache.put(body("ModelConfig", "m", 3, spec={}))
    cache.remove(mc("m"), 5)
    cache.put(body("ModelConfig", "m", 4, spec={}))
    assert cache.get(mc("m")) is None
    cache.put(body("ModelConfig", "m", 6, spec={}))
    cache.remove(mc("m"), 5)
    assert cache.get(mc("m")) is not None


def test_what_a_new_list_does_not_have_is_gone_and_what_came_after_it_is_not() -> None:
    told = Told()
    cache = Cache(told.append)
    for name, version in (("kept", 3), ("lost", 4), ("later", 9)):
        cache.put(body("ModelConfig", name, version, spec={}))
    cache.put(secret(5, k="one"))
    elsewhere = body("ModelConfig", "lost", 6, spec={})
    elsewhere["metadata"]["namespace"] = "other"
    cache.put(elsewhere)
    told.take()
    cache.retain("ModelConfig", "n", {mc("kept")}, 7)
    assert told.take() == {mc("lost")}
    assert sorted(cache.keys("ModelConfig", "Secret")) == [
        mc("kept"), mc("later"), Key("ModelConfig", "other", "lost"), Key("Secret", "n", "s"),
    ]  # fmt: skip
    cache.retain("ModelConfig", "", set(), 20)
    assert list(cache.keys("ModelConfig")) == []
