"""The Secret with the credentials of the embedding service, without a server."""

import base64
from collections.abc import Mapping
from typing import Any

import pytest

from agentteams_operator.core.cache import Cache
from agentteams_operator.core.credentials import (
    JUDGES_NAME,
    NAME,
    Credentials,
    too_long_for_embedding,
)
from agentteams_operator.core.kept_secret import MAX_VALUE_BYTES, entry, fitting
from agentteams_operator.core.objects import ALL_CREDENTIALS, Key, Stored
from agentteams_operator.core.outcome import Event, Outcome
from agentteams_operator.core.ports import ApiFailure

MINE, JUDGES = Key("Secret", "system", NAME), Key("Secret", "system", JUDGES_NAME)
NOTHING = Stored(key=ALL_CREDENTIALS, uid="", version="")
CREDENTIALS = {"credentialsSecretKeyRef": {"name": "llm", "key": "apiKey"}}


class Server:
    """An API server that has Secrets and nothing else."""

    def __init__(self) -> None:
        self.secrets: dict[tuple[str, str], dict[str, bytes]] = {}
        self.read: list[tuple[str, str]] = []
        self.deleted: list[Key] = []
        self.applied: list[Mapping[str, Any]] = []

    async def apply(self, wanted: Mapping[str, Any]) -> Mapping[str, Any]:
        self.applied.append(wanted)
        metadata = {**wanted["metadata"], "uid": "u", "resourceVersion": str(1000 + len(self.applied))}
        return {**wanted, "metadata": metadata}

    async def secret(self, namespace: str, name: str) -> Mapping[str, bytes]:
        self.read.append((namespace, name))
        if (namespace, name) not in self.secrets:
            raise ApiFailure("gone", 404)
        return self.secrets[namespace, name]

    async def delete(self, key: Key) -> None:
        self.deleted.append(key)

    async def apply_status(self, one: Stored, status: Mapping[str, Any]) -> Mapping[str, Any]:
        raise AssertionError

    async def set_finalizers(self, one: Stored, ours: tuple[str, ...]) -> None:
        raise AssertionError

    async def tell(self, one: Stored, event: Event) -> None:
        raise AssertionError


class Scene:
    """A cache, a server that agrees with it, and what looks at them."""

    def __init__(self) -> None:
        self.told: list[Key] = []
        self.server = Server()
        self.cache = Cache(self.told.append)
        self.credentials = Credentials(cache=self.cache, api=self.server, namespace="system")
        self._version = 0

    def model(self, namespace: str, name: str = "m", type_: str = "Embedding", **spec: Any) -> None:
        body = {"kind": "ModelConfig", "spec": {"type": type_} | (spec or CREDENTIALS)}
        self.cache.put(body | {"metadata": self._metadata(namespace, name, 1)})

    def team(self, namespace: str, judge: str, generation: int = 1) -> None:
        spec = {"evaluation": {"judgeModelConfigRef": {"name": judge}}} if judge else {}
        metadata = self._metadata(namespace, "t", generation)
        self.cache.put({"kind": "AgentTeam", "spec": spec, "metadata": metadata})

    def secret(self, namespace: str, **values: str) -> None:
        self.server.secrets[namespace, "llm"] = {k: v.encode() for k, v in values.items()}
        data = {k: base64.b64encode(v.encode()).decode() for k, v in values.items()}
        self.cache.put({"kind": "Secret", "data": data, "metadata": self._metadata(namespace, "llm", 0)})

    def _metadata(self, namespace: str, name: str, generation: int) -> dict[str, Any]:
        self._version += 1
        return {
            "namespace": namespace, "name": name, "uid": f"u-{namespace}-{name}",
            "resourceVersion": str(self._version), "generation": generation,
        }  # fmt: skip

    async def look(self) -> Outcome:
        return await self.credentials.look(NOTHING)

    @property
    def written(self) -> dict[str, bytes]:
        data = self.server.applied[-1]["data"]
        return {name: base64.b64decode(value) for name, value in data.items()}


async def test_exactly_the_keys_that_embedding_and_rerank_models_name() -> None:
    scene = Scene()
    scene.secret("a", apiKey="one", other="not named")
    scene.secret("b", apiKey="two", ca="pem", project="p")
    scene.secret("c", apiKey="of a chat model")
    scene.model("a")
    header = {"name": "X", "valueFrom": {"secretKeyRef": {"name": "llm", "key": "project"}}}
    tls = {"caSecretKeyRef": {"name": "llm", "key": "ca"}}
    scene.model("b", type_="Rerank", headersFrom=[header], tls=tls)
    scene.model("c", type_="Chat")
    await scene.look()
    assert scene.written == {"a__llm__apiKey": b"one", "b__llm__project": b"p", "b__llm__ca": b"pem"}
    metadata = scene.server.applied[0]["metadata"]
    assert (metadata["namespace"], metadata["name"]) == ("system", NAME)
    assert ("c", "llm") not in scene.server.read


async def test_judges_have_a_secret_of_their_own_as_long_as_a_team_names_them() -> None:
    scene = Scene()
    scene.secret("a", apiKey="one")
    scene.model("a", type_="Chat")
    await scene.look()
    assert scene.server.applied == []
    scene.team("a", "m")
    assert ALL_CREDENTIALS in scene.told
    await scene.look()
    assert scene.written == {"a__llm__apiKey": b"one"}
    assert [one["metadata"]["name"] for one in scene.server.applied] == [JUDGES_NAME]
    scene.told.clear()
    scene.secret("a", apiKey="two")
    assert ALL_CREDENTIALS in scene.told
    await scene.look()
    assert scene.written == {"a__llm__apiKey": b"two"}
    scene.told.clear()
    scene.team("a", "", generation=2)
    assert ALL_CREDENTIALS in scene.told
    assert JUDGES in (await scene.look()).gone


async def test_a_rotation_is_told_and_followed_and_nothing_else_is_read_or_written() -> None:
    scene = Scene()
    scene.secret("a", apiKey="one", other="x")
    scene.model("a")
    await scene.look()
    scene.told.clear()
    await scene.look()
    scene.secret("a", apiKey="one", other="x")  # another version, the same values
    assert ALL_CREDENTIALS not in scene.told
    assert (len(scene.server.applied), len(scene.server.read)) == (1, 1)
    scene.secret("a", apiKey="two", other="x")
    assert ALL_CREDENTIALS in scene.told
    await scene.look()
    assert scene.written == {"a__llm__apiKey": b"two"}


async def test_what_somebody_changes_in_it_is_put_right() -> None:
    scene = Scene()
    scene.secret("a", apiKey="one")
    scene.model("a")
    await scene.look()
    scene.told.clear()
    body = {**scene.server.applied[0], "data": {"a__llm__apiKey": base64.b64encode(b"evil").decode()}}
    body["metadata"] = {**body["metadata"], "uid": "u", "resourceVersion": "2000"}
    scene.cache.put(body)
    assert scene.told == [ALL_CREDENTIALS]
    await scene.look()
    assert len(scene.server.applied) == 2
    scene.cache.remove(MINE)
    await scene.look()
    assert len(scene.server.applied) == 3


async def test_what_is_no_longer_named_goes_and_so_does_an_empty_secret() -> None:
    scene = Scene()
    scene.secret("a", apiKey="one")
    scene.model("a")
    scene.secret("b", apiKey="two")
    scene.model("b")
    await scene.look()
    scene.cache.remove(Key("ModelConfig", "a", "m"))
    await scene.look()
    assert scene.written == {"b__llm__apiKey": b"two"}
    scene.cache.remove(Key("Secret", "b", "llm"))
    assert (await scene.look()).gone == (MINE,)


async def test_one_that_is_not_seen_is_removed_once_after_a_start() -> None:
    scene = Scene()
    for _ in range(2):
        assert (await scene.look()).gone == ()
    assert scene.server.deleted == [MINE, JUDGES]


async def test_a_secret_that_goes_between_two_looks_takes_nothing_with_it() -> None:
    scene = Scene()
    for namespace in ("a", "b"):
        scene.secret(namespace, apiKey=namespace)
        scene.model(namespace)
    del scene.server.secrets["a", "llm"]
    await scene.look()
    assert scene.written == {"b__llm__apiKey": b"b"}


async def test_one_that_cannot_be_read_is_a_failure_and_not_an_absence() -> None:
    scene = Scene()
    scene.secret("a", apiKey="one")
    scene.model("a")

    async def refuse(namespace: str, name: str) -> Mapping[str, bytes]:
        raise ApiFailure("forbidden", 403)

    scene.server.secret = refuse  # type: ignore[method-assign]
    with pytest.raises(ApiFailure):
        await scene.look()
    assert scene.server.applied == []


def test_large_values_never_stand_in_the_way_of_small_ones() -> None:
    large = {("evil", "s", f"k{n:03}"): b"x" * MAX_VALUE_BYTES for n in range(20)}
    small = {("a", "llm", "apiKey"): b"sk"}
    too_large = {("evil", "s", "z"): b"x" * (MAX_VALUE_BYTES + 1)}
    kept = fitting(large | small | too_large)
    assert ("a", "llm", "apiKey") in kept
    assert 10 < len(kept) < 20
    assert ("evil", "s", "z") not in kept
    assert sum(len(entry(*named)) + len(value) * 4 / 3 for named, value in kept.items()) < 1.25 * 2**20


def test_names_that_are_too_long_together_are_told_with_the_fix() -> None:
    def model(key: str, type_: str = "Embedding") -> Stored:
        spec = {"type": type_, "credentialsSecretKeyRef": {"name": "llm", "key": key}}
        return Stored(key=Key("ModelConfig", "n", "m"), uid="u", version="1", content={"spec": spec})

    assert list(too_long_for_embedding(model("k" * 245))) == []
    ((reason, words),) = too_long_for_embedding(model("k" * 250))
    assert reason == "SecretNameTooLong"
    assert "5 characters too long" in words
    assert list(too_long_for_embedding(model("k" * 250, "Chat"))) == []
