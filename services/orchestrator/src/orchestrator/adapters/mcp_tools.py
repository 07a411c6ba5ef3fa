"""MCP servers that manifests name: one connection for each namespace and server."""

import asyncio
import importlib
import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from manifests import HeaderFrom, McpServer, ToolSource
from manifests.endpoints import Secrets
from orchestrator.adapters.mcp_server import Refused, Server, Transport
from orchestrator.core import prompts
from orchestrator.core.arguments import Arguments
from orchestrator.core.chat import Tool
from orchestrator.core.tools import ToolFailed
from servicekit.clock import Clock
from servicekit.errors import FailedPrecondition, PermissionDenied, ServiceError, Unavailable

if TYPE_CHECKING:
    from mcp_types import CallToolResult

_MAX_SERVERS = 64
_IDLE_S = 600.0
_MAX_TEXT = 64_000  # of a result; the core cuts it to what a model is given
_Key = tuple[str, str, Transport, tuple[HeaderFrom, ...]]


class McpTools:
    """Calls the tools of MCP servers.

    Args:
        secrets: What headers are taken from.
        clock: For times.
    """

    def __init__(self, *, secrets: Secrets, clock: Clock) -> None:
        self._secrets = secrets
        self._clock = clock
        self._servers: OrderedDict[_Key, Server] = OrderedDict()
        self._group: asyncio.TaskGroup | None = None

    async def work(self) -> None:
        """Carries the connections for the process' life."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            await asyncio.Event().wait()

    async def offered(self, namespace: str, source: ToolSource, mcp: McpServer) -> Sequence[Tool]:
        """See Tools."""
        server = await self._server(namespace, source.name, mcp)
        return await server.tools(mcp.allowed_tools, timeout_s=mcp.timeout_seconds)

    async def call(
        self, namespace: str, source: ToolSource, mcp: McpServer, *, name: str, arguments: Arguments, key: str
    ) -> str:
        """See Tools."""
        if name not in mcp.allowed_tools:
            denied = PermissionDenied(
                f"tool {name} is not in allowedTools of {source.name}", reason="PERMISSION_DENIED"
            )
            raise ToolFailed(prompts.tool_away(name, "it is not allowed"), denied)
        server = await self._server(namespace, source.name, mcp)
        try:
            result = await server.call(name, arguments, key=key, timeout_s=mcp.timeout_seconds)
        except Refused as error:
            why = str(error)
            raise ToolFailed(prompts.tool_away(name, why), _failed(source, name, why)) from error
        except Unavailable as error:
            raise ToolFailed(prompts.tool_away(name, error.message), error) from error
        text = _text(result)
        if result.is_error:
            raise ToolFailed(prompts.tool_error(name, text), _failed(source, name, "it reports an error"))
        return text

    async def _server(self, namespace: str, name: str, mcp: McpServer) -> Server:
        if self._group is None:
            raise Unavailable("the process is starting; ask again", reason="TOOL_FAILED")
        key = (namespace, _url(namespace, mcp), mcp.transport, mcp.headers_from)
        server = self._servers.get(key)
        if server is None:
            await asyncio.to_thread(_load)
            server = self._servers.get(key)
        if server is None:
            server = self._servers[key] = Server(
                name=name,
                url=key[1],
                transport=mcp.transport,
                read_headers=lambda: self._headers(namespace, mcp.headers_from),
                group=self._group,
                clock=self._clock,
            )
        self._servers.move_to_end(key)
        self._trim()
        return server

    def _headers(self, namespace: str, sources: Sequence[HeaderFrom]) -> Mapping[str, str]:
        return {h.name: self._secrets.read(namespace, h.value_from.secret_key_ref) for h in sources}

    def _trim(self) -> None:
        """Closes what nobody has used for a while, and the longest unused where there are too many."""
        idle_since = self._clock.monotonic() - _IDLE_S
        too_many = len(self._servers) - _MAX_SERVERS
        for key, server in list(self._servers.items())[:-1]:
            if not server.calls and (server.used_at < idle_since or too_many > 0):
                self._servers.pop(key).close()
                too_many -= 1


def _load() -> None:
    """Half a second of imports, not on the event loop."""
    importlib.import_module("mcp.client.sse")
    importlib.import_module("mcp.client.streamable_http")
    # It would log what servers sent.
    logging.getLogger("mcp").setLevel(logging.CRITICAL)
    logging.getLogger("client").setLevel(logging.CRITICAL)


def _url(namespace: str, mcp: McpServer) -> str:
    if mcp.service_ref is not None:
        service = mcp.service_ref
        return f"http://{service.name}.{namespace}.svc:{service.port}{service.path}"
    if mcp.url is None:
        raise AssertionError("a manifest has one of url and serviceRef")
    return mcp.url


def _failed(source: ToolSource, name: str, why: str) -> ServiceError:
    return FailedPrecondition(
        f"tool {name} of {source.name}: {why}",
        reason="TOOL_FAILED",
        metadata={"tool": name, "server": source.name},
    )


def _text(result: "CallToolResult") -> str:
    """The text of a result, and what it holds besides."""
    parts: list[str] = []
    size = 0
    for part in result.content:
        resource = getattr(part, "resource", None)
        text = getattr(part, "text", None) or getattr(resource, "text", None)
        if text is None:
            text = f"[{part.type} left out: only text is read]"
        parts.append(text)
        size += len(text)
        if size > _MAX_TEXT:
            break
    if not parts and result.structured_content is not None:
        parts.append(msgspec.json.encode(result.structured_content).decode())
    return "\n".join(parts)[: _MAX_TEXT + 1]
