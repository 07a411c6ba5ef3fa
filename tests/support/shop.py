"""A tool that cancels orders, for which somebody must be asked."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from manifests import ToolSource
from orchestrator.core.arguments import Arguments
from orchestrator.core.chat import Tool

SHOP = {
    "name": "shop",
    "mcp": {"url": "http://tools.example/mcp", "allowedTools": ["cancel"], "requireApproval": ["cancel"]},
}


@dataclass
class Shop:
    """A tool that remembers the keys of its calls, and can be made to take its time."""

    keys: list[str] = field(default_factory=list)
    gate: asyncio.Event | None = None

    async def offered(self, namespace: str, source: ToolSource) -> Sequence[Tool]:
        return [Tool(name="cancel", description="", parameters={"type": "object"})]

    async def call(
        self, namespace: str, source: ToolSource, name: str, arguments: Arguments, *, idempotency_key: str
    ) -> str:
        self.keys.append(idempotency_key)
        if self.gate is not None:
            await self.gate.wait()
        return "cancelled"
