"""What is observed of AgentTeams and pools, from a cache, without a server."""

import base64
from typing import Any

from agentteams_operator.core.cache import Cache
from agentteams_operator.core.objects import Key, Stored
from agentteams_operator.core.outcome import Outcome
from agentteams_operator.core.reading import Reader
from agentteams_operator.core.teams import Teams
from agentteams_operator.specs.settings import PoolSettings
from servicekit.testing import FakeClock
from tests.unit.agentteams_operator.test_decide_team import condition

MANAGED = {"app.kubernetes.io/managed-by": "agentteams-operator"}
READY = {"conditions": [{"type": "Ready", "status": "True", "reason": "Ready", "message": ""}]}


class Scene:
    """A cache and what looks at it."""

    def __init__(self) -> None:
        self.cache = Cache(lambda key: None)
        self.teams = Teams(
            cache=self.cache,
            reader=Reader(self.cache.get),
            settings=PoolSettings(image="i"),
            tenant_key=lambda tenant: b"k",
            clock=FakeClock(),
        )
        self._version = 0

    def put(self, kind: str, name: str, namespace: str = "n", **more: Any) -> None:
        self._version += 1
        metadata = {
            "name": name, "namespace": namespace, "uid": f"u-{kind}-{name}", "generation": self._version,
            "resourceVersion": str(self._version), "labels": more.pop("labels", {}),
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
        runtime = {"runtime": {}} if own else {}
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
