"""One MCP server: its connection, which is opened when needed and again when it broke, and its tools."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from contextvars import Context
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import httpx2
import structlog

from manifests import schema_problem
from orchestrator.adapters.mcp_http import MAX_ANSWER_BYTES, Fault, current_fault, http_client
from orchestrator.core.chat import Tool
from servicekit.clock import Clock
from servicekit.errors import FailedPrecondition, ServiceError, Unavailable
from servicekit.span_wire import traceparent

if TYPE_CHECKING:
    from mcp import Client
    from mcp_types import CallToolResult
    from mcp_types import Tool as McpTool

log = structlog.get_logger()

Result = TypeVar("Result")
Transport = Literal["StreamableHTTP", "SSE"]

_OPEN_S = 10.0
_SSE_SILENCE_S = 300.0
_RETRY_S = 0.2
_RETRY_MAX_S = 5.0
_LIST_TTL_S = 60.0
_REFRESH_S = 5.0  # a list that is known from before is good enough after that
_MAX_PAGES = 20
_MAX_TOOLS = 512
_MAX_DESCRIPTION = 1024


class Refused(Exception):
    """The server answers, and will not do it; asking again does not help."""


@dataclass(slots=True, eq=False)
class _Link:
    """An open connection; closed when it is given up and nobody uses it any more."""

    client: "Client"
    closing: asyncio.Event
    users: int = 0
    broken: bool = False

    def close_if_unused(self) -> None:
        if self.broken and not self.users:
            self.closing.set()


@dataclass(slots=True, kw_only=True)
class _Listing:
    time: float
    tools: Mapping[str, "McpTool"]
    shown: dict[str, Tool | None] = field(default_factory=dict)


class Server:
    """Calls one server, for all runs of a namespace.

    Args:
        name: For messages.
        url: Its endpoint.
        transport: How it speaks.
        read_headers: What to send with each request. Raises LookupError if a secret is missing.
        group: Where connections live.
        clock: For times.
    """

    def __init__(
        self,
        *,
        name: str,
        url: str,
        transport: Transport,
        read_headers: Callable[[], Mapping[str, str]],
        group: asyncio.TaskGroup,
        clock: Clock,
    ) -> None:
        self._name = name
        self._url = url
        self._transport = transport
        self._read_headers = read_headers
        self._group = group
        self._clock = clock
        self._link: _Link | None = None
        self._opening = asyncio.Lock()
        self._listing = asyncio.Lock()
        self._listed: _Listing | None = None
        self._headers: Mapping[str, str] = {}
        self.used_at = clock.monotonic()
        self.calls = 0  # under way

    # --- what it offers ---------------------------------------------------------

    async def tools(self, allowed: Sequence[str], *, timeout_s: float) -> list[Tool]:
        """The allowed tools that it has, as of a minute ago at most unless it cannot be asked.

        Raises:
            Unavailable: It cannot be reached, and never could.
            FailedPrecondition: It refuses.
        """
        async with self._listing:
            listed = self._listed
            if listed is None or self._clock.monotonic() - listed.time > _LIST_TTL_S:
                try:
                    listed = await self._list(timeout_s if listed is None else min(timeout_s, _REFRESH_S))
                except ServiceError as error:
                    if listed is None:
                        raise
                    log.warning("mcp_tools_not_refreshed", server=self._name, error=error.message)
        return [tool for name in allowed if (tool := self._shown(listed, name)) is not None]

    async def _list(self, timeout_s: float) -> _Listing:
        async def pages(client: "Client") -> dict[str, "McpTool"]:
            found: dict[str, McpTool] = {}
            cursor: str | None = None
            for _ in range(_MAX_PAGES):
                page = await client.list_tools(cursor=cursor)
                found.update((tool.name, tool) for tool in page.tools)
                cursor = page.next_cursor
                if cursor is None or len(found) > _MAX_TOOLS:
                    break
            return found

        try:
            tools = await self.request(pages, timeout_s=timeout_s)
        except Refused as error:
            raise FailedPrecondition(
                f"MCP server {self._name}: {error}", reason="TOOL_FAILED", metadata={"server": self._name}
            ) from error
        self._listed = _Listing(time=self._clock.monotonic(), tools=tools)
        return self._listed

    def _shown(self, listed: _Listing, name: str) -> Tool | None:
        if name not in listed.shown:
            listed.shown[name] = self._converted(listed.tools.get(name), name)
        return listed.shown[name]

    def _converted(self, tool: "McpTool | None", name: str) -> Tool | None:
        if tool is None:
            log.warning("mcp_tool_missing", server=self._name, tool=name)
            return None
        problem = schema_problem(tool.input_schema)
        if problem:
            # No endpoint of a model would take it, nor any other tool beside it.
            log.warning("mcp_tool_left_out", server=self._name, tool=name, reason=f"its schema {problem}")
            return None
        description = tool.description or tool.title or name
        return Tool(name=name, description=description[:_MAX_DESCRIPTION], parameters=tool.input_schema)

    async def _heard(self, message: Any) -> None:
        """What the server sends unasked."""
        from mcp_types import ToolListChangedNotification  # noqa: PLC0415  lazily, as all of mcp

        if isinstance(message, ToolListChangedNotification):
            self._listed = None

    # --- calling it -----------------------------------------------------------------

    async def call(
        self, name: str, arguments: Mapping[str, object], *, key: str, timeout_s: float
    ) -> "CallToolResult":
        """Calls a tool. Raises Unavailable, Refused."""
        meta: Any = {"agentteams.dev/idempotency-key": key}
        if trace := traceparent():  # in the request: its HTTP headers are of whoever opened the session
            meta["traceparent"] = trace
        return await self.request(
            lambda client: client.call_tool(name, dict(arguments), meta=meta), timeout_s=timeout_s
        )

    async def request(self, work: "Callable[[Client], Awaitable[Result]]", *, timeout_s: float) -> Result:
        """Asks; again if the server is away, as long as there is time.

        Raises:
            Unavailable: It could not be reached, or did not answer in time.
            Refused: It answers that it will not.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        delay, why = _RETRY_S, ""
        self.used_at = self._clock.monotonic()
        self.calls += 1
        try:
            while True:
                try:
                    async with asyncio.timeout_at(deadline):
                        return await self._ask(work)
                except TimeoutError as error:
                    text = why or f"it did not answer within {timeout_s:g} s"
                    raise self._away(text) from error
                except _Again as error:
                    why = str(error)
                    if loop.time() + delay >= deadline:
                        raise self._away(why) from error
                await asyncio.sleep(delay * random.uniform(0.8, 1.2))
                delay = min(2 * delay, _RETRY_MAX_S)
        finally:
            self.calls -= 1

    async def _ask(self, work: "Callable[[Client], Awaitable[Result]]") -> Result:
        from mcp import MCPError  # noqa: PLC0415  lazily

        try:
            self._headers = self._read_headers()
        except LookupError as error:
            raise Refused(str(error)) from error
        fault = Fault()
        token = current_fault.set(fault)
        try:
            async with self._linked() as link:
                try:
                    return await work(link.client)
                except (MCPError, RuntimeError, ValueError) as error:
                    raise self._cause(error, fault, link) from error
        finally:
            current_fault.reset(token)

    def _cause(self, error: Exception, fault: Fault, link: _Link) -> Exception:
        """What a failed request means: try again on a new connection, or it is refused."""
        from mcp import MCPError  # noqa: PLC0415  lazily
        from mcp_types import CONNECTION_CLOSED  # noqa: PLC0415

        cut = isinstance(error, MCPError) and error.code == CONNECTION_CLOSED
        if fault.repeatable or fault.session_lost or (cut and not fault.text):
            link.broken = True
            return _Again(fault.text or "the connection broke")
        if fault.text:
            return Refused(fault.text)
        return Refused(f"it answers: {error}"[:500])

    def _away(self, why: str) -> Unavailable:
        return Unavailable(
            f"MCP server {self._name}: {why}", reason="TOOL_FAILED", metadata={"server": self._name}
        )

    # --- its connection ---------------------------------------------------------------

    @asynccontextmanager
    async def _linked(self) -> AsyncIterator[_Link]:
        async with self._opening:
            link = self._link
            if link is None or link.broken:
                link = self._link = await self._open()
        link.users += 1
        try:
            yield link
        finally:
            link.users -= 1
            link.close_if_unused()

    async def _open(self) -> _Link:
        opened: asyncio.Future[_Link] = asyncio.get_running_loop().create_future()
        self._group.create_task(self._keep_open(opened), context=Context())
        try:
            return await opened
        except asyncio.CancelledError:
            if opened.done() and not opened.cancelled() and opened.exception() is None:
                opened.result().closing.set()
            raise

    async def _keep_open(self, opened: "asyncio.Future[_Link]") -> None:
        """A connection's life. It has a task of its own: it must end where it began."""
        fault = Fault()
        current_fault.set(fault)
        link: _Link | None = None
        try:
            async with asyncio.timeout(_OPEN_S) as limit, self._connected() as client:
                limit.reschedule(None)
                link = _Link(client, asyncio.Event())
                if not opened.cancelled():
                    opened.set_result(link)
                    await link.closing.wait()
        except (Exception, BaseExceptionGroup) as error:  # noqa: BLE001  told to who waits for it
            why = f"it did not answer within {_OPEN_S:g} s" if isinstance(error, TimeoutError) else fault.text
            if not opened.done():
                again = fault.repeatable or not fault.text
                text = why or f"it does not speak MCP as it should ({type(error).__name__})"
                opened.set_exception(_Again(text) if again else Refused(text))
            else:
                log.warning("mcp_connection_lost", server=self._name, error=why or type(error).__name__)
        finally:
            opened.cancel()
            if link is not None:
                link.broken = True

    @asynccontextmanager
    async def _connected(self) -> "AsyncIterator[Client]":
        from mcp import Client  # noqa: PLC0415  30 MB, half a second: only where a team has such tools
        from mcp.client.sse import sse_client  # noqa: PLC0415
        from mcp.client.streamable_http import streamable_http_client  # noqa: PLC0415

        def http(
            headers: dict[str, str] | None = None,
            timeout: httpx2.Timeout | None = None,
            auth: httpx2.Auth | None = None,
        ) -> httpx2.AsyncClient:
            return http_client(lambda: self._headers)

        if self._transport == "SSE":
            streams = sse_client(self._url, httpx_client_factory=http, sse_read_timeout=_SSE_SILENCE_S)
            async with Client(streams, cache=None, message_handler=self._heard, mode="legacy") as client:
                yield client
            return
        async with http() as own:
            streams = streamable_http_client(self._url, http_client=own, max_sse_event_size=MAX_ANSWER_BYTES)
            async with Client(streams, cache=None, message_handler=self._heard) as client:
                yield client

    def close(self) -> None:
        """Ends the connection when nobody uses it any more."""
        if self._link is not None:
            self._link.broken = True
            self._link.close_if_unused()


class _Again(Exception):
    """Away for the moment."""
