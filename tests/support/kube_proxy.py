"""A proxy in front of the API server: holds writes after the nth, and falls silent on watches."""

import asyncio
import contextlib
import re
import secrets
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import yaml
from aiohttp import web

from tests.support.kube import Cluster

_WRITES = ("POST", "PUT", "PATCH", "DELETE")
_HOP = {"transfer-encoding", "content-length", "content-encoding", "connection", "host", "accept-encoding"}
_WAIT_S = 60.0
_CLOSING_S = 0.2  # TLS connections end in the background


class KubeProxy:
    """Plain HTTP on a free port of 127.0.0.1; what it passes on has the administrator's token.

    Attributes:
        kubeconfig: For the client that is to go through it.
        writes: `PATCH modelconfigs/m/status`, in order, of those that the API server has answered. Leases
            are no writes, as nothing of the users' is in them.
        paths: The same, whole.
        watches: How many watches were begun.
        held: Set when the write after which it was to stop is done; its answer, and all that follows,
            is held.
    """

    def __init__(self, cluster: Cluster, kubeconfig: Path, *, stop_after: int | None = None) -> None:
        self.kubeconfig = kubeconfig
        self.writes: list[str] = []
        self.paths: list[str] = []
        self.watches = 0
        self.held = threading.Event()
        self._stop_after = stop_after
        self._generation = 0
        self._shut = False
        self._one_by_one = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._transports: set[asyncio.BaseTransport] = set()
        config = yaml.safe_load(cluster.kubeconfig.read_text())
        self._server = config["clusters"][0]["cluster"]["server"]
        self._authority = config["clusters"][0]["cluster"]["certificate-authority"]
        self._token = config["users"][0]["user"]["token"]

    def mute(self) -> None:
        """No watch of now says a word more, and none of them is closed: half-open. Later ones work."""
        self._generation += 1

    @contextmanager
    def shut(self) -> Iterator[None]:
        """For the block nobody comes through, and all connections break."""
        self._shut = True
        self._close_all()
        try:
            yield
        finally:
            self._shut = False

    async def serve(self, ready: threading.Event, stop: asyncio.Event) -> None:
        """Until `stop`."""
        tls = ssl.create_default_context(cafile=self._authority)
        connector = aiohttp.TCPConnector(ssl=tls, limit=0)
        timeout = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(
            connector=connector, timeout=timeout, auto_decompress=False
        ) as session:
            self._session = session
            app = web.Application(client_max_size=16 << 20)
            app.router.add_route("*", "/{path:.*}", self._pass)
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            assert site._server is not None
            port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
            self._write_config(port)
            self._loop = asyncio.get_running_loop()
            ready.set()
            await stop.wait()
            await runner.cleanup()
        await asyncio.sleep(_CLOSING_S)

    def _close_all(self) -> None:
        def close() -> None:
            while self._transports:
                self._transports.pop().close()

        assert self._loop is not None
        self._loop.call_soon_threadsafe(close)

    def _write_config(self, port: int) -> None:
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
            "users": [{"name": "admin", "user": {"token": "not-the-real-one"}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
        }
        self.kubeconfig.write_text(yaml.safe_dump(config))

    async def _pass(self, request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        self._transports.add(request.transport)
        if self._shut:
            request.transport.close()
            return web.Response(status=502)
        if request.method not in _WRITES or "/leases" in request.path:
            return await self._forward(request, write=False)
        if self._stop_after is None:
            return await self._forward(request, write=True)
        async with self._one_by_one:  # or those under way would be done after the nth
            if self.held.is_set():  # who held the lock was killed, and this one a moment later
                await asyncio.Event().wait()
            return await self._forward(request, write=True)

    async def _forward(self, request: web.Request, *, write: bool) -> web.StreamResponse:
        headers = {k: v for k, v in request.headers.items() if k.lower() not in _HOP}
        headers |= {"Authorization": f"Bearer {self._token}", "Accept-Encoding": "identity"}
        body = await request.read()
        try:
            answer = await self._session.request(
                request.method, self._server + request.raw_path, headers=headers, data=body or None
            )
        except aiohttp.ClientError:
            # The API server is away: the client is hung up on, as the server itself would do it.
            assert request.transport is not None
            request.transport.close()
            return web.Response(status=502)
        async with answer:
            if write and answer.status < 400:
                self.writes.append(f"{request.method} {_name(request)}")
                self.paths.append(request.path)
                if self._stop_after is not None and len(self.writes) >= self._stop_after:
                    self.held.set()
            if write and self.held.is_set():
                await asyncio.Event().wait()
            if request.query.get("watch") == "true" or request.query.get("watch") == "1":
                return await self._stream(request, answer)
            kept = {k: v for k, v in answer.headers.items() if k.lower() not in _HOP}
            return web.Response(status=answer.status, headers=kept, body=await answer.read())

    async def _stream(self, request: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
        self.watches += 1
        born = self._generation
        kept = {k: v for k, v in answer.headers.items() if k.lower() not in _HOP}
        response = web.StreamResponse(status=answer.status, headers=kept)
        await response.prepare(request)
        with contextlib.suppress(aiohttp.ClientError):
            async for data in answer.content.iter_any():
                if born != self._generation:
                    continue
                await response.write(data)
        if born != self._generation:
            await asyncio.Event().wait()
        return response


@contextmanager
def kube_proxy(cluster: Cluster, folder: Path, *, stop_after: int | None = None) -> Iterator[KubeProxy]:
    """A proxy for the block, in a thread of its own."""
    proxy = KubeProxy(cluster, folder / f"proxied-{secrets.token_hex(4)}", stop_after=stop_after)
    ready = threading.Event()
    loops: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def body() -> None:
        stop = asyncio.Event()
        loops.append((asyncio.get_running_loop(), stop))
        await proxy.serve(ready, stop)

    thread = threading.Thread(target=lambda: asyncio.run(body()), daemon=True)
    thread.start()
    try:
        assert ready.wait(_WAIT_S)
        yield proxy
    finally:
        loop, stop = loops[0]
        loop.call_soon_threadsafe(stop.set)
        thread.join(_WAIT_S)


def _name(request: web.Request) -> str:
    """The path from the resource on."""
    path = re.sub(r"^/(api|apis/[^/]+)/[^/]+/", "", request.path)
    return re.sub(r"^namespaces/[^/]+/(?=.)", "", path)
