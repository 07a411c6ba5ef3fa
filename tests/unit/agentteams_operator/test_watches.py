"""What kopf's handlers make of what they are told, without a server."""

import asyncio
import itertools
import logging
import threading
from typing import Any

import kopf
import pytest
from aiohttp import web

from agentteams_operator.core.cache import Cache
from agentteams_operator.core.objects import Key
from agentteams_operator.handlers.session import Listening
from agentteams_operator.handlers.watches import KINDS, OWNED, WATCHED, Watches, settings, worth_a_line

MODEL = Key("ModelConfig", "n", "m")


def model(name: str = "m", version: int = 1) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "n", "uid": name, "resourceVersion": str(version)}
    return {"kind": "ModelConfig", "metadata": metadata, "spec": {}}


async def watches() -> tuple[Watches, Cache]:
    cache = Cache(lambda key: None)
    made = Watches(cache=cache)
    made._loop = asyncio.get_running_loop()
    return made, cache


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("OS signals are ignored: running not in the main thread.", False),
        ("Unresolved resources cannot be served: Selector(group='keda.sh', version='v1alpha1')", False),
        ("Unresolved resources cannot be served: Selector(group='agentteams.dev'), (group='keda.sh')", True),
        ("Root task has failed", True),
    ],
)
def test_what_kopf_warns_of_without_need_is_left_out(text: str, told: bool) -> None:
    """A cluster without KEDA is well; one without our CustomResourceDefinitions is not."""
    record = logging.LogRecord("kopf", logging.WARNING, "", 0, text, None, None)
    assert worth_a_line(record) is told


async def test_what_is_seen_is_kept_and_what_is_deleted_goes() -> None:
    made, cache = await watches()
    await made._seen(model())
    await asyncio.sleep(0)
    assert cache.get(MODEL) is not None
    await made._heard("MODIFIED", model())
    await asyncio.sleep(0)
    assert cache.get(MODEL) is not None
    assert made._synced.is_set()
    await made._heard("DELETED", model(version=2))
    await asyncio.sleep(0)
    assert cache.get(MODEL) is None


async def test_a_new_list_is_compared_in_its_namespace_and_for_its_kind() -> None:
    made, cache = await watches()
    await made._seen(model("kept"))
    await made._seen(model("lost"))
    path = "/apis/agentteams.dev/v1alpha1/namespaces/{}/modelconfigs"
    items = [{"metadata": {"name": "kept", "namespace": "n"}}]
    for namespace, left in (("other", ["kept", "lost"]), ("n", ["kept"])):
        made._listed(path.format(namespace), {"metadata": {"resourceVersion": "5"}, "items": items})
        await asyncio.sleep(0)
        assert cache.names("ModelConfig", "n") == left
    made._listed("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", {"items": []})
    made._listed(
        "/apis/agentteams.dev/v1alpha1/modelconfigs", {"metadata": {"resourceVersion": "6"}, "items": []}
    )
    await asyncio.sleep(0)
    assert cache.names("ModelConfig", "n") == []


async def test_a_list_of_nothing_may_have_no_items_at_all() -> None:
    """As the API server answers when it is asked for the names of custom resources, and there are none."""
    made, cache = await watches()
    await made._seen(model())
    made._listed(
        "/apis/agentteams.dev/v1alpha1/modelconfigs", {"metadata": {"resourceVersion": "6"}, "items": None}
    )
    await asyncio.sleep(0)
    assert cache.get(MODEL) is None


async def test_of_what_kopf_asks_lists_of_objects_are_asked_for_their_names_once() -> None:
    asked: list[str] = []
    told: list[tuple[str, Any]] = []
    synced = asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.path_qs)
        names = "PartialObjectMetadataList" in request.headers["Accept"]
        return web.json_response({"names": names})

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server = f"http://127.0.0.1:{runner.addresses[0][1]}"
    listening = Listening(lambda path, listing: told.append((path, listing)), synced.is_set, kinds=())
    session = listening.session(kopf.ConnectionInfo(server=server)).aiohttp_session
    try:
        for before in (True, False):
            for query in ("limit=5&labelSelector=a", "watch=true", "limit=5&continue=x"):
                async with session.get(f"{server}/api/v1/secrets?{query}"):
                    pass
            await asyncio.gather(*listening._asking.values())
            assert len(told) == (0 if before else 1)
            synced.set()
    finally:
        await session.close()
        await runner.cleanup()
    assert told == [("/api/v1/secrets", {"names": True})]
    assert "/api/v1/secrets?labelSelector=a" in asked


def test_watches_are_given_up_when_they_are_silent_and_the_api_server_never_is() -> None:
    made = settings(7.0)
    assert made.watching.inactivity_timeout == 7
    assert made.watching.server_timeout is not None
    assert made.watching.client_timeout is not None
    assert made.watching.client_timeout > made.watching.server_timeout > 7
    assert list(itertools.islice(made.networking.error_backoffs, 6)) == [1, 2, 4, 8, 8, 8]  # type: ignore[arg-type]
    assert made.posting.enabled is False


def test_all_that_is_watched_can_be_compared() -> None:
    assert {resource[-1] for resource in (*WATCHED, *OWNED)} == set(KINDS)


class Hanging(Watches):
    """kopf with a task that has failed, and others that never end."""

    async def _operate(self, stop: threading.Event) -> None:
        await asyncio.to_thread(stop.wait)


async def test_a_kopf_that_never_lists_anything_ends_the_process() -> None:
    with pytest.raises(TimeoutError):
        await Hanging(cache=Cache(lambda key: None), sync_s=0.05).run()


async def test_a_kopf_that_has_listed_is_not_ended() -> None:
    made = Hanging(cache=Cache(lambda key: None), sync_s=0.05)
    made._synced.set()
    running = asyncio.ensure_future(made.run())
    done, _ = await asyncio.wait([running], timeout=0.3)
    assert done == set()
    running.cancel()
    await asyncio.wait([running])


class Lives(Watches):
    """Tells what kopf watches each time it begins."""

    def __init__(self, *lives: str) -> None:
        super().__init__(cache=Cache(lambda key: None))
        self._lives = iter(lives)
        self.told = asyncio.Queue[str]()

    async def _operate(self, stop: threading.Event) -> None:
        for resource in next(self._lives).split():
            self._begun(resource)
            self._call(self.told.put_nowait, resource)
        self._call(self._synced.set)
        await asyncio.to_thread(stop.wait)


async def test_watches_are_begun_anew_for_a_kind_that_kopf_has_missed_and_for_no_other() -> None:
    made = Lives("agentteams", "agentteams scaledobjects", "agentteams")
    running = asyncio.ensure_future(made.run())
    try:
        async with asyncio.timeout(10):
            assert await made.told.get() == "agentteams"
            made._check("agentteams")
            assert not made._again.is_set()
            made._check("scaledobjects")
            assert [await made.told.get(), await made.told.get()] == ["agentteams", "scaledobjects"]
            made._check("scaledobjects")
            assert not made._again.is_set()
            made.expect("ScaledObject", there=False)  # it may come again
            made._check("scaledobjects")
            assert await made.told.get() == "agentteams"
    finally:
        running.cancel()
        await asyncio.wait([running])


def test_a_kind_that_comes_is_looked_for_a_little_later() -> None:
    class Loop:
        def __init__(self) -> None:
            self.later: list[tuple[float, str]] = []

        def call_later(self, seconds: float, _function: object, resource: str) -> None:
            self.later.append((seconds, resource))

    made, loop = Watches(cache=Cache(lambda key: None)), Loop()
    made._loop = loop  # type: ignore[assignment]
    made.expect("ScaledObject", there=True)
    assert loop.later == [(5.0, "scaledobjects")]


class Failing(Lives):
    """A kopf that ends as soon as it has listed."""

    async def _operate(self, stop: threading.Event) -> None:
        stop.set()
        await super()._operate(stop)
        raise LookupError("404 page not found")


async def test_a_kopf_that_ends_after_it_has_listed_is_begun_anew_but_not_for_ever() -> None:
    made = Failing(*["agentteams"] * 9)
    async with asyncio.timeout(30):
        with pytest.raises(LookupError):
            await made.run()
    assert made.told.qsize() == 4


class Broken(Watches):
    """A kopf that ends before it has listed."""

    async def _operate(self, stop: threading.Event) -> None:
        raise LookupError("no such file")


async def test_a_kopf_that_never_began_ends_the_process() -> None:
    async with asyncio.timeout(30):
        with pytest.raises(LookupError):
            await Broken(cache=Cache(lambda key: None)).run()
