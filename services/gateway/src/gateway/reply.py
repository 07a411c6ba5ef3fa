"""One response over ASGI, streamed or whole, and whoever waits for it."""

import asyncio

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.core.errors import ApiError
from gateway.core.render import KEEP_ALIVE, error_event
from gateway.http import ClientGone, error_response

# Who does not read the end of a stream for this long is not there any more.
_END_TIMEOUT_S = 5.0


class Reply:
    """Writes are passed on as they are: no queue, no task for each."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.headers = Headers(scope=scope)
        self.receive = receive
        self.streaming = False
        self._scope = scope
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._last_write = 0.0
        self._writing = False
        self._ended = False

    async def watch(self, keep_alive_s: float) -> None:
        """Waits for the client to hang up; says "still here" when a stream is silent for long.

        Raises:
            ClientGone: It has hung up.
        """
        self._last_write = self._loop.time()
        while True:
            try:
                async with asyncio.timeout_at(self._last_write + keep_alive_s):
                    message = await self.receive()
            except TimeoutError:
                silent_s = self._loop.time() - self._last_write
                if silent_s >= keep_alive_s:
                    if self.streaming and not self._writing:
                        await self.write(KEEP_ALIVE)
                    self._last_write = self._loop.time()
                continue
            if message["type"] == "http.disconnect":
                raise ClientGone

    async def whole(self, response: Response) -> None:
        """Sends a complete response."""
        self._ended = True
        await response(self._scope, self.receive, self._send)

    async def error(self, error: ApiError) -> None:
        """Ends the response with an error, in whichever form it has begun."""
        if self.streaming:
            await self.end_stream(error_event(error))
        elif not self._ended:
            await self.whole(error_response(error))

    async def begin_stream(self, headers: dict[str, str], first: bytes) -> None:
        """Sends the status line, headers and the first bytes."""
        self.streaming = True
        fixed = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-cache"),
            # Proxies such as nginx would hold the pieces back.
            (b"x-accel-buffering", b"no"),
        ]
        own = [(name.encode(), value.encode()) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": 200, "headers": fixed + own})
        await self.write(first)

    async def write(self, data: bytes) -> None:
        """Sends a piece; waits while the client does not read."""
        self._writing = True
        await self._send({"type": "http.response.body", "body": data, "more_body": True})
        self._writing = False
        self._last_write = self._loop.time()

    async def end_stream(self, data: bytes) -> None:
        """Sends the last piece. Raises: ClientGone if it is not taken."""
        self._ended = True
        try:
            async with asyncio.timeout(_END_TIMEOUT_S):
                await self._send({"type": "http.response.body", "body": data, "more_body": False})
        except TimeoutError as error:
            raise ClientGone from error
