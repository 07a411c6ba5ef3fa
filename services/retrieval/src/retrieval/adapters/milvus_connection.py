"""Calls to Milvus: bounded in time, errors mapped, blips bridged, released collections loaded.

Data calls go through the asynchronous client; DDL and walks go through the
synchronous one in a thread, because Lite answers `await create_index()` with
UNIMPLEMENTED after it has made the index, and the asynchronous client has no
iterators.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pymilvus import AsyncMilvusClient, MilvusClient

from retrieval.adapters.milvus_errors import NotLoaded, TimedOut, mapped, silence_client_log
from retrieval.adapters.milvus_wire import Wire
from retrieval.core.errors import OutdatedCollection
from servicekit.context import remaining_s
from servicekit.errors import Unavailable

Answer = TypeVar("Answer")

# Refused connections come back in 0 s and pymilvus does not retry them: a
# blip is bridged here, an outage is the caller's to report.
_RETRY_DELAYS_S = (0.1, 0.3, 0.6, 1.0)
_MAX_DATABASES = 64  # whose connections are kept while nobody uses them
_MAX_THREADS = 8  # a frozen server holds them, but not those of others


@dataclass(slots=True)
class _Clients:
    """Of one database; `users` are calls that are on their way."""

    sync: MilvusClient
    asynchronous: AsyncMilvusClient
    wire: Wire
    users: int = 0

    async def close(self) -> None:
        await self.wire.close()
        await self.asynchronous.close()
        self.sync.close()


class Connection:
    """One Milvus.

    Args:
        uri: Such as http://127.0.0.1:19530.
        token: API key or user:password; empty for none.
        timeout_s: Of one call, when the caller's deadline is not shorter.
        ddl_timeout_s: Of creating, loading, flushing and dropping.
    """

    def __init__(self, *, uri: str, token: str, timeout_s: float, ddl_timeout_s: float) -> None:
        self.ddl_timeout_s = ddl_timeout_s
        self.timeout_s = timeout_s
        self._uri = uri
        self._token = token
        self._clients: OrderedDict[str, _Clients] = OrderedDict()
        self._connecting = asyncio.Lock()
        self._loading: dict[tuple[str, str], asyncio.Lock] = {}
        self._threads = ThreadPoolExecutor(_MAX_THREADS, thread_name_prefix="milvus")
        silence_client_log()

    async def close(self) -> None:
        """Ends all connections."""
        while self._clients:
            _, clients = self._clients.popitem()
            await clients.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def call(
        self,
        action: str,
        database: str,
        collection: str,
        call: Callable[[AsyncMilvusClient, float], Awaitable[Answer]],
        *,
        timeout_s: float | None = None,
    ) -> Answer:
        """One data call; `call` is given the client and its time-out."""

        async def attempt() -> Answer:
            async with self._of(database) as clients:
                budget_s, ours = self._budget(timeout_s or self.timeout_s)
                # pymilvus' own timeout does not cover a reconnect; this one does.
                with mapped(action, deadline_is_ours=ours, target=self._uri):
                    async with asyncio.timeout(budget_s + 0.05):
                        return await call(clients.asynchronous, budget_s)

        return await self._again(database, collection, attempt)

    async def search(
        self, database: str, collection: str, call: Callable[[Wire, float], Awaitable[Answer]]
    ) -> Answer:
        """As `call`, for searches, which have a channel of their own."""

        async def attempt() -> Answer:
            async with self._of(database) as clients:
                budget_s, ours = self._budget(self.timeout_s)
                with mapped("search", deadline_is_ours=ours, target=self._uri):
                    return await call(clients.wire, budget_s)

        return await self._again(database, collection, attempt)

    async def read(
        self, action: str, database: str, collection: str, call: Callable[[MilvusClient], Answer]
    ) -> Answer:
        """As `call`, for what only the synchronous client can do; `call` sets its time-outs itself."""
        return await self._again(database, collection, lambda: self._in_thread(action, database, call))

    async def ddl(self, action: str, database: str, call: Callable[[MilvusClient], Answer]) -> Answer:
        """One change of what there is; not tried again. `call` sets its time-outs itself."""
        try:
            return await self._in_thread(action, database, call)
        except NotLoaded as error:
            raise Unavailable(str(error), reason="DEPENDENCY_UNAVAILABLE") from error

    async def _again(
        self, database: str, collection: str, attempt: Callable[[], Awaitable[Answer]]
    ) -> Answer:
        delays = iter(_RETRY_DELAYS_S)
        loaded = False
        while True:
            try:
                return await attempt()
            except NotLoaded:
                if loaded:
                    raise Unavailable(
                        f"Milvus does not load collection {collection}",
                        reason="DEPENDENCY_UNAVAILABLE",
                        metadata={"dependency": "milvus", "collection": collection},
                    ) from None
                await self._load(database, collection)
                loaded = True
            except (TimedOut, OutdatedCollection):
                raise
            except Unavailable:
                delay = next(delays, None)
                left = remaining_s()
                if delay is None or (left is not None and left < 2 * delay):
                    raise
                await asyncio.sleep(delay)

    async def _load(self, database: str, collection: str) -> None:
        """One load at a time for each collection: Lite forgets what was loaded when it restarts."""
        key = database, collection
        lock = self._loading.setdefault(key, asyncio.Lock())
        try:
            async with lock:
                await self.ddl(
                    "load", database, lambda c: c.load_collection(collection, timeout=self.ddl_timeout_s)
                )
        finally:
            if not lock.locked():
                self._loading.pop(key, None)

    def _budget(self, wanted_s: float) -> tuple[float, bool]:
        """Seconds for the next call, and whether it is our bound rather than the caller's deadline."""
        left = remaining_s()
        if left is None or left > wanted_s:
            return wanted_s, True
        return max(0.001, left - 0.01), False

    async def _in_thread(self, action: str, database: str, call: Callable[[MilvusClient], Answer]) -> Answer:
        """A thread cannot be cancelled, so every call in it has a time-out of its own."""
        async with self._of(database) as clients:
            budget_s, ours = self._budget(self.ddl_timeout_s + 1)
            with mapped(action, deadline_is_ours=ours, target=self._uri):
                async with asyncio.timeout(budget_s):
                    return await self._thread(lambda: call(clients.sync))

    async def _thread(self, call: Callable[[], Answer]) -> Answer:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    @asynccontextmanager
    async def _of(self, database: str) -> AsyncIterator[_Clients]:
        clients = self._clients.get(database)
        if clients is None:
            async with self._connecting:
                clients = self._clients.get(database) or await self._connect(database)
        clients.users += 1
        self._clients.move_to_end(database)
        try:
            yield clients
        finally:
            clients.users -= 1

    async def _connect(self, database: str) -> _Clients:
        budget_s, ours = self._budget(self.timeout_s + 1)
        options = self._options(database)
        with mapped("connect", deadline_is_ours=ours, target=self._uri):
            async with asyncio.timeout(budget_s):
                sync = await self._thread(lambda: MilvusClient(timeout=self.timeout_s, **options))
                asynchronous = AsyncMilvusClient(timeout=self.timeout_s, **options)
                await asynchronous.__aenter__()  # else calls at the same time connect once each
        wire = Wire(uri=self._uri, token=self._token, database=database, grpc_options=options["grpc_options"])
        clients = _Clients(sync, asynchronous, wire)
        self._clients[database] = clients
        idle = [name for name, other in self._clients.items() if not other.users and name != database]
        for name in idle[: max(0, len(self._clients) - _MAX_DATABASES)]:
            await self._clients.pop(name).close()
        return clients

    def _options(self, database: str) -> dict[str, Any]:
        return {
            "uri": self._uri,
            "token": self._token,
            "db_name": database,
            # Shared channels are keyed by address only and never freed.
            "dedicated": True,
            # Lite's server answers pings more often than every 5 minutes with GOAWAY.
            "grpc_options": {
                "grpc.keepalive_time_ms": 600_000,
                # gRPC would refuse calls for a second after a restart, and longer after an outage.
                "grpc.initial_reconnect_backoff_ms": 100,
                "grpc.min_reconnect_backoff_ms": 2_000,  # in truth the time for one attempt
                "grpc.max_reconnect_backoff_ms": 1_000,
            },
        }


class Settling:
    """Of callers that wait for the same thing at the same time, one asks for all.

    What a caller gets was asked after the caller came: nothing that was under way already counts.
    """

    def __init__(self) -> None:
        self._rounds: dict[Hashable, _Round] = {}

    async def join(self, key: Hashable, ask: Callable[[], Awaitable[object]]) -> None:
        """Returns when an `ask` has ended that began after this call."""
        current = self._rounds.setdefault(key, _Round())
        current.callers += 1
        wanted = current.begun + 1
        try:
            async with current.lock:
                if current.done >= wanted:
                    return
                current.begun += 1
                number = current.begun
                await ask()
                current.done = number
        finally:
            current.callers -= 1
            if not current.callers:
                self._rounds.pop(key, None)


@dataclass(slots=True)
class _Round:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    callers: int = 0
    begun: int = 0
    done: int = 0
