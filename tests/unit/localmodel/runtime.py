"""A scripted model runtime and our server in front of it, both real HTTP servers on loopback."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

Reply = str | Response | Callable[[], AsyncIterator[bytes]]


@dataclass
class FakeRuntime:
    """Answers from a list of replies, in order; keeps the bodies that it was sent."""

    replies: list[Reply] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
                Route("/tokenize", self._tokenize, methods=["POST"]),
            ]
        )

    async def _tokenize(self, request: Request) -> Response:
        """A token a character."""
        body = await request.json()
        self.bodies.append(body)
        return JSONResponse({"tokens": [ord(char) for char in body["content"]]})

    async def _chat(self, request: Request) -> Response:
        body = await request.json()
        self.bodies.append(body)
        reply = self.replies.pop(0)
        if isinstance(reply, Response):
            return reply
        if not isinstance(reply, str):
            return StreamingResponse(reply(), media_type="text/event-stream")
        usage = {"prompt_tokens": 10, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 8}}
        if not body["stream"]:
            choice = {"index": 0, "message": {"role": "assistant", "content": reply}, "finish_reason": "stop"}
            return JSONResponse({"choices": [choice], "usage": usage})
        return StreamingResponse(_chunks(reply, usage), media_type="text/event-stream")


async def _chunks(text: str, usage: dict[str, Any]) -> AsyncIterator[bytes]:
    for piece in text.split(" "):
        yield sse({"choices": [{"index": 0, "delta": {"content": f"{piece} "}, "finish_reason": None}]})
    yield sse({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    yield sse({"choices": [], "usage": usage})
    yield b"data: [DONE]\n\n"


def forced(text: str) -> Response:
    """Returns the answer to a grammar that allows only this text; each token is as likely as its place."""
    content = [{"id": ord(char), "token": char, "logprob": -float(n)} for n, char in enumerate(text)]
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "length"}
    usage = {"prompt_tokens": 10, "completion_tokens": len(text)}
    return JSONResponse({"choices": [choice | {"logprobs": {"content": content}}], "usage": usage})


def sse(value: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(value)}\n\n".encode()


@contextlib.asynccontextmanager
async def serving(app: Starlette) -> AsyncIterator[str]:
    """Serves an application and yields its address."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    server = uvicorn.Server(
        uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=1)
    )
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task
        listener.close()
