"""Tools that a team's manifest names: what the core needs of the world for them."""

from collections.abc import Sequence
from typing import Protocol

from manifests import ToolSource
from orchestrator.core.arguments import Arguments
from orchestrator.core.chat import Tool
from servicekit.errors import FailedPrecondition, ServiceError


class ToolFailed(Exception):
    """A tool could not do what it was called for; the text tells the model, which may do something else.

    Attributes:
        error: For the log, and for the run if it fails for it in the end.
    """

    def __init__(self, text: str, error: ServiceError) -> None:
        super().__init__(text)
        self.error = error


class Tools(Protocol):
    """MCP servers and Python modules."""

    async def offered(self, namespace: str, source: ToolSource) -> Sequence[Tool]:
        """What agents may call of a source.

        Raises:
            Unavailable: TOOL_FAILED: it cannot be asked.
            FailedPrecondition: TOOL_FAILED: it refuses, or this process does not allow it.
        """
        ...

    async def call(
        self, namespace: str, source: ToolSource, name: str, arguments: Arguments, *, idempotency_key: str
    ) -> str:
        """What a tool returned. `idempotency_key` tells it that a call was made before.

        Raises:
            ToolFailed: It could not be reached, or says that it failed.
        """
        ...


class NoTools:
    """Where nothing is wired."""

    async def offered(self, namespace: str, source: ToolSource) -> Sequence[Tool]:
        """See Tools."""
        raise FailedPrecondition(f"tools {source.name}: this process calls no tools", reason="TOOL_FAILED")

    async def call(
        self, namespace: str, source: ToolSource, name: str, arguments: Arguments, *, idempotency_key: str
    ) -> str:
        """See Tools."""
        raise AssertionError("nothing is offered")
