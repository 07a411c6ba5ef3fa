"""The catalogue of a cluster: what it serves of what the API server says."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from manifests.cluster import ALL_KINDS, REVISION, ClusterCatalogue, FeedError, Gone, Raw

pytestmark = pytest.mark.looptime

CHAT = {"type": "Chat", "provider": "OpenAICompatible", "model": "m", "endpoint": {"url": "https://m/v1"}}


def raw(kind: str, name: str, spec: Any = None, *, version: int = 1, **more: Any) -> Raw:
    body = {"data": spec} if kind == REVISION else {"spec": spec}
    metadata = {"namespace": "acme", "name": name, "resourceVersion": str(version), "uid": "u"}
    return {"kind": kind, "metadata": metadata, **body, **more}


def team_spec(instructions: str = "one", **more: Any) -> dict[str, Any]:
    return {
        "modelConfigRef": {"name": "chat"},
        "members": [{"name": "agent", "instructions": instructions}],
        **more,
    }


def team(current: str = "", **spec: Any) -> Raw:
    return raw("AgentTeam", "help", team_spec(**spec), status={"currentRevision": current} if current else {})


class FakeFeed:
    """An API server: what is listed, and what the watches are told."""

    def __init__(self) -> None:
        self.objects: dict[str, list[Raw]] = {kind: [] for kind in ALL_KINDS}
        self.events: defaultdict[str, asyncio.Queue[Any]] = defaultdict(asyncio.Queue)
        self.lists: list[str] = []
        self.down = False

    async def list(self, kind: str) -> tuple[Sequence[Raw], str]:
        self.lists.append(kind)
        if self.down:
            raise FeedError("refused")
        return list(self.objects[kind]), "5"

    async def watch(self, kind: str, version: str) -> AsyncIterator[tuple[str, Raw]]:
        while True:
            event = await self.events[kind].get()
            if isinstance(event, Exception):
                raise event
            yield event

    def tell(self, event: str, *objects: Raw) -> None:
        for one in objects:
            self.events[one["kind"]].put_nowait((event, one))


@asynccontextmanager
async def following(feed: FakeFeed) -> AsyncIterator[ClusterCatalogue]:
    catalogue = ClusterCatalogue(feed)
    task = asyncio.create_task(catalogue.watch())
    try:
        yield catalogue
    finally:
        task.cancel()
        await asyncio.wait([task])


def instructions(catalogue: ClusterCatalogue) -> str:
    found = catalogue.team("acme", "help")
    assert found is not None
    return found.spec.members[0].instructions


@pytest.fixture
def feed() -> FakeFeed:
    feed = FakeFeed()
    feed.objects["ModelConfig"] = [raw("ModelConfig", "chat", CHAT)]
    feed.objects["AgentTeam"] = [team("aaa", instructions="newest")]
    feed.objects[REVISION] = [raw(REVISION, "help-aaa", team_spec("first"))]
    return feed


async def test_a_team_is_served_as_its_current_revision(feed: FakeFeed) -> None:
    async with following(feed) as catalogue:
        await catalogue.synced()
        assert instructions(catalogue) == "first"
        assert catalogue.team_problems("acme", "help") == []
        assert catalogue.teams("other") == []
        feed.tell("ADDED", raw(REVISION, "help-bbb", team_spec("second")))
        await asyncio.sleep(1)
        assert instructions(catalogue) == "first"
        feed.tell("MODIFIED", team("bbb"))
        await asyncio.sleep(1)
        assert instructions(catalogue) == "second"


async def test_pods_and_suspension_do_not_wait_for_a_revision(feed: FakeFeed) -> None:
    async with following(feed) as catalogue:
        await catalogue.synced()
        feed.tell("MODIFIED", team("aaa", suspend=True, runtime={"replicas": 2}))
        await asyncio.sleep(1)
        found = catalogue.team("acme", "help")
        assert found is not None
        assert found.spec.suspend
        assert found.spec.runtime is not None
        assert instructions(catalogue) == "first"


async def test_a_revision_that_is_not_there_yet_leaves_the_last_one_serving(feed: FakeFeed) -> None:
    async with following(feed) as catalogue:
        await catalogue.synced()
        feed.tell("MODIFIED", team("bbb"))
        await asyncio.sleep(1)
        assert instructions(catalogue) == "first"
        feed.tell("ADDED", raw(REVISION, "help-bbb", team_spec("second")))
        await asyncio.sleep(1)
        assert instructions(catalogue) == "second"


async def test_a_team_without_a_revision_says_why_it_cannot_answer(feed: FakeFeed) -> None:
    feed.objects["AgentTeam"] = [team()]
    async with following(feed) as catalogue:
        await catalogue.synced()
        assert catalogue.team("acme", "help") is None
        (why,) = catalogue.team_problems("acme", "help")
        assert "kubectl describe" in why
        feed.tell("DELETED", team())
        await asyncio.sleep(1)
        assert catalogue.team_problems("acme", "help") == []


async def test_an_invalid_newer_version_leaves_the_last_good_one(feed: FakeFeed) -> None:
    async with following(feed) as catalogue:
        await catalogue.synced()
        feed.tell("MODIFIED", raw("ModelConfig", "chat", {**CHAT, "type": "Poem"}))
        await asyncio.sleep(1)
        found = catalogue.model("acme", "chat")
        assert found is not None
        assert found.spec.type == "Chat"
        assert [p.field for p in catalogue.problems] == ["spec.type"]


async def test_what_is_deleted_is_gone_and_users_of_it_say_so(feed: FakeFeed) -> None:
    async with following(feed) as catalogue:
        await catalogue.synced()
        feed.tell("DELETED", raw("ModelConfig", "chat", CHAT))
        await asyncio.sleep(1)
        assert catalogue.model("acme", "chat") is None
        assert "chat" in catalogue.team_problems("acme", "help")[0]


async def test_a_version_that_is_too_old_is_listed_anew(feed: FakeFeed) -> None:
    async with following(feed) as catalogue:
        await catalogue.synced()
        feed.objects["ModelConfig"] = [raw("ModelConfig", "other", CHAT)]
        feed.events["ModelConfig"].put_nowait(Gone())
        await asyncio.sleep(1)
        assert [m.metadata.name for m in catalogue.models("acme")] == ["other"]
        assert feed.lists.count("ModelConfig") == 2


async def test_an_api_server_that_is_away_takes_nothing_away(feed: FakeFeed) -> None:
    async with following(feed) as catalogue:
        await catalogue.synced()
        feed.down = True
        for kind in ALL_KINDS:
            feed.events[kind].put_nowait(FeedError("connection reset"))
        await asyncio.sleep(60)
        assert instructions(catalogue) == "first"
        assert catalogue.model("acme", "chat") is not None
        # Asked ever more seldom: 0.5, 1, 2, ... 30 s.
        assert 5 <= feed.lists.count("AgentTeam") <= 12
        feed.objects["AgentTeam"] = []
        feed.down = False
        await asyncio.sleep(60)
        assert catalogue.team("acme", "help") is None


async def test_nothing_is_known_to_be_missing_before_everything_is_listed(feed: FakeFeed) -> None:
    feed.down = True
    async with following(feed) as catalogue:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(20):
                await catalogue.synced()
        feed.down = False
        async with asyncio.timeout(40):
            await catalogue.synced()
        assert instructions(catalogue) == "first"


async def test_many_changes_are_taken_together(feed: FakeFeed) -> None:
    async with following(feed) as catalogue:
        await catalogue.synced()
        feed.tell("ADDED", *(raw("ModelConfig", f"m{n}", CHAT) for n in range(300)))
        await asyncio.sleep(1)
        assert len(catalogue.models("acme")) == 301
        first = catalogue.models("acme")[0]
        feed.tell("MODIFIED", raw("ModelConfig", "m1", {**CHAT, "model": "n"}))
        await asyncio.sleep(1)
        assert catalogue.models("acme")[0] is first  # what has not changed is not parsed again


async def test_who_may_ask_a_team_is_the_specs_word_if_that_is_enough_else_the_operators(
    feed: FakeFeed,
) -> None:
    def allowing(allowed: Any, told: list[str]) -> Raw:
        return raw(
            "AgentTeam", "help", team_spec(allowedNamespaces=allowed),
            status={"currentRevision": "r1", "allowedTenants": told},
        )  # fmt: skip

    selector = {"from": "Selector", "selector": {"matchLabels": {"rag": "yes"}}}
    async with following(feed) as catalogue:
        for allowed, told, wanted in (
            (selector, ["b", "c"], ("b", "c")),
            # Taken back, and the operator has not said so yet.
            ({"from": "Same"}, ["b", "c"], ()),
            ({"from": "All"}, [], ("*",)),
            (selector, ["*"], ()),
        ):
            feed.tell("MODIFIED", allowing(allowed, told))
            await asyncio.sleep(1)
            assert catalogue.allowed_tenants("acme", "help") == wanted
        assert catalogue.allowed_tenants("acme", "absent") == ()
