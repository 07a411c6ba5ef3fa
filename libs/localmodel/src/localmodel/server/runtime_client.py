"""HTTP to the runtime: one chat completion, streamed or whole."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import aiohttp

from localmodel.server.engine import TextDelta, Token, Usage
from localmodel.server.errors import ApiError, invalid, runtime_unavailable
from localmodel.server.supervisor import Address
from localmodel.server.wire import MAX_COMPLETION_TOKENS

# Without a byte for this long the runtime hangs; 4096 tokens of prefill take 50 s, more on a busy machine.
SILENCE_TIMEOUT = timedelta(minutes=5)
CONNECT_TIMEOUT = timedelta(seconds=5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a streamed completion ended."""

    reason: str
    usage: Usage


class RuntimeClient:
    """Speaks to whatever runtime `address` names at that moment; an async context manager."""

    def __init__(
        self,
        *,
        address: Callable[[], Address],
        silence_timeout: timedelta = SILENCE_TIMEOUT,
    ) -> None:
        self._address = address
        self._session: aiohttp.ClientSession | None = None
        self._timeout = aiohttp.ClientTimeout(
            total=None,
            sock_connect=CONNECT_TIMEOUT.total_seconds(),
            sock_read=silence_timeout.total_seconds(),
        )

    async def __aenter__(self) -> "RuntimeClient":
        self._session = aiohttp.ClientSession()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    def ready(self) -> None:
        """Raises ApiError 503 if there is no runtime now."""
        self._address()

    async def complete(self, body: dict[str, Any]) -> tuple[str, Ending]:
        """Returns the text of a whole completion.

        Raises:
            ApiError: the runtime is gone (503), silent (504), or refuses the body (400).
        """
        async with self._post({**body, "stream": False}) as response:
            value = await response.json(loads=json.loads)
        choice = value["choices"][0]
        return choice["message"].get("content") or "", Ending(
            reason=choice["finish_reason"], usage=_usage(value.get("usage"))
        )

    async def score(self, body: dict[str, Any], text: str) -> tuple[tuple[Token, ...], Usage]:
        """Returns how likely each token of `text` is as the answer to `body`.

        The runtime gives no log-probabilities of prompts. So it writes the text under a grammar that allows
        these tokens alone, and says how likely each was before the grammar.

        Raises:
            ApiError: as `complete`; also when the runtime does not write that text.
        """
        # Marks of the chat template that stand in the text are text.
        plain = {"content": text, "add_special": False, "parse_special": False}
        async with self._post(plain, path="/tokenize") as response:
            wanted = (await response.json(loads=json.loads))["tokens"]
        if len(wanted) > MAX_COMPLETION_TOKENS:
            what = f"messages: the text to score has {len(wanted)} tokens, at most {MAX_COMPLETION_TOKENS}"
            raise invalid(what, param="messages", code="context_length_exceeded")
        forced = {
            "grammar": "root ::= " + " ".join(f"<[{token}]>" for token in wanted),
            "max_tokens": len(wanted),
            "temperature": 0,
            "logprobs": True,
            "top_logprobs": 1,
            "stream": False,
        }
        async with self._post(body | forced) as response:
            value = await response.json(loads=json.loads)
        written = (value["choices"][0].get("logprobs") or {}).get("content") or []
        if len(written) < len(wanted):
            what = "messages: with the text to score longer than the context of the model"
            raise invalid(what, param="messages", code="context_length_exceeded")
        if [token.get("id") for token in written] != wanted:
            raise ApiError(
                502, "the model runtime did not score the text that was given", code="model_failed"
            )
        usage = _usage(value.get("usage"))
        prompt = usage.prompt_tokens + usage.completion_tokens
        tokens = tuple(Token(id=one["id"], text=one["token"], logprob=one["logprob"]) for one in written)
        return tokens, Usage(prompt_tokens=prompt, cached_tokens=usage.cached_tokens)

    async def stream(self, body: dict[str, Any]) -> AsyncIterator[TextDelta | Ending]:
        """Yields pieces of text, then how it ended.

        Raises:
            ApiError: as `complete`; also when the stream is cut.
        """
        reason, usage, complete = "stop", Usage(), False
        async with self._post(
            {**body, "stream": True, "stream_options": {"include_usage": True}}
        ) as response:
            async for line in response.content:
                if not line.startswith(b"data:"):
                    continue
                data = line[5:].strip()
                if data == b"[DONE]":
                    complete = True
                    break
                value = json.loads(data)
                if "error" in value:
                    raise _refused(500, value)
                if value.get("usage"):
                    usage = _usage(value["usage"])
                for choice in value.get("choices", ()):
                    reason = choice.get("finish_reason") or reason
                    if text := choice["delta"].get("content"):
                        yield TextDelta(text=text, logprobs=choice.get("logprobs"))
        if not complete:
            raise runtime_unavailable("the model runtime ended in the middle of the answer")
        yield Ending(reason=reason, usage=usage)

    @asynccontextmanager
    async def _post(
        self, body: dict[str, Any], *, path: str = "/v1/chat/completions"
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        address = self._address()
        if self._session is None:
            raise RuntimeError("RuntimeClient is used outside of its context")
        try:
            async with self._session.post(
                f"{address.url}{path}",
                json=body,
                headers={"authorization": f"Bearer {address.key}"},
                timeout=self._timeout,
            ) as response:
                if response.status != 200:
                    raise _refused(response.status, await response.json(content_type=None))
                yield response
        except TimeoutError as exc:
            raise ApiError(
                504, "the model runtime gave no sign of life in time", code="model_timeout"
            ) from exc
        except (aiohttp.ClientError, ConnectionError, ValueError) as exc:
            raise runtime_unavailable(f"the model runtime ended in the middle of the call ({exc})") from exc


def _usage(value: dict[str, Any] | None) -> Usage:
    value = value or {}
    return Usage(
        prompt_tokens=value.get("prompt_tokens", 0),
        completion_tokens=value.get("completion_tokens", 0),
        cached_tokens=(value.get("prompt_tokens_details") or {}).get("cached_tokens", 0),
    )


def _refused(status: int, value: Any) -> ApiError:
    error = value.get("error", value) if isinstance(value, dict) else {}
    message = str(error.get("message", value)) if isinstance(error, dict) else str(error)
    if isinstance(error, dict) and error.get("type") == "exceed_context_size_error":
        return invalid(f"messages: {message}", param="messages", code="context_length_exceeded")
    if status == 503:
        return runtime_unavailable(f"the model runtime is not ready: {message}")
    if 400 <= status < 500:
        return ApiError(400, f"the model runtime refuses the request: {message}", code="invalid_value")
    return ApiError(502, f"the model runtime failed: {message}", code="model_failed")
