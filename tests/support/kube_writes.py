"""Everything that is written in some namespaces of an API server, by whomever: watches of every kind."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx

from tests.support.kube import Cluster
from tests.support.kube_state import Api, connection, path_of

LEASE = "leases/agentteams-operator"
_TWICE = "v1/events"  # events.k8s.io has them too
_SCALERS = "autoscaling/v2/horizontalpodautoscalers"
_WAIT_S = 60.0
_LONG_S = 3600


class Writes:
    """What has been written since it began.

    Attributes:
        seen: `MODIFIED v1/secrets/NAMESPACE/NAME by MANAGER` for each write, but those of the operator's own
            Lease, which is there to be renewed, and what Kubernetes' own autoscaler says of itself each 15 s
            where nobody serves metrics: its status and its events.
        broken: Watches that ended: what they would have seen is not known.
        began: By time.monotonic().
    """

    def __init__(self, cluster: Cluster, namespaces: Sequence[str]) -> None:
        self.seen: list[str] = []
        self.broken: list[str] = []
        self.began = 0.0
        self._namespaces = frozenset(namespaces)
        self._connection = connection(cluster)
        self._api = Api(cluster)
        self._kinds = [kind for kind in (*self._api.kinds, "v1/namespaces") if kind != _TWICE]
        self._from: dict[str, str] = {}
        self._versions = self._list()

    def changed(self) -> list[str]:
        """What is not as it was at the beginning: found by listing, and not by a watch."""
        before, now = self._versions, self._list()
        return sorted(name for name in now | before if now.get(name) != before.get(name))

    def close(self) -> None:
        """Ends the connections of what lists."""
        self._api.close()

    async def run(self, ready: threading.Event) -> None:
        """Until it is cancelled."""
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(**self._connection | {"timeout": _LONG_S}, limits=limits) as client:
            begun = [asyncio.Event() for _ in self._kinds]
            async with asyncio.TaskGroup() as group:
                for kind, event in zip(self._kinds, begun, strict=True):
                    group.create_task(self._watch(client, kind, event))
                for event in begun:
                    await event.wait()
                self.began = time.monotonic()
                ready.set()

    def _list(self) -> dict[str, str]:
        """A version of every object."""
        found = {}
        for kind in self._kinds:
            listed = self._api.get(path_of(kind, ""))
            self._from.setdefault(kind, listed["metadata"]["resourceVersion"])
            for item in listed["items"]:
                spec = kind == _SCALERS
                if name := self._name(kind, item):
                    found[name] = json.dumps(item["spec"]) if spec else item["metadata"]["resourceVersion"]
        return found

    async def _watch(self, client: httpx.AsyncClient, kind: str, begun: asyncio.Event) -> None:
        """From the list on: nothing lies between."""
        query = {"watch": "1", "resourceVersion": self._from[kind], "timeoutSeconds": str(_LONG_S)}
        async with client.stream("GET", path_of(kind, ""), params=query) as answer:
            answer.raise_for_status()
            begun.set()
            async for line in answer.aiter_lines():
                event = json.loads(line)
                if event["type"] == "ERROR":
                    break
                name, writer = self._name(kind, event["object"]), _writer(event["object"])
                if name and (kind, writer) != (_SCALERS, "kube-controller-manager"):
                    self.seen.append(f"{event['type']} {name} by {writer}")
        self.broken.append(kind)

    def _name(self, kind: str, item: dict[str, Any]) -> str:
        """Empty: it does not count."""
        metadata = item["metadata"]
        namespace = metadata.get("namespace", metadata["name"])
        name = f"{kind}/{namespace}/{metadata['name']}"
        ours = namespace in self._namespaces
        lease = f"{kind.rpartition('/')[2]}/{metadata['name']}" == LEASE
        said = item.get("regarding", {}).get("kind") == "HorizontalPodAutoscaler"
        return name if ours and not lease and not said else ""


def _writer(item: dict[str, Any]) -> str:
    """Who wrote last, as far as the object says it."""
    fields = item["metadata"].get("managedFields", ())
    last: dict[str, Any] = max(fields, key=lambda one: str(one.get("time", "")), default={})
    return str(last.get("manager", "somebody"))


@contextmanager
def all_writes(cluster: Cluster, *namespaces: str) -> Iterator[Writes]:
    """Watches for the block, in a thread of its own. All watches are there when it begins."""
    writes = Writes(cluster, namespaces)
    ready = threading.Event()
    loops: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
    failures: list[BaseException] = []

    async def body() -> None:
        stop = asyncio.Event()
        loops.append((asyncio.get_running_loop(), stop))
        task = asyncio.ensure_future(writes.run(ready))
        over = asyncio.ensure_future(stop.wait())
        await asyncio.wait([task, over], return_when=asyncio.FIRST_COMPLETED)
        for one in (task, over):
            one.cancel()
        (ended,) = await asyncio.gather(task, return_exceptions=True)
        if not isinstance(ended, asyncio.CancelledError):
            failures.append(ended or RuntimeError("all watches ended"))
        ready.set()

    thread = threading.Thread(target=lambda: asyncio.run(body()))
    thread.start()
    try:
        assert ready.wait(_WAIT_S)
        assert not failures, failures
        yield writes
    finally:
        loop, stop = loops[0]
        loop.call_soon_threadsafe(stop.set)
        thread.join(_WAIT_S)
        writes.close()
    assert not failures, failures
