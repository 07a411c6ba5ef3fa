"""Any OpenAI-compatible chat endpoint as the core's ChatModel.

Requests, connections and errors are the official client's; the stream's lines
are decoded here, because the client spends 5 ms of CPU on an answer of 43
chunks where msgspec spends 0.9 (docs/adr/0004-model-stream.md). Repeating a
request is the turn's business, so the client's own retries are off.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

import httpx2
import openai
from openai import AsyncOpenAI

from manifests import ModelConfig
from orchestrator.adapters.openai_stream import Assembly
from orchestrator.core.model import Completion, Prompt, TextPart, Tool
from servicekit.errors import (
    FailedPrecondition,
    Internal,
    ResourceExhausted,
    ServiceError,
    Unavailable,
)


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
        self._timeout_s = config.spec.limits.timeout_seconds
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
        self, messages: Sequence[Prompt], *, tools: Sequence[Tool], must_answer: bool
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
            body["tool_choice"] = "none" if must_answer else "auto"
        assembly = Assembly(name=self._name, model=self._model)
        try:
            async with self._client.chat.completions.with_streaming_response.create(**body) as response:
                assembly.check(response.headers.get("content-type", ""))
                async for data in response.iter_bytes():
                    for text in assembly.feed(data):
                        yield TextPart(text=text)
                    if assembly.done:
                        break
        except openai.APIError as error:
            raise self._translate(error) from error
        except (httpx2.TimeoutException, TimeoutError) as error:
            raise Unavailable(
                f"model {self._name} said nothing for {self._timeout_s} s",
                reason="MODEL_UNAVAILABLE",
                metadata={"model": self._name},
            ) from error
        except httpx2.HTTPError as error:
            raise Unavailable(
                f"the connection to model {self._name} broke: {str(error) or type(error).__name__}",
                reason="MODEL_UNAVAILABLE",
                metadata={"model": self._name},
            ) from error
        yield assembly.completion(prompt_chars=sum(len(prompt.content) for prompt in messages))

    def _translate(self, error: openai.APIError) -> ServiceError:
        metadata = {"model": self._name}
        if isinstance(error, openai.APITimeoutError):
            return Unavailable(
                f"model {self._name} did not answer within {self._timeout_s} s",
                reason="MODEL_UNAVAILABLE",
                metadata=metadata,
            )
        if isinstance(error, openai.APIConnectionError):
            return Unavailable(
                f"the endpoint of model {self._name} cannot be reached: {error.__cause__ or error}",
                reason="MODEL_UNAVAILABLE",
                metadata=metadata,
            )
        if not isinstance(error, openai.APIStatusError):
            return Internal(
                f"model {self._name} answered something unreadable: {error.message}",
                reason="MODEL_BAD_RESPONSE",
                metadata=metadata,
            )
        metadata["status"] = str(error.status_code)
        said = f"model {self._name} answered {error.status_code}: {_said(error)}"
        if error.status_code == 429:
            return ResourceExhausted(
                said, reason="MODEL_RATE_LIMITED", metadata=metadata, retry_after=_retry_after(error)
            )
        if error.status_code >= 500 or error.status_code in (408, 409):
            return Unavailable(
                said, reason="MODEL_UNAVAILABLE", metadata=metadata, retry_after=_retry_after(error)
            )
        return FailedPrecondition(said, reason="MODEL_REJECTED", metadata=metadata)


def _said(error: openai.APIStatusError) -> str:
    body = error.body
    if isinstance(body, Mapping):
        inner = body.get("error", body)
        if isinstance(inner, Mapping) and isinstance(inner.get("message"), str):
            return str(inner["message"])[:500]
    return error.response.reason_phrase or "no reason given"


def _retry_after(error: openai.APIStatusError) -> timedelta | None:
    value = error.response.headers.get("retry-after", "")
    try:
        return timedelta(seconds=float(value))
    except ValueError:
        return None  # absent, or a date: our own back-off then


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
