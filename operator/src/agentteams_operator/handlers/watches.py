"""kopf watches, and tells the cache. In a thread of its own: in the main one it would take SIGTERM."""

import asyncio
import contextlib
import dataclasses
import logging
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import kopf
import structlog

from agentteams_operator.core.cache import Cache
from agentteams_operator.core.objects import MANAGED_BY, MANAGER, Key
from agentteams_operator.handlers.session import Listening

log = structlog.get_logger()

_GROUP = ("agentteams.dev", "v1alpha1")
WATCHED: Sequence[tuple[str, ...]] = (
    (*_GROUP, "modelconfigs"),
    (*_GROUP, "knowledgebases"),
    (*_GROUP, "agentteams"),
    ("v1", "secrets"),
    ("v1", "configmaps"),
    ("v1", "namespaces"),
)
OWNED: Sequence[tuple[str, ...]] = (
    ("apps", "v1", "deployments"),
    ("apps", "v1", "controllerrevisions"),
    ("v1", "services"),
    ("v1", "serviceaccounts"),
    ("rbac.authorization.k8s.io", "v1", "roles"),
    ("rbac.authorization.k8s.io", "v1", "rolebindings"),
    ("networking.k8s.io", "v1", "networkpolicies"),
    ("policy", "v1", "poddisruptionbudgets"),
    ("autoscaling", "v2", "horizontalpodautoscalers"),
    ("keda.sh", "v1alpha1", "scaledobjects"),
)
"""Only those with our label."""
KINDS = {
    "modelconfigs": "ModelConfig", "knowledgebases": "KnowledgeBase", "agentteams": "AgentTeam",
    "secrets": "Secret", "configmaps": "ConfigMap", "namespaces": "Namespace", "deployments": "Deployment",
    "controllerrevisions": "ControllerRevision", "services": "Service", "serviceaccounts": "ServiceAccount",
    "roles": "Role", "rolebindings": "RoleBinding", "networkpolicies": "NetworkPolicy",
    "poddisruptionbudgets": "PodDisruptionBudget", "horizontalpodautoscalers": "HorizontalPodAutoscaler",
    "scaledobjects": "ScaledObject",
}  # fmt: skip
_STOP_S = 10.0
_SILENT_S = 70.0
_LATE_S = 5.0
_MOST_FAILURES, _FAILURES_S = 3, 300.0
_SYNC_S = 300.0  # far more than the lists of a large cluster take


class _Pauses:
    """For ever: an API server that is away for an hour is no reason to end."""

    def __iter__(self) -> Iterator[float]:
        yield from (1, 2, 4)
        while True:
            yield 8


def settings(silent_s: float = _SILENT_S) -> kopf.OperatorSettings:
    """How kopf watches; docs/operator.md has the reasons."""
    made = kopf.OperatorSettings()
    made.watching.server_timeout = 600
    made.watching.client_timeout = 660
    made.watching.connect_timeout = 10
    made.watching.inactivity_timeout = silent_s
    made.watching.chunk_size = 500
    made.networking.request_timeout = 60
    made.networking.error_backoffs = _Pauses()
    made.posting.enabled = False
    made.peering.standalone = True
    for resource in OWNED:
        made.watching.label_selectors[resource[-1]] = f"{MANAGED_BY}={MANAGER}"
    return made


class Watches:
    """Fills the cache, in the event loop that began it.

    Args:
        namespaces: Which to watch; none: all.
        silent_s: A watch without a word for so long is taken for dead.
        sync_s: Without a first list of everything for so long, kopf is taken for dead.
    """

    def __init__(
        self, *, cache: Cache, namespaces: Sequence[str] = (), silent_s: float = _SILENT_S,
        sync_s: float = _SYNC_S,
    ) -> None:  # fmt: skip
        self._cache = cache
        self._namespaces = namespaces
        self._silent_s = silent_s
        self._sync_s = sync_s
        self._loop: asyncio.AbstractEventLoop | None = None
        self._synced = asyncio.Event()
        self._again = asyncio.Event()
        self._watched: set[str] = set()

    def expect(self, kind: str, *, there: bool) -> None:
        """A kind has come or gone. kopf may miss one that comes: it looks when its
        CustomResourceDefinition changes, which is before the API server serves it, and not again."""
        resource = next(plural for plural, one in KINDS.items() if one == kind)
        if not there:
            self._watched.discard(resource)
        elif self._loop is not None:
            self._loop.call_later(_LATE_S, self._check, resource)

    def _check(self, resource: str) -> None:
        if resource not in self._watched:
            log.info("kind_not_watched", resource=resource)
            self._again.set()

    async def synced(self) -> None:
        """Waits until the cache has all that there was at the start."""
        await self._synced.wait()

    async def run(self) -> None:
        """Until it is cancelled.

        When a kind goes that kopf watches, kopf may end with it, and is begun anew.

        Raises:
            Exception: kopf ended by itself before it had listed anything, or again and again.
            TimeoutError: It hangs: one of its tasks has failed, and its others never end.
        """
        self._loop = asyncio.get_running_loop()
        failures: list[float] = []
        while True:
            try:
                await self._watch()
            except Exception as error:
                now = self._loop.time()
                failures = [*(at for at in failures if now - at < _FAILURES_S), now]
                if not self._synced.is_set() or len(failures) > _MOST_FAILURES:
                    raise
                log.warning("watches_failed", error=f"{type(error).__name__}: {error}")
            self._again.clear()

    async def _watch(self) -> None:
        """Until it is to begin anew. What was seen stays: new lists are compared with it."""
        assert self._loop is not None
        ended: asyncio.Future[None] = self._loop.create_future()
        stop = threading.Event()

        def finish(error: BaseException | None) -> None:
            if not ended.done():
                ended.set_exception(error or RuntimeError("kopf ended"))

        def body() -> None:
            error: BaseException | None = None
            try:
                asyncio.run(self._operate(stop))
            except BaseException as raised:  # noqa: BLE001  handed to the main loop
                error = raised
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._call(finish, error)

        thread = threading.Thread(target=body, name="kopf", daemon=True)
        thread.start()
        synced, again = (asyncio.ensure_future(one.wait()) for one in (self._synced, self._again))
        try:
            async with asyncio.timeout(self._sync_s):
                waited: list[asyncio.Future[Any]] = [ended, synced]
                await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            until: list[asyncio.Future[Any]] = [ended, again]
            await asyncio.wait(until, return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                await ended
        finally:
            ended.cancel()  # how it ends from here on is nobody's concern
            synced.cancel()
            again.cancel()
            stop.set()
            await asyncio.to_thread(thread.join, _STOP_S)

    async def _operate(self, stop: threading.Event) -> None:
        logging.getLogger("kopf").setLevel(logging.WARNING)  # else a line for each change of each object
        for name in ("running", "observation"):
            logging.getLogger(f"kopf._core.reactor.{name}").addFilter(worth_a_line)
        registry = kopf.OperatorRegistry()
        listening = Listening(self._listed, self._synced.is_set, kinds=KINDS, begun=self._begun)

        async def login(**arguments: Any) -> kopf.AiohttpSession | None:
            found = _login(**arguments)
            return listening.session(found) if found is not None else None

        kopf.on.login(registry=registry)(login)
        for resource in (*WATCHED, *OWNED):
            kopf.index(*resource, id=f"see-{resource[-1]}", registry=registry)(self._seen)
            kopf.on.event(*resource, id=f"hear-{resource[-1]}", registry=registry)(self._heard)
        await kopf.operator(
            registry=registry,
            settings=settings(self._silent_s),
            standalone=True,
            # Else it looks up the user's name, and the user of a container has none.
            identity=MANAGER,  # type: ignore[arg-type]  # kopf does not export the type
            clusterwide=not self._namespaces,
            namespaces=self._namespaces,
            stop_flag=stop,
        )

    async def _seen(self, body: Mapping[str, Any], **_: Any) -> None:
        """Called for each object as it is; at the start for all of them before `_heard` for any.

        Handlers are coroutines, though they await nothing: kopf calls plain functions in threads.
        """
        plain = dict(body)
        self._call(self._cache.put, plain)

    async def _heard(self, type: str | None, body: Mapping[str, Any], **_: Any) -> None:
        self._call(self._synced.set)
        if type == "DELETED":
            metadata = body["metadata"]
            key = Key(str(body["kind"]), str(metadata.get("namespace", "")), str(metadata["name"]))
            self._call(self._cache.remove, key, int(metadata["resourceVersion"]))

    def _begun(self, resource: str) -> None:
        self._call(self._watched.add, resource)

    def _listed(self, path: str, listing: Mapping[str, Any]) -> None:
        """All names of a kind, in one namespace or in all."""
        parts = path.strip("/").split("/")
        kind = KINDS.get(parts[-1])
        if kind is None:
            return
        namespace = parts[-2] if len(parts) > 2 and parts[-3] == "namespaces" else ""
        there = {
            Key(kind, str(item["metadata"].get("namespace", "")), str(item["metadata"]["name"]))
            for item in listing["items"] or ()  # null: there is none
        }
        self._call(self._cache.retain, kind, namespace, there, int(listing["metadata"]["resourceVersion"]))

    def _call(self, function: Callable[..., object], *arguments: object) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(function, *arguments)


def worth_a_line(record: logging.LogRecord) -> bool:
    """Of kopf's warnings at the start: not that signals are not for it, nor that KEDA is not there."""
    text = record.getMessage()
    if text.startswith("Unresolved resources"):
        return set(re.findall(r"group='([^']*)'", text)) != {"keda.sh"}
    return not text.startswith("OS signals are ignored")


def _login(**arguments: Any) -> kopf.ConnectionInfo | None:
    """In a cluster by the pod's account, elsewhere by KUBECONFIG."""
    pod: kopf.ConnectionInfo | None = kopf.login_with_service_account(**arguments)
    if pod is None:
        return kopf.login_with_kubeconfig(**arguments)
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT")
    if not host or not port:
        return pod
    # As what writes finds it: without a look-up of a name, which needs another pod to be well.
    return dataclasses.replace(
        pod, server=f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
    )
