"""The HTTP application: routes, streaming, errors."""

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, TypeVar

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from localmodel.server.admission import Admission
from localmodel.server.engine import Engine, Event, Finished, Scored, TextDelta, Token, ToolDecision, Usage
from localmodel.server.errors import ApiError, invalid
from localmodel.server.wire import ChatRequest, parse_request

log = structlog.get_logger()

MAX_BODY_BYTES = 2_000_000
DEFAULT_MODEL_ALIAS = "default"

T = TypeVar("T")
Lifespan = Callable[[Starlette], AbstractAsyncContextManager[None]]


def build_app(
    *, model: str, engine: Engine, admission: Admission, lifespan: Lifespan | None = None
) -> Starlette:
    """Returns the application that serves `engine` under the name `model` (and `default`)."""
    handlers = _Handlers(model=model, engine=engine, admission=admission)
    return Starlette(
        routes=[
            Route("/healthz", handlers.health),
            Route("/v1/models", handlers.models),
            Route("/v1/chat/completions", handlers.chat, methods=["POST"]),
        ],
        exception_handlers={ApiError: _api_error, HTTPException: _http_error, Exception: _unexpected},
        lifespan=lifespan,
    )


class _Handlers:
    def __init__(self, *, model: str, engine: Engine, admission: Admission) -> None:
        self._model = model
        self._engine = engine
        self._admission = admission
        self._created = int(time.time())

    async def health(self, _request: Request) -> Response:
        self._engine.ready()
        return JSONResponse({"status": "ok", "model": self._model})

    async def models(self, _request: Request) -> Response:
        entry = {"id": self._model, "object": "model", "created": self._created, "owned_by": "agentteams"}
        return JSONResponse({"object": "list", "data": [entry]})

    async def chat(self, request: Request) -> Response:
        body = parse_request(await _read_body(request))
        if body.model not in {self._model, DEFAULT_MODEL_ALIAS}:
            raise ApiError(
                404,
                f"model {body.model!r} is not served here; use {self._model!r} or {DEFAULT_MODEL_ALIAS!r}",
                code="model_not_found",
                param="model",
            )
        self._engine.ready()
        answer = _Answer(model=self._model, request=body)
        async with AsyncExitStack() as stack:
            await _unless_gone(request, stack.enter_async_context(self._admission.slot()))
            events = await stack.enter_async_context(contextlib.aclosing(self._engine.answer(body)))
            if not body.stream:
                return JSONResponse(await _unless_gone(request, answer.whole(events)))
            # The first event decides the status: what fails before it is an error, not a broken stream.
            first = await _unless_gone(request, _first(events))
            return StreamingResponse(
                _closing(stack.pop_all(), answer.lines(first, events)), media_type="text/event-stream"
            )


class _Answer:
    """Turns events into OpenAI's JSON."""

    def __init__(self, *, model: str, request: ChatRequest) -> None:
        self._request = request
        self._head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}

    async def whole(self, events: AsyncIterator[Event]) -> dict[str, Any]:
        texts: list[str] = []
        logprobs: list[Any] = []
        calls: list[dict[str, Any]] = []
        scored: dict[str, Any] = {}
        end = Finished(reason="stop", usage=Usage())
        async for event in events:
            match event:
                case TextDelta():
                    texts.append(event.text)
                    logprobs += (event.logprobs or {}).get("content") or []
                case ToolDecision():
                    calls.append(_call(event))
                case Scored():
                    scored = {"prompt_logprobs": [_token(token) for token in event.tokens]}
                case Finished():
                    end = event
        message: dict[str, Any] = {"role": "assistant", "content": "".join(texts) if not calls else None}
        if calls:
            message["tool_calls"] = calls
        choice = {"index": 0, "message": message, "finish_reason": end.reason}
        choice["logprobs"] = {"content": logprobs} if logprobs else None
        body = {**self._head, "object": "chat.completion", "choices": [choice], "usage": _usage(end.usage)}
        return body | scored

    async def lines(self, first: Event, rest: AsyncIterator[Event]) -> AsyncIterator[bytes]:
        try:
            yield self._delta({"role": "assistant", "content": "" if isinstance(first, TextDelta) else None})
            for line in self._event(first):
                yield line
            async for event in rest:
                for line in self._event(event):
                    yield line
        except ApiError as exc:
            # The status is sent already; OpenAI's clients raise on a data line that holds an error.
            log.warning("stream_failed", code=exc.code, problem=exc.message)
            yield _line(exc.body())
            return
        yield b"data: [DONE]\n\n"

    def _event(self, event: Event) -> list[bytes]:
        match event:
            case TextDelta():
                return [self._delta({"content": event.text}, logprobs=event.logprobs)]
            case ToolDecision():
                call = {"index": 0, **_call(event)}
                arguments = call["function"]["arguments"]
                opening = {**call, "function": {**call["function"], "arguments": ""}}
                rest = {"index": 0, "function": {"arguments": arguments}}
                return [self._delta({"tool_calls": [opening]}), self._delta({"tool_calls": [rest]})]
            case Scored():
                raise AssertionError("no request has it streamed")
            case Finished():
                lines = [self._delta({}, reason=event.reason)]
                if self._request.stream_options.include_usage:
                    lines.append(self._chunk([], usage=_usage(event.usage)))
                return lines

    def _delta(
        self, delta: dict[str, Any], *, reason: str | None = None, logprobs: dict[str, Any] | None = None
    ) -> bytes:
        return self._chunk([{"index": 0, "delta": delta, "finish_reason": reason, "logprobs": logprobs}])

    def _chunk(self, choices: list[dict[str, Any]], usage: dict[str, Any] | None = None) -> bytes:
        chunk = {**self._head, "object": "chat.completion.chunk", "choices": choices}
        if self._request.stream_options.include_usage:
            chunk["usage"] = usage
        return _line(chunk)


async def _first(events: AsyncIterator[Event]) -> Event:
    return await anext(events)


async def _closing(stack: AsyncExitStack, lines: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async with stack:
        async for line in lines:
            yield line


async def _read_body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise ApiError(
                413, f"body: larger than {MAX_BODY_BYTES} bytes", code="body_too_large", param="body"
            )
    if not body:
        raise invalid("body: is empty; send a JSON object", param="body")
    return bytes(body)


async def _unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Runs `work` and cancels it when the client goes away, so that nobody generates for nobody."""
    task = asyncio.create_task(work)
    gone = asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ApiError(499, "the client went away", code="client_gone")
        return task.result()
    finally:
        for pending in (task, gone):
            pending.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _call(decision: ToolDecision) -> dict[str, Any]:
    function = {"name": decision.name, "arguments": decision.arguments_json()}
    return {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": function}


def _token(token: Token) -> dict[str, Any]:
    return {str(token.id): {"logprob": token.logprob, "decoded_token": token.text}}


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def _line(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


async def _api_error(_request: Request, exc: Exception) -> Response:
    assert isinstance(exc, ApiError)
    return JSONResponse(exc.body(), status_code=exc.status, headers=exc.headers())


async def _http_error(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)
    error = ApiError(
        exc.status_code, f"{request.method} {request.url.path}: {exc.detail}", code="unknown_url"
    )
    return JSONResponse(error.body(), status_code=error.status, headers=exc.headers)


async def _unexpected(request: Request, exc: Exception) -> Response:
    log.error("request_failed", path=request.url.path, exc_info=exc)
    error = ApiError(500, "internal error", code="internal_error")
    return JSONResponse(error.body(), status_code=500)
