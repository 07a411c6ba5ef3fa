"""The HTTP/1.1 half of the stand-in: parsing by httptools, writing by hand, cuts on demand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import cast

import httptools
import msgspec

_MAX_BODY_BYTES = 32 * 1024 * 1024
_PHRASES = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 429: "Too Many Requests"}


class Refused(Exception):
    """Answer with an error in OpenAI's shape."""

    def __init__(self, status: int, message: str, *, code: str = "", param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param


class HttpConnection(asyncio.Protocol):
    """One HTTP/1.1 connection: keep-alive, requests one after the other."""

    def __init__(
        self, *, opened: Callable[[HttpConnection], None], closed: Callable[[HttpConnection], None]
    ) -> None:
        self._opened, self._closed = opened, closed
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None
        self._start()

    def _start(self) -> None:
        self._url = b""
        self._headers: dict[str, str] = {}
        self._body = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclass of asyncio.Transport.
        self._transport = cast("asyncio.Transport", transport)
        self._opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed(self)
        self._transport = None
        if self._task is not None:
            self._task.cancel()

    def abort(self) -> asyncio.Task[None] | None:
        if self._transport is not None:
            self._transport.abort()
        return self._task

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.abort()

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._body += body
        if len(self._body) > _MAX_BODY_BYTES:
            self.abort()

    def on_message_complete(self) -> None:
        path = httptools.parse_url(self._url).path.decode()
        method = self._parser.get_method().decode()
        before, keep = self._task, self._parser.should_keep_alive()
        work = self._in_turn(before, keep, self.serve(method, path, self._headers, bytes(self._body)))
        self._task = asyncio.get_running_loop().create_task(work)
        self._start()

    async def _in_turn(
        self, before: asyncio.Task[None] | None, keep: bool, work: Coroutine[None, None, None]
    ) -> None:
        if before is not None:
            await before
        await work
        if not keep:
            self.cut()

    async def serve(self, method: str, path: str, headers: Mapping[str, str], raw: bytes) -> None:
        """Answers one request."""
        raise NotImplementedError

    def cut(self) -> None:
        # close() flushes what was written first; the peer sees an unfinished
        # body, which is what a proxy that dies in the middle looks like.
        if self._transport is not None:
            self._transport.close()

    def write(self, data: bytes) -> None:
        if self._transport is None:
            raise ConnectionResetError("the client went away")
        self._transport.write(data)

    def write_chunk(self, data: bytes) -> None:
        self.write(b"%x\r\n%b\r\n" % (len(data), data))

    def send(
        self,
        status: int,
        payload: bytes,
        *,
        content_type: str = "application/json",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        fields = {"content-type": content_type, "content-length": str(len(payload)), **(headers or {})}
        self.write(head(status, fields) + payload)

    def send_json(self, status: int, value: object) -> None:
        self.send(status, msgspec.json.encode(value))

    def send_error(self, refused: Refused, headers: Mapping[str, str] | None = None) -> None:
        kind = "server_error" if refused.status >= 500 else "invalid_request_error"
        error = {
            "message": refused.message,
            "type": kind,
            "param": refused.param,
            "code": refused.code or None,
        }
        self.send(refused.status, msgspec.json.encode({"error": error}), headers=headers)


def head(status: int, fields: Mapping[str, str]) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status} {_PHRASES.get(status, 'Status')}\r\n{lines}\r\n".encode("latin-1")
