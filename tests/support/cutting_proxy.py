"""A TCP proxy in front of Postgres that can cut a connection when it commits."""

import asyncio
from contextlib import suppress
from enum import StrEnum
from types import TracebackType

_COMMIT = b"COMMIT;\0"  # of asyncpg's simple query
_DONE = b"COMMIT\0"  # of the server's CommandComplete
_BUFFER = 64 * 1024
_ANSWER_S = 10


class Cut(StrEnum):
    """When."""

    BEFORE = "before"  # the server never sees the COMMIT
    AFTER = "after"  # it commits, and its answer is lost


class CuttingProxy:
    """async with CuttingProxy(port) as proxy: ... `proxy.port` is where to connect.

    `cut(Cut.AFTER, times)` does it with the next transactions that commit.
    """

    def __init__(self, server_port: int) -> None:
        self.port = 0
        self.done = 0
        """Connections that were cut."""
        self._server_port = server_port
        self._kind = Cut.AFTER
        self._left = 0
        self._pipes: set[asyncio.Task[None]] = set()

    def cut(self, kind: Cut, times: int = 1) -> None:
        """0 times: no more."""
        self._kind, self._left = kind, times

    async def __aenter__(self) -> "CuttingProxy":
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for pipe in self._pipes:
            pipe.cancel()
        await asyncio.gather(*self._pipes, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._pipes.add(task)
        try:
            # While Postgres is down a client is hung up on, as the server itself would do it.
            with suppress(OSError):
                upstream = await asyncio.open_connection("127.0.0.1", self._server_port)
                try:
                    await self._pass(reader, writer, *upstream)
                finally:
                    upstream[1].close()
        finally:
            self._pipes.discard(task)
            writer.close()

    async def _pass(
        self,
        client: asyncio.StreamReader,
        to_client: asyncio.StreamWriter,
        server: asyncio.StreamReader,
        to_server: asyncio.StreamWriter,
    ) -> None:
        lost = asyncio.Event()

        async def questions() -> None:
            while data := await client.read(_BUFFER):
                if self._left and data.endswith(_COMMIT):
                    self._left -= 1
                    self.done += 1
                    if self._kind is Cut.BEFORE:
                        return None
                    lost.set()
                to_server.write(data)
                await to_server.drain()
                if lost.is_set():
                    return await _answered(answering)
            return None

        async def answers() -> None:
            while data := await server.read(_BUFFER):
                if lost.is_set():
                    if _DONE in data:
                        return
                    continue
                to_client.write(data)
                await to_client.drain()

        answering = asyncio.ensure_future(answers())
        asking = asyncio.ensure_future(questions())
        try:
            await asyncio.wait({asking, answering}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (asking, answering):
                task.cancel()
            await asyncio.gather(asking, answering, return_exceptions=True)


async def _answered(answering: "asyncio.Future[None]") -> None:
    """Until the server has committed, so that what is stored does not depend on who is quicker."""
    await asyncio.wait({answering}, timeout=_ANSWER_S)
