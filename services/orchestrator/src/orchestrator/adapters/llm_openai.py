"""Any OpenAI-compatible chat endpoint as the core's ChatModel.

Requests, connections and errors are the official client's; the stream's lines
are decoded here, because the client spends 5 ms of CPU on an answer of 43
chunks where msgspec spends 0.9 (docs/adr/0004-model-stream.md). Repeating a
request is the turn's business, so the client's own retries are off.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing, suppress
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, cast

import aiohttp
import httpx2
import msgspec
import openai
import structlog
from openai import AsyncOpenAI, AsyncStream

from manifests import ModelConfig
from orchestrator.adapters.openai_stream import Assembly
from orchestrator.core.chat import Completion, Prompt, TextPart, Tool
from orchestrator.core.structured import ANY_OBJECT, Schema
from servicekit.errors import (
    FailedPrecondition,
    Internal,
    ResourceExhausted,
    ServiceError,
    Unavailable,
)
from servicekit.span_wire import traceparent

log = structlog.get_logger()

# What endpoints say of a prompt that is longer than the model reads.
_TOO_LONG = re.compile(r"context[ _](?:length|window|size)", re.IGNORECASE)
_END_S = 0.05  # a connection that stays open longer after the answer is not worth the wait


class OpenAIChatModel:
    """One model at one endpoint.

    Args:
        client: Holds the connections; the owner closes it.
        model: The model's name at the endpoint.
        config: Its parameters and limits.
    """

    def __init__(self, *, client: AsyncOpenAI, model: str, config: ModelConfig) -> None:
        self._client = client
        self._model = model
        self._name = config.metadata.name
        self._idle_s = idle_s(config)
        parameters = config.spec.parameters
        self._options: dict[str, object] = {
            key: value
            for key, value in (
                ("temperature", None if parameters.temperature is None else float(parameters.temperature)),
                ("top_p", None if parameters.top_p is None else float(parameters.top_p)),
                ("max_tokens", parameters.max_output_tokens),
                ("seed", parameters.seed),
            )
            if value is not None
        }

    async def stream(
        self,
        messages: Sequence[Prompt],
        *,
        tools: Sequence[Tool],
        must_answer: bool,
        answer_schema: Schema | None = None,
    ) -> AsyncIterator[TextPart | Completion]:
        """See ChatModel."""
        body: dict[str, Any] = {
            "model": self._model,
            "messages": [_message(prompt) for prompt in messages],
            "stream": True,
            "stream_options": {"include_usage": True},
            **self._options,
        }
        if tools:
            body["tools"] = [_tool(tool) for tool in tools]
            may_answer = not any(tool.required for tool in tools)
            body["tool_choice"] = "none" if must_answer else "auto" if may_answer else "required"
        if answer_schema is not None:
            body["response_format"] = _response_format(answer_schema)
        assembly = Assembly(name=self._name, model=self._model)
        try:
            response = await self._post(body)
            async with aclosing(response):
                assembly.check(response.headers.get("content-type", ""))
                pieces = response.aiter_bytes()
                async for data in pieces:
                    for text in assembly.feed(data):
                        yield TextPart(text=text)
                    if assembly.done:
                        break
                await _read_to_end(pieces)
        except openai.APIStatusError as error:
            raise self._translate(error) from error
        except (openai.APIConnectionError, httpx2.HTTPError, aiohttp.ClientError, OSError) as error:
            raise self._unavailable(error) from error
        except openai.APIError as error:
            raise Internal(
                f"model {self._name} answered something unreadable: {error.message}",
                reason="MODEL_BAD_RESPONSE",
                metadata={"model": self._name},
            ) from error
        yield assembly.completion(prompt_chars=sum(len(prompt.content) for prompt in messages))

    async def _post(self, body: dict[str, Any]) -> httpx2.Response:
        # post() rather than chat.completions.create(): the same request without a walk through the
        # type hints of every parameter, which costs as much CPU as all the rest of it.
        trace = traceparent()  # and nothing else: the endpoint is not ours
        request = self._client.post(
            "/chat/completions",
            cast_to=httpx2.Response,
            content=msgspec.json.encode(body),
            options={"headers": {"traceparent": trace}} if trace else {},
            stream=True,
            stream_cls=AsyncStream[object],
        )
        try:
            return cast(httpx2.Response, await request)  # cast_to wins over stream_cls
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            if "response_format" not in body:
                raise
            # Perhaps it cannot do that: the prompt asks for the form too, and the answer is checked.
            log.info("response_format_refused", model=self._name, said=_said(error))
            return await self._post({key: body[key] for key in body if key != "response_format"})

    def _unavailable(self, error: BaseException) -> Unavailable:
        """What broke below HTTP. Only the first cause tells: a refused connection comes up as a timeout."""
        while error.__cause__ is not None:
            error = error.__cause__
        if isinstance(error, TimeoutError | httpx2.TimeoutException):
            what = f"model {self._name} said nothing for {self._idle_s} s (limits.idleTimeoutSeconds)"
        else:
            reason = " ".join(str(error).split()) or type(error).__name__
            what = f"no answer from the endpoint of model {self._name}: {reason}"
        return Unavailable(what, reason="MODEL_UNAVAILABLE", metadata={"model": self._name})

    def _translate(self, error: openai.APIStatusError) -> ServiceError:
        metadata = {"model": self._name, "status": str(error.status_code)}
        said = f"model {self._name} answered {error.status_code}: {_said(error)}"
        if error.status_code == 429:
            return ResourceExhausted(
                said, reason="MODEL_RATE_LIMITED", metadata=metadata, retry_after=_retry_after(error)
            )
        if error.status_code >= 500 or error.status_code in (408, 409):
            return Unavailable(
                said, reason="MODEL_UNAVAILABLE", metadata=metadata, retry_after=_retry_after(error)
            )
        if _TOO_LONG.search(said):
            said += f" (set contextTokens of ModelConfig {self._name}: prompts are made to fit then)"
        return FailedPrecondition(said, reason="MODEL_REJECTED", metadata=metadata)


def idle_s(config: ModelConfig) -> int:
    """Longest silence within a request, in seconds."""
    limits = config.spec.limits
    return min(limits.idle_timeout_seconds, limits.timeout_seconds)


def _response_format(schema: Schema) -> dict[str, object]:
    if schema == ANY_OBJECT:
        return {"type": "json_object"}  # known to more endpoints than schemas are
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


def _said(error: openai.APIStatusError) -> str:
    body = error.body
    if isinstance(body, Mapping):
        inner = body.get("error", body)
        if isinstance(inner, Mapping) and isinstance(inner.get("message"), str):
            return str(inner["message"])[:500]
    return error.response.reason_phrase or "no reason given"


def _retry_after(error: openai.APIStatusError) -> timedelta | None:
    """What the endpoint asks for: seconds, a date, or milliseconds in a header of OpenAI's."""
    headers = error.response.headers
    after = headers.get("retry-after", "")
    try:
        if milliseconds := headers.get("retry-after-ms"):
            wait = timedelta(milliseconds=float(milliseconds))
        elif after.endswith("GMT"):
            wait = parsedate_to_datetime(after) - datetime.now(UTC)
        else:
            wait = timedelta(seconds=float(after))
    except (ValueError, OverflowError):
        return None  # absent, or nonsense: our own back-off then
    return max(wait, timedelta())


async def _read_to_end(pieces: AsyncIterator[bytes]) -> None:
    """Reads what follows the answer, usually nothing: a connection with a rest cannot be used again."""
    with suppress(TimeoutError, httpx2.HTTPError, aiohttp.ClientError):
        async with asyncio.timeout(_END_S):
            async for _ in pieces:
                pass


def _message(prompt: Prompt) -> dict[str, object]:
    message: dict[str, object] = {"role": prompt.role, "content": prompt.content}
    if prompt.tool_calls:
        message["tool_calls"] = [
            {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": c.arguments}}
            for c in prompt.tool_calls
        ]
    if prompt.tool_call_id:
        message["tool_call_id"] = prompt.tool_call_id
    return message


def _tool(tool: Tool) -> dict[str, object]:
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": function}
