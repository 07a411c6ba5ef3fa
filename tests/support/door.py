"""The gateway over HTTP with a scripted orchestrator behind it, and its clients."""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionChunk

from servicekit.errors import Unavailable
from tests.support.fake_orchestrator import FakeOrchestrator
from tests.support.gateway import Gateway, serve_gateway

MODEL_DOWN = Unavailable("the model's endpoint does not answer", reason="MODEL_UNAVAILABLE")
QUESTION: list[Any] = [{"role": "user", "content": "Hi?"}]


class Door:
    """An orchestrator, a gateway before it, and clients."""

    def __init__(self, stack: AsyncExitStack, orchestrator: FakeOrchestrator) -> None:
        self.orchestrator = orchestrator
        self._stack = stack
        self.gateway: Gateway
        self.http: httpx.AsyncClient

    async def open(self, target: str = "", *, api_key: str = "none", **options: Any) -> AsyncOpenAI:
        """Starts the gateway (before a running orchestrator) and returns a client."""
        where = target or await self._stack.enter_async_context(self.orchestrator.serve())
        self.gateway = await self._stack.enter_async_context(serve_gateway(where, **options))
        self.http = await self._stack.enter_async_context(httpx.AsyncClient(base_url=self.gateway.url))
        return await self.client(api_key=api_key)

    async def client(self, *, api_key: str) -> AsyncOpenAI:
        """Another client."""
        client = AsyncOpenAI(base_url=f"{self.gateway.url}/v1", api_key=api_key, max_retries=0, timeout=20.0)
        return await self._stack.enter_async_context(client)

    async def post(self, body: object, **headers: str) -> httpx.Response:
        """A raw request."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        merged = {"content-type": "application/json"} | {k.replace("_", "-"): v for k, v in headers.items()}
        return await self.http.post("/v1/chat/completions", content=content, headers=merged)


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    async with AsyncExitStack() as stack:
        yield Door(stack, FakeOrchestrator())


async def stream_chunks(client: AsyncOpenAI, **more: Any) -> list[ChatCompletionChunk]:
    stream = await client.chat.completions.create(
        model="support", messages=more.pop("messages", QUESTION), stream=True, **more
    )
    return [chunk async for chunk in stream]


def text_of(chunks: list[ChatCompletionChunk]) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def extra_of(answered: Any) -> dict[str, Any]:
    extra = answered.model_extra["agentteams"]
    assert isinstance(extra, dict)
    return extra


def error_of(response: httpx.Response) -> dict[str, Any]:
    body = response.json()
    assert set(body) == {"error"}
    assert {"message", "type", "param", "code"} <= set(body["error"])
    return dict(body["error"])
