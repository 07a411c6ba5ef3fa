"""The core's Tools: each source by its kind."""

from collections.abc import Sequence

from manifests import ToolSource
from orchestrator.adapters.mcp_tools import McpTools
from orchestrator.adapters.python_tools import PythonTools
from orchestrator.core.arguments import Arguments
from orchestrator.core.chat import Tool


class ToolSources:
    """MCP servers and Python modules."""

    def __init__(self, *, mcp: McpTools, python: PythonTools) -> None:
        self._mcp = mcp
        self._python = python

    async def offered(self, namespace: str, source: ToolSource) -> Sequence[Tool]:
        """See Tools."""
        if source.mcp is not None:
            return await self._mcp.offered(namespace, source, source.mcp)
        if source.python is not None:
            return await self._python.offered(source, source.python)
        return ()

    async def call(
        self, namespace: str, source: ToolSource, name: str, arguments: Arguments, *, idempotency_key: str
    ) -> str:
        """See Tools."""
        if source.mcp is not None:
            return await self._mcp.call(
                namespace, source, source.mcp, name=name, arguments=arguments, key=idempotency_key
            )
        if source.python is not None:
            return await self._python.call(
                source, source.python, name=name, arguments=arguments, key=idempotency_key
            )
        raise AssertionError(f"{source.name} offers nothing")
